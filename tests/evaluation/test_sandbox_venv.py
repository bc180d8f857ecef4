"""The sandbox that needs no engine: built from exact requirements, with the user's own pip settings."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lerobot_ops.errors import ConfigError, PrerequisiteError, SandboxError
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox, venv
from lerobot_ops.evaluation.sandbox.leftovers import prune_cache
from lerobot_ops.evaluation.sandbox.recipe import recipe


def test_it_holds_the_benchmark_and_the_guest_and_nothing_else_of_ours(venv_sandbox):
    listing = subprocess.run(
        [venv_sandbox._python, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True
    )
    installed = {line.partition("==")[0].lower().replace("_", "-") for line in listing.stdout.splitlines()}
    wanted = {
        line.partition("==")[0] for line in recipe("metaworld").requirements.decode().splitlines() if line[0] != "#"
    }
    assert installed - {"pip", "setuptools"} == wanted
    files = {path.relative_to(venv_sandbox._guest).as_posix() for path in venv_sandbox._guest.rglob("*.py")}
    assert files == set(recipe("metaworld").guest)
    assert "lerobot_ops/evaluation/worker.py" in files
    assert not any("pool" in name or "sandbox" in name for name in files)


def test_its_identity_changes_with_what_it_is_made_of(venv_sandbox):
    made_of = recipe("metaworld")
    assert venv_sandbox.kind == "venv"
    assert venv_sandbox.identity == f"venv:{made_of.digest}"
    assert (venv_sandbox.recipe, venv_sandbox.image) == (made_of.digest, None)
    newer = made_of.requirements.replace(b"mujoco==3.8.1", b"mujoco==3.8.2")
    assert replace(made_of, requirements=newer).digest != made_of.digest


def test_requirements_are_exact():
    lines = [line for line in recipe("metaworld").requirements.decode().splitlines() if not line.startswith("#")]
    assert all("==" in line and " " not in line for line in lines)
    assert {"metaworld==3.0.0", "mujoco==3.8.1"} <= set(lines)


def test_a_failed_install_says_what_pip_says_and_leaves_nothing_that_looks_built(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # pip reads the user's settings: here, one folder that is empty.
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(SandboxError, match="No matching distribution found"):
        open_sandbox("metaworld", SandboxConfig(type="venv"))
    assert not list(tmp_path.rglob(".complete"))


def test_auto_without_an_engine_is_a_virtual_environment_and_says_why(monkeypatch, venv_sandbox):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    sandbox = open_sandbox("metaworld", SandboxConfig())
    assert (sandbox.kind, sandbox.identity) == ("venv", venv_sandbox.identity)
    assert sandbox.reason == "no container, because no Docker engine answers; a virtual environment does not isolate"


def test_docker_without_an_engine_says_where_it_looked(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(PrerequisiteError, match=r"unix:///nonexistent/docker\.sock: no such socket"):
        open_sandbox("metaworld", SandboxConfig(type="docker"))


def test_this_interpreter_is_a_sandbox_only_where_the_benchmark_is_installed():
    with pytest.raises(PrerequisiteError, match=r"metaworld is not installed(.|\n)*--sandbox.type=venv"):
        open_sandbox("metaworld", SandboxConfig(type="process"))


def test_an_unknown_benchmark_is_met_with_a_close_one():
    with pytest.raises(ConfigError, match="did you mean 'metaworld'"):
        open_sandbox("meta-world", SandboxConfig(type="venv"))


def test_workers_are_told_apart_from_the_host(venv_sandbox, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with venv_sandbox.spawn({}) as worker:
        pid = worker._channel._process.pid
        seen = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert not any(b"secret" in variable for variable in seen)
        assert os.getsid(pid) == pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_recipe_of_more_files_is_prepared_in_its_own_python(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = (
        b"import sys; from pathlib import Path; Path(sys.prefix, 'made').write_text(Path('data/words').read_text())"
    )
    files = {"prepare.py": script, "data/words": b"hello"}
    made_of = replace(recipe("metaworld"), requirements=b"msgpack==1.2.4\n", extra=files)
    made = venv._environment(made_of)
    assert (made / "made").read_text() == "hello"
    broken = replace(made_of, extra={"prepare.py": b"raise SystemExit('no such asset')"})
    with pytest.raises(SandboxError, match=r"cannot be prepared(.|\n)*no such asset"):
        venv._environment(broken)


def test_what_older_recipes_left_is_pruned_once_nobody_uses_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache, made_of = tmp_path / "lerobot-ops", recipe("metaworld")
    present = f"metaworld-3.12.9-{made_of.environment_digest[:12]}"
    names = [f"venvs/{present}", "venvs/metaworld-3.11.7-000000000000", f"guest-{made_of.digest[:12]}", "guest-0000"]
    for name in names:
        (cache / name).mkdir(parents=True)
    assert prune_cache() == []
    removed = prune_cache(unused_s=0)
    assert [path.relative_to(cache).as_posix() for path in removed] == ["guest-0000", names[1]]
    assert [(cache / name).exists() for name in names] == [True, False, True, False]

"""A third party's benchmark, made of the files that docs/adding-a-benchmark.md shows, in both sandboxes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lerobot_ops import envs
from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox
from lerobot_ops.evaluation.sandbox.recipe import recipe

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-benchmark.md"


@pytest.fixture(scope="module")
def tabletop(tmp_path_factory):
    """The package of the page, installed where this test's Python alone finds it."""
    folder, site = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("site")
    files = re.findall(r"^`([\w./-]+)`\n\n```\w*\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(folder)]
    subprocess.run(install, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(site)
        yield {name for name, _ in files}
    for name in [name for name in sys.modules if name.partition(".")[0] == "tabletop"]:
        del sys.modules[name]


def measure(folder, kind, policy="expert"):
    config = {
        "env": {"type": "tabletop", "task": "all", "image_size": 32},
        "policy": {"path": policy},
        "eval": {"n_episodes": 3},
        "clips": {"size": 64},
        "sandbox": {"type": kind},
        "output_dir": folder,
    }
    return evaluate(EvalConfig.model_validate(config))


def test_the_page_shows_a_whole_package(tabletop):
    assert tabletop == {
        "pyproject.toml",
        "tabletop/__init__.py",
        "tabletop/env.py",
        "tabletop/sandbox/requirements.txt",
        "tabletop/sandbox/prepare.py",
        "tabletop/sandbox/Dockerfile",
    }
    assert "tabletop" in envs.benchmarks()
    made_of = recipe("tabletop")
    assert {"tabletop/env.py", "lerobot_ops/evaluation/worker.py"} <= set(made_of.guest)
    assert set(made_of.extra) == {"prepare.py"}
    assert "pymunk" not in sys.modules


def test_it_runs_in_a_virtual_environment(tabletop, tmp_path):
    result = measure(tmp_path / "out", "venv")
    assert [(record.task, record.success) for record in result.records] == [("push", True)] * 3 + [("pull", True)] * 3
    assert len(list((tmp_path / "out" / "clips").glob("*.mp4"))) == 2
    python = open_sandbox("tabletop", SandboxConfig(type="venv"))._python
    assert (python.parents[1] / "table.npy").is_file()


def test_it_runs_in_a_container_with_the_same_results(tabletop, tmp_path, docker_sandbox):
    contained, free = (measure(tmp_path / kind, kind) for kind in ("docker", "venv"))
    assert [record.outcome() for record in contained.records] == [record.outcome() for record in free.records]
    assert contained.recipe == free.recipe == recipe("tabletop").digest
    with open_sandbox("tabletop", SandboxConfig(type="docker")).spawn({}) as worker:
        seen = worker._channel._container.exec_run(["cat", "/opt/tables/kind", "/opt/worker/table.npy"])
        assert seen.exit_code == 0
        assert worker.info["versions"]["lerobot-ops-tabletop"] == "1.0"
        assert worker.info["versions"]["pymunk"] == "6.11.1"


def test_it_fails_where_its_simulator_is_not(tabletop):
    with pytest.raises(Exception, match=r"pymunk is not installed(.|\n)*--sandbox.type=venv"):
        open_sandbox("tabletop", SandboxConfig(type="process"))


def test_a_package_without_requirements_says_so(tmp_path, monkeypatch):
    package = tmp_path / "bare"
    package.mkdir()
    source = 'BENCHMARK = Benchmark("bare", {"play": "Play"}, object, recipe="sandbox")\n'
    (package / "__init__.py").write_text(f"from lerobot_ops.envs import Benchmark\n{source}")
    info = tmp_path / "bare-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lerobot_ops.envs]\nbare = bare:BENCHMARK\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"bare has no sandbox of its own(.|\n)*requirements.txt"):
        open_sandbox("bare", SandboxConfig(type="venv"))

"""A third party's policy, made of the files that docs/adding-a-policy.md shows: trained, adapted, measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lerobot_ops.errors import CheckpointError, OpsError
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox
from lerobot_ops.policies import load_policy, parse_policy_config, policy_types
from lerobot_ops.policies.config import PeftConfig
from lerobot_ops.policies.pretrained import first_policy
from lerobot_ops.policies.registry import based
from tests.training.lessons import record

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-policy.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the page, installed where the tests' processes alone find it."""
    folder, site = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("site")
    files = re.findall(r"^`([\w./-]+)`\n\n```\w*\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert {name for name, _ in files} == {"pyproject.toml", "cloning/__init__.py", "cloning/model.py"}
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(folder)]
    subprocess.run(install, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return site


def ops(site: Path, command: str, *flags: str) -> str:
    """What `lerobot-ops` prints in an environment that has the package."""
    done = subprocess.run(
        [sys.executable, "-m", "lerobot_ops.cli", command, *flags],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=PAGE.parents[1],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cloning")
    data = f"--dataset.root={record(folder / 'data')}"
    state = "--policy.input_features={observation.state: {type: STATE, shape: [4]}}"
    flags = ["--policy.type=cloning", "--policy.width=16", state, "--batch_size=16", "--tracking.enable=false"]
    ops(site, "train", data, *flags, "--steps=300", "--log_freq=100", f"--output_dir={folder / 'run'}")
    return folder


def test_it_learns(trained: Path) -> None:
    rows = (trained / "run/loss.csv").read_text().splitlines()
    losses = [float(dict(zip(rows[0].split(","), row.split(","), strict=True))["loss"]) for row in rows[1:]]
    assert losses[-1] < losses[0]


def test_its_fields_are_flags(site: Path) -> None:
    text = ops(site, "train", "--policy.type=cloning", "--help")
    assert "--policy.chunk_size int (default: 8)" in text
    assert "Of the two hidden layers." in text


def test_an_adapter_fits_its_layers(site: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft", reason="pip install 'lerobot-ops[peft]'")
    monkeypatch.syspath_prepend(site)
    policy_types.cache_clear()
    try:
        policy = first_policy(parse_policy_config(based({"path": trained / "run"})), PeftConfig(r=2))
    finally:
        policy_types.cache_clear()
    assert sorted(policy.adapter.entry()["target_modules"]) == ["net.0", "net.2", "net.4"]


def test_a_benchmark_measures_it(site: Path, trained: Path) -> None:
    try:
        open_sandbox("metaworld", SandboxConfig(type="venv"))
    except OpsError as error:
        pytest.skip(str(error))
    flags = [
        f"--policy.path={trained / 'run'}",
        "--env.type=metaworld",
        "--env.task=reach-v3",
        "--env.episode_length=20",
    ]
    flags += ["--eval.n_episodes=2", "--clips.enable=false", "--sandbox.type=venv", "--tracking.enable=false"]
    text = ops(site, "eval", *flags, f"--output_dir={trained / 'eval'}")
    assert "pc_success" in text
    assert len((trained / "eval/records.jsonl").read_text().splitlines()) == 2


def test_without_its_package_the_checkpoint_says_what_is_missing(trained: Path) -> None:
    with pytest.raises(CheckpointError, match=r"unknown policy type 'cloning'"):
        load_policy(trained / "run/pretrained_model")

"""A training that LeRobot 0.6.1 began goes on here, and one of ours there: the same frames, the same weights."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lerobot_ops.cli import main
from tests.training.lessons import record

PASTED = """
    --dataset.repo_id=local/data --policy.type=act --policy.dim_model=16 --policy.n_heads=2 --policy.chunk_size=5
    --policy.dim_feedforward=16 --policy.n_encoder_layers=1 --policy.n_action_steps=5 --policy.use_vae=false
    --policy.dropout=0 --policy.pretrained_backbone_weights=null --policy.device=cpu --policy.push_to_hub=false
    --policy.optimizer_lr=0.001 --batch_size=4 --steps=20 --save_freq=10 --num_workers=0 --wandb.enable=false
"""


@pytest.fixture(scope="module")
def peer() -> str:
    python = os.environ.get("LEROBOT_PEER_PYTHON")
    if not python:
        pytest.skip("LEROBOT_PEER_PYTHON: a Python 3.12 with `pip install 'lerobot[dataset,training]==0.6.1'`")
    return python


def train_there(peer: str, *flags: str) -> None:
    command = [peer, "-m", "lerobot.scripts.lerobot_train", *flags]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


def train_here(*flags: str) -> None:
    main(["train", *flags, "--tracking.enable=false", "--num_threads=1"])


def back_to_10(run: Path) -> Path:
    """A copy of a run of 20 steps as it was after 10."""
    before = run.with_name(f"{run.name}-10")
    shutil.copytree(run, before, symlinks=True)
    shutil.rmtree(before / "checkpoints/000020")
    shutil.rmtree(before / "pretrained_model", ignore_errors=True)
    (before / "checkpoints/last").unlink()
    (before / "checkpoints/last").symlink_to("000010")
    return before


def assert_equal(one: Path, other: Path) -> None:
    """The moments of gradients are equal; Adam's steps are where a gradient is not zero but for rounding."""
    for file, most in (("training_state/optimizer_state", 1e-6), ("pretrained_model/model", 1e-3)):
        mine, theirs = (load_file(run / f"checkpoints/000020/{file}.safetensors") for run in (one, other))
        assert mine.keys() == theirs.keys()
        assert max((mine[name].double() - theirs[name].double()).abs().max().item() for name in mine) < most


def test_either_goes_on_where_the_other_was(peer: str, tmp_path: Path) -> None:
    data = f"--dataset.root={record(tmp_path / 'data')}"
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    train_there(peer, *PASTED.split(), data, f"--output_dir={theirs}")
    again = back_to_10(theirs)
    train_here(
        f"--config_path={again}/checkpoints/last/pretrained_model/train_config.json",
        "--resume=true",
        f"--output_dir={again}",
    )
    assert_equal(theirs, again)

    train_here(*PASTED.split(), data, f"--output_dir={ours}")
    again = back_to_10(ours)
    config = f"--config_path={again}/checkpoints/last/pretrained_model/train_config.json"
    where = [data, f"--output_dir={again}", "--save_freq=10", "--num_workers=0"]
    train_there(peer, config, "--resume=true", *where)
    assert_equal(ours, again)

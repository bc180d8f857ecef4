"""Training Diffusion and VQ-BeT: noise, schedules and phases survive an interruption to the bit."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lerobot_ops.errors import ConfigError
from lerobot_ops.flags import build
from lerobot_ops.policies import load_policy
from lerobot_ops.policies.inference import PolicyRunner
from lerobot_ops.policies.vqbet.model import VQBeTPolicy
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.training.lessons import CAMERA, record

DIFFUSION = {"type": "diffusion", "horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "kernel_size": 3}
DIFFUSION |= {"diffusion_step_embed_dim": 8, "num_train_timesteps": 10, "drop_n_last_frames": 4}
DIFFUSION |= {"optimizer_lr": 3e-3, "scheduler_warmup_steps": 5, "pretrained_backbone_weights": None}
VQBET = {"type": "vqbet", "n_obs_steps": 2, "action_chunk_size": 3, "n_action_pred_token": 2, "crop_shape": [32, 32]}
VQBET |= {"vqvae_n_embed": 4, "vqvae_embedding_dim": 8, "vqvae_enc_hidden_dim": 8, "n_vqvae_training_steps": 4}
VQBET |= {"gpt_block_size": 10, "gpt_input_dim": 16, "gpt_output_dim": 16, "gpt_hidden_dim": 16, "gpt_n_layer": 1}
VQBET |= {"gpt_n_head": 2, "spatial_softmax_num_keypoints": 4, "scheduler_warmup_steps": 2}
VQBET |= {"pretrained_backbone_weights": None, "input_features": {CAMERA: {"type": "VISUAL", "shape": [3, 64, 64]}}}
VQBET["input_features"]["observation.state"] = {"type": "STATE", "shape": [4]}

Trained = Callable[..., TrainConfig]


@pytest.fixture
def setup(dataset: Path, filmed: Path, tmp_path: Path) -> Trained:
    """A training of a tiny policy: Diffusion on vectors, VQ-BeT on a camera and a state."""

    def configure(kind: str, output: str = "run", **values: Any) -> TrainConfig:
        policy, root = (DIFFUSION, dataset) if kind == "diffusion" else (VQBET, filmed)
        usual = {"dataset": {"root": root}, "policy": policy, "output_dir": tmp_path / output, "num_threads": 1}
        return build(
            TrainConfig,
            usual | {"batch_size": 4, "steps": 9, "log_freq": 3, "save_freq": 3} | values,
            source="the test",
        )

    return configure


def content(root: Path) -> dict[str, bytes]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "log.csv")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def rows(file: Path) -> list[dict[str, float]]:
    with file.open() as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


@pytest.mark.parametrize("kind", ["diffusion", "vqbet"])
@pytest.mark.parametrize("step", [3, 6])
def test_interrupted_and_resumed_is_as_if_it_had_not_been(setup: Trained, kind: str, step: int) -> None:
    def stop(at: int, _: dict[str, float]) -> None:
        if at == step + 3:
            raise KeyboardInterrupt

    whole = train(setup(kind, "whole"))
    config = setup(kind)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_metrics=stop)
    resumed = train(config.altered("resume", True))
    assert content(resumed.output_dir / "checkpoints") == content(whole.output_dir / "checkpoints")
    assert (resumed.output_dir / "loss.csv").read_bytes() == (whole.output_dir / "loss.csv").read_bytes()


def test_the_rate_follows_the_schedule(setup: Trained) -> None:
    run = train(setup("diffusion")).output_dir
    config = setup("diffusion").policy
    expected = [3e-3 * config.scheduler().factor(step, 9) for step in (3, 6, 9)]
    assert [row["lr"] for row in rows(run / "log.csv")] == pytest.approx(expected)
    state = json.loads((run / "checkpoints/000006/training_state/scheduler_state.json").read_text())
    assert (state["last_epoch"], state["base_lrs"]) == (6, [3e-3])


def test_diffusion_learns(setup: Trained) -> None:
    policy = {**DIFFUSION, "down_dims": [32, 64]}
    result = train(setup("diffusion", policy=policy, steps=400, batch_size=32, log_freq=50, save_freq=400))
    losses = [row["loss"] for row in rows(result.output_dir / "loss.csv")]
    assert losses[-1] < losses[0] / 2


def test_the_phases_of_vqbet(setup: Trained) -> None:
    result = train(setup("vqbet"))
    checkpoints = [
        load_policy(path / "pretrained_model") for path in sorted(result.checkpoint.parents[0].glob("checkpoints/0*"))
    ]
    assert all(isinstance(policy, VQBeTPolicy) for policy in checkpoints)
    assert [policy.discretized for policy in checkpoints] == [False, True, True]
    first, second, third = (policy.state_dict() for policy in checkpoints)
    codes = [name for name in first if "vqvae_model.encoder" in name or "_codebook.embed" in name]
    assert all(not (first[name] == second[name]).all() for name in codes)
    assert all((second[name] == third[name]).all() for name in codes)
    head = "vqbet.action_head.map_to_cbet_preds_bin.0.weight"
    assert not (second[head] == third[head]).all()


def test_acting(setup: Trained) -> None:
    runner = PolicyRunner.from_checkpoint(train(setup("vqbet", steps=6)).checkpoint)
    assert (runner.n_obs_steps, runner.n_action_steps, runner.cameras) == (2, 3, [CAMERA])


def test_a_dataset_that_the_policy_cannot_learn_from(setup: Trained, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exactly one camera"):
        train(setup("vqbet", dataset={"root": dataset}, policy={**VQBET, "input_features": {}}))
    images = record(tmp_path / "images", (9,), camera="image")
    inputs = {"observation.environment_state": {"type": "ENV", "shape": [6]}, **VQBET["input_features"]}
    with pytest.raises(ConfigError, match=r"(?s)cannot read this input.*environment_state"):
        train(setup("vqbet", dataset={"root": images}, policy={**VQBET, "input_features": inputs}))
    with pytest.raises(ConfigError, match=r"(?s)crop is larger.*crop_shape"):
        train(setup("vqbet", dataset={"root": images}, policy={**VQBET, "crop_shape": [84, 84]}))

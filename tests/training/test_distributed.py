"""Trainings in two processes: equal to one, the same to the bit after a kill, and ended together."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from lerobot_ops.policies import load_policy
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.training.processes import start
from tests.training.test_train import rows

Configured = Callable[..., TrainConfig]
SHARDED = {"dp_shard": -1}
# Without noise, and where every frame weighs the same: what two processes compute is then what one computes.
PLAIN = {"use_vae": False, "dropout": 0.0, "chunk_size": 1, "n_action_steps": 1}
# With such an epsilon Adam's step is the gradient's, not its sign's.
STEADY = {"type": "adam", "lr": 1.0, "weight_decay": 0.0, "grad_clip_norm": 5.0, "eps": 10.0}
EQUAL = {"policy": PLAIN, "use_policy_training_preset": False, "optimizer": STEADY, "steps": 20, "save_freq": 10}


def difference(one: Path, other: Path, file: str = "pretrained_model/model.safetensors") -> float:
    mine, theirs = load_file(one / file), load_file(other / file)
    assert mine.keys() == theirs.keys()
    return max((mine[name].double() - theirs[name].double()).abs().max().item() for name in mine)


def test_two_processes_learn_what_one_learns_from_twice_the_batch(configured: Configured, tmp_path: Path) -> None:
    options = {
        **EQUAL,
        "dataset": {"eval_split": 0.25},
        "ema": {"enable": True},
    }  # an epoch's last batch is a small one
    one = configured(batch_size=8, output_dir=tmp_path / "one", **options)
    two = configured(batch_size=4, output_dir=tmp_path / "two", **options)
    parts = configured(batch_size=4, output_dir=tmp_path / "parts", parallelism=SHARDED, **options)
    more = configured(batch_size=2, output_dir=tmp_path / "more", parallelism=SHARDED, **options)
    more = more.altered("accelerator.gradient_accumulation.steps", 2)
    trainings = [start(config, 2) for config in (two, parts)]
    train(one)
    for training in trainings:
        assert training.wait() == [0, 0], training.output()
    for name in ("pretrained_model/model.safetensors", "checkpoints/last/pretrained_model_ema/model.safetensors"):
        assert difference(tmp_path / "one", tmp_path / "two", name) < 2e-6
        assert difference(tmp_path / "two", tmp_path / "parts", name) < 2e-6
    state = "checkpoints/last/training_state/optimizer_state.safetensors"
    assert difference(tmp_path / "one", tmp_path / "two", state) < 2e-6
    assert difference(tmp_path / "two", tmp_path / "parts", state) < 2e-6
    for file in ("loss.csv", "eval_loss.csv"):
        found = [[list(row.values()) for row in rows(tmp_path / name / file)] for name in ("one", "two", "parts")]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-5)
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        path.name for path in (tmp_path / "one").iterdir()
    }
    counts = json.loads((tmp_path / "parts/checkpoints/last/training_state/training_step.json").read_text())
    assert (counts["dp_world_size"], counts["batch_size"], counts["parallelism"]["dp_shard"]) == (2, 4, 2)
    assert load_policy(tmp_path / "parts/pretrained_model").config.chunk_size == 1

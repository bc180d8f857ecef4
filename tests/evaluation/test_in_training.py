"""Checkpoints of a training are measured by the evaluator while it goes on."""

import json
from pathlib import Path

from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.in_training import EvaluatedTrainConfig, train_evaluated
from lerobot_ops.flags import build
from lerobot_ops.recording.collect import CollectConfig, collect
from lerobot_ops.tracking import TrackingConfig
from tests.training.conftest import TINY

VENV = {"type": "venv"}


def test_checkpoints_are_measured_on_the_way(tmp_path: Path) -> None:
    env = {"type": "metaworld", "task": "reach-v3", "episode_length": 8}
    recording = {"env": {**env, "episode_length": 12}, "num_episodes": 2, "sandbox": VENV}
    recording |= {"dataset": {"root": tmp_path / "data"}}
    dataset = collect(build(CollectConfig, recording, source="the test")).root
    values = {
        "dataset": {"root": dataset},
        "policy": TINY,
        "output_dir": tmp_path / "run",
        "steps": 6,
        "batch_size": 4,
        "save_freq": 4,
        "log_freq": 3,
        "num_threads": 1,
        "seed": 5,
        "env": env,
        "env_eval_freq": 2,
        "eval": {"n_episodes": 2},
        "sandbox": VENV,
    }
    config = build(EvaluatedTrainConfig, values, source="the test")
    result = train_evaluated(config, TrackingConfig(enable=False))
    steps = sorted(path.name for path in (tmp_path / "run/eval").iterdir())
    assert steps == ["step_000002", "step_000004", "step_000006"]

    last = {"env": env, "policy": {"path": str(result.checkpoint)}, "eval": {"n_episodes": 2}, "seed": 5}
    last |= {"sandbox": VENV, "clips": {"enable": False}, "output_dir": tmp_path / "again"}
    again = evaluate(build(EvalConfig, last, source="the test"))
    before = json.loads((tmp_path / "run/eval/step_000006/metrics.json").read_text())
    after = json.loads((again.output_dir / "metrics.json").read_text())
    assert {**before, "eval_s": 0, "policy": ""} == {**after, "eval_s": 0, "policy": ""}

    plain = build(EvaluatedTrainConfig, {**values, "env": None, "output_dir": tmp_path / "plain"}, source="the test")
    other = train_evaluated(plain, TrackingConfig(enable=False))
    assert (other.checkpoint / "model.safetensors").read_bytes() == (
        result.checkpoint / "model.safetensors"
    ).read_bytes()

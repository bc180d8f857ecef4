"""Checkpoints of a training are measured by the evaluator while it goes on."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.in_training import EvaluatedTrainConfig, train_evaluated
from lerobot_ops.flags import build
from lerobot_ops.recording.collect import CollectConfig, collect
from lerobot_ops.tracking import TrackingConfig
from lerobot_ops.training.interrupts import interrupting_threads
from tests.training.conftest import TINY

VENV = {"type": "venv"}
ENV = {"type": "metaworld", "task": "reach-v3", "episode_length": 8}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short episodes of the expert."""
    recording = {"env": {**ENV, "episode_length": 12}, "num_episodes": 2, "sandbox": VENV}
    recording |= {"dataset": {"root": tmp_path_factory.mktemp("recorded") / "data"}}
    return collect(build(CollectConfig, recording, source="the test")).root


def settings(dataset: Path, output: Path) -> dict[str, Any]:
    """Six steps, measured after every second."""
    return {
        "dataset": {"root": dataset},
        "policy": TINY,
        "output_dir": output,
        "steps": 6,
        "batch_size": 4,
        "save_freq": 4,
        "log_freq": 3,
        "num_threads": 1,
        "seed": 5,
        "env": ENV,
        "env_eval_freq": 2,
        "eval": {"n_episodes": 2},
        "sandbox": VENV,
    }


def weights(checkpoint: Path) -> bytes:
    return (checkpoint / "model.safetensors").read_bytes()


def test_checkpoints_are_measured_on_the_way(recorded: Path, tmp_path: Path) -> None:
    values = settings(recorded, tmp_path / "run")
    config = build(EvaluatedTrainConfig, values, source="the test")
    result = train_evaluated(config, TrackingConfig(enable=False))
    steps = sorted(path.name for path in (tmp_path / "run/eval").iterdir())
    assert steps == ["step_000002", "step_000004", "step_000006"]

    last = {"env": ENV, "policy": {"path": str(result.checkpoint)}, "eval": {"n_episodes": 2}, "seed": 5}
    last |= {"sandbox": VENV, "clips": {"enable": False}, "output_dir": tmp_path / "again"}
    again = evaluate(build(EvalConfig, last, source="the test"))
    before = json.loads((tmp_path / "run/eval/step_000006/metrics.json").read_text())
    after = json.loads((again.output_dir / "metrics.json").read_text())
    assert {**before, "eval_s": 0, "policy": ""} == {**after, "eval_s": 0, "policy": ""}

    plain = build(EvaluatedTrainConfig, {**values, "env": None, "output_dir": tmp_path / "plain"}, source="the test")
    other = train_evaluated(plain, TrackingConfig(enable=False))
    assert weights(other.checkpoint) == weights(result.checkpoint)


def test_told_to_end_during_a_measurement_it_ends_at_once_and_measures_the_rest_later(
    recorded: Path, tmp_path: Path
) -> None:
    long = {"env": {**ENV, "episode_length": 300}, "eval": {"n_episodes": 40}, "env_eval_freq": 4}
    values = settings(recorded, tmp_path / "run") | long
    config, untracked = build(EvaluatedTrainConfig, values, source="the test"), TrackingConfig(enable=False)
    deadline = time.monotonic() + 120
    with interrupting_threads() as interrupt, ThreadPoolExecutor(1) as pool:
        training = pool.submit(train_evaluated, config, untracked)
        while not any(file.stat().st_size for file in tmp_path.glob("run/eval/.step_000004.partial-*/records.jsonl")):
            assert not training.done(), training.result()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        told = time.monotonic()
        interrupt(signal.SIGTERM)
        with pytest.raises(SystemExit):
            training.result()
        assert time.monotonic() - told < 10
    assert os.readlink(tmp_path / "run/checkpoints/last") == "000004"
    assert not (tmp_path / "run/eval/step_000004").exists()
    begun = next(tmp_path.glob("run/eval/.step_000004.partial-*/records.jsonl")).read_text().splitlines()

    resumed = train_evaluated(config.altered("resume", True), untracked)
    finished = (tmp_path / "run/eval/step_000004/records.jsonl").read_text().splitlines()
    assert len(finished) == 40
    assert set(begun) <= set(finished)
    plain = config.altered("env", None).altered("output_dir", tmp_path / "plain")
    assert weights(resumed.checkpoint) == weights(train_evaluated(plain, untracked).checkpoint)

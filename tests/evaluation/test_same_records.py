"""The same policy, tasks and seeds give the same records: byte for byte, however they were played."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.records import read_records
from lerobot_ops.flags import build
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.policies.registry import make_policy

FEATURES = {
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [4]},
        "observation.environment_state": {"type": "ENV", "shape": [39]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [4]}},
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """An ACT with random weights that moves the arm widely, asked at every second step."""
    torch.manual_seed(0)
    size = {"dim_model": 64, "n_heads": 4, "dim_feedforward": 128, "use_vae": False}
    config = ACTConfig(**FEATURES, **size, chunk_size=8, n_action_steps=2)
    stats = {
        name: {"mean": np.full(feature.shape, 0.1, np.float32), "std": np.full(feature.shape, 0.5, np.float32)}
        for name, feature in {**config.input_features, **config.output_features}.items()
    }
    folder = tmp_path_factory.mktemp("act") / "pretrained_model"
    save_checkpoint(folder, make_policy(config), *make_processors(config, stats, "cpu"))
    return folder


def configured(policy: Path, output: Path, workers: int, sandbox: str = "venv") -> EvalConfig:
    values = {
        "policy": {"path": str(policy)},
        "env": {"task": "button-press-topdown-v3,reach-v3,drawer-open-v3", "episode_length": 60},
        "eval": {"n_episodes": 3, "batch_size": workers, "policy_batch": 4},
        "clips": {"enable": False},
        "sandbox": {"type": sandbox},
        "output_dir": output,
    }
    return build(EvalConfig, values, source="a test")


def lines(folder: Path) -> list[bytes]:
    """The records as they would be written, without what may differ."""
    records = read_records(folder / "records.jsonl")
    return [json.dumps(asdict(record.outcome()), allow_nan=False).encode() for record in records]


@pytest.fixture(scope="module")
def expected(policy, tmp_path_factory) -> list[bytes]:
    found = lines(evaluate(configured(policy, tmp_path_factory.mktemp("one") / "result", 1)).output_dir)
    assert len(set(found)) == 9
    return found


@pytest.mark.parametrize("workers", [2, 4])
def test_with_several_simulators(policy, expected, tmp_path, workers):
    result = evaluate(configured(policy, tmp_path / "result", workers))
    assert lines(result.output_dir) == expected
    assert len({record.worker for record in result.records}) > 1


@pytest.mark.usefixtures("docker_sandbox")
def test_in_containers(policy, expected, tmp_path):
    assert lines(evaluate(configured(policy, tmp_path / "result", 2, "docker")).output_dir) == expected


KILLED = """
import sys
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate

if __name__ == "__main__":
    evaluate(EvalConfig.model_validate_json(sys.argv[1]), on_record=lambda record: print(record.task, flush=True))
"""


def test_after_kills(policy, expected, tmp_path):
    config = configured(policy, tmp_path / "result", 2)
    for _ in range(2):
        command = [sys.executable, "-c", KILLED, config.model_dump_json()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            kept = sum(len(read_records(log)) for log in tmp_path.glob(".result.partial-*/records.jsonl"))
            for _ in range(kept + 3):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "result").exists()
    result = evaluate(config)
    assert lines(result.output_dir) == expected

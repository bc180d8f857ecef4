"""One checkpoint evaluated here and by LeRobot's `lerobot-eval`: the same episodes, successes and rewards.

What LeRobot 0.6.1 found is in tests/data. The test that runs it again needs an environment with it, whose interpreter
`LEROBOT_PEER_PYTHON` names (`pip install 'lerobot[metaworld]==0.6.1'`).
"""

import json
import os
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.flags import build
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.policies.registry import make_policy

TESTS = Path(__file__).parents[1]
RECORDED = TESTS / "data" / "metaworld_lerobot" / "evaluation.json"
TASKS = ("coffee-button-v3", "reach-v3")
EPISODES, STEPS = 3, 60
FLOAT_NOISE = 1e-4
"""Of a sum of rewards; the two sides' torch may add in another order."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small ACT that moves forward, as its picture and its random weights will have it, and so sometimes succeeds."""
    config = ACTConfig(
        input_features={
            "observation.image": {"type": "VISUAL", "shape": [3, 480, 480]},
            "observation.state": {"type": "STATE", "shape": [4]},
        },
        output_features={"action": {"type": "ACTION", "shape": [4]}},
        chunk_size=30,
        n_action_steps=20,
        use_vae=False,
        dim_model=64,
        n_heads=2,
        dim_feedforward=64,
        n_encoder_layers=1,
        pretrained_backbone_weights=None,
    )
    policy = make_policy(config)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            fan_in = int(np.prod(weight.shape[1:])) if weight.ndim > 1 else 4
            draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(weight.shape))
            weight.copy_(torch.from_numpy(draw / np.sqrt(fan_in)))
    stats = {
        "observation.image": {"mean": np.full((3, 1, 1), 0.5, np.float32), "std": np.full((3, 1, 1), 0.25, np.float32)},
        "observation.state": {"mean": np.array([0, 0.6, 0.2, 0.5], np.float32), "std": np.full(4, 0.2, np.float32)},
        "action": {"mean": np.array([0, 0.6, 0, 0], np.float32), "std": np.full(4, 0.05, np.float32)},
    }
    folder = tmp_path_factory.mktemp("act") / "pretrained_model"
    save_checkpoint(folder, policy, *make_processors(config, stats, "cpu"))
    return folder


@pytest.fixture(scope="module")
def records(checkpoint, tmp_path_factory):
    values = {
        "policy": {"path": str(checkpoint)},
        "env": {"type": "metaworld", "task": ",".join(TASKS), "episode_length": STEPS},
        "eval": {"n_episodes": EPISODES},
        "seed": 1000,
        "clips": {"enable": False},
        "sandbox": {"type": "venv"},
        "output_dir": tmp_path_factory.mktemp("evaluation") / "result",
    }
    return evaluate(build(EvalConfig, values, source="a test")).records


def same(records, lerobot):
    for task, (successes, rewards) in lerobot.items():
        ours = [record for record in records if record.task == task]
        assert [record.success for record in ours] == successes, task
        np.testing.assert_allclose([record.sum_reward for record in ours], rewards, rtol=FLOAT_NOISE, err_msg=task)


def test_episodes_are_those_that_lerobot_found(records):
    lerobot = json.loads(RECORDED.read_text())
    assert {success for successes, _ in lerobot.values() for success in successes} == {True, False}
    same(records, lerobot)


def test_lerobot_finds_them_still(checkpoint, records, tmp_path):
    python = os.environ.get("LEROBOT_PEER_PYTHON")
    if not python:
        pytest.skip("LEROBOT_PEER_PYTHON: a Python 3.12 with `pip install 'lerobot[metaworld]==0.6.1'`")
    script = TESTS / "benchmarks" / "peer_evaluation.py"
    command = [python, script, checkpoint, ",".join(TASKS), EPISODES, STEPS, tmp_path / "out"]
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    found = json.loads(lines[-1].removeprefix("RESULT "))["outcomes"]
    same(records, found)
    if os.environ.get("LEROBOT_OPS_RECORD"):
        RECORDED.write_text(json.dumps(found, indent=1) + "\n")

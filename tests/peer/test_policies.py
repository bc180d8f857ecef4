"""Our policies against LeRobot 0.6.1's with many of their options, and checkpoints that it loads and acts with.

`computed_by_lerobot.json` holds what its policies computed (`peer_policies.py` writes it). The tests that run LeRobot
need an environment with it: `LEROBOT_PEER_PYTHON` names its interpreter.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import policy_cases as cases
import pytest
import torch

from lerobot_ops.flags import build
from lerobot_ops.policies import make_policy, parse_policy_config
from lerobot_ops.policies.checkpoint import load_checkpoint, save_checkpoint
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.training.lessons import record

HERE = Path(__file__).parent
COMPUTED = json.loads((HERE / "computed_by_lerobot.json").read_text())
ROLLED = ["diffusion", "diffusion cameras", "vqbet", "vqbet sequential"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def built(name: str) -> torch.nn.Module:
    policy = make_policy(parse_policy_config(cases.config_values(name)))
    cases.fill(policy)
    policy.load_state_dict(policy.state_dict())
    return policy.eval()


@pytest.mark.parametrize("name", cases.CASES)
def test_we_compute_what_lerobot_computed(name: str) -> None:
    policy, expected = built(name), COMPUTED[name]
    found = cases.compute(name, policy, policy.predict_chunk)
    largest = max(1.0, np.abs(expected["chunk"]).max())
    np.testing.assert_allclose(found["chunk"], expected["chunk"], rtol=0, atol=1e-5 * largest)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5, abs=1e-5)
    assert found["parts"] == pytest.approx(expected["parts"], rel=1e-4, abs=1e-5)
    assert found["gradients"] == pytest.approx(expected["gradients"], rel=1e-3)


@pytest.fixture(scope="session")
def peer() -> str:
    python = os.environ.get("LEROBOT_PEER_PYTHON")
    if not python:
        pytest.skip("LEROBOT_PEER_PYTHON: a Python 3.12 with `pip install 'lerobot[dataset,diffusion]==0.6.1'`")
    return python


def call(peer: str, verb: str, folder: Path) -> list[str]:
    command = [peer, str(HERE / "peer_policies.py"), verb, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ROLLED)
def test_lerobot_acts_with_our_checkpoint_as_we_do(name: str, peer: str, tmp_path: Path) -> None:
    folder, policy = tmp_path / "pretrained_model", built(name)
    bounds = {
        key: {"min": np.full(size, -2.0), "max": np.full(size, 3.0)} for key, size in (("action", 2), (cases.STATE, 3))
    }
    frames = {"mean": np.full((3, 1, 1), 0.4), "std": np.full((3, 1, 1), 0.2)}
    stats = bounds | dict.fromkeys((cases.CAMERA, cases.OTHER), frames)
    save_checkpoint(folder, policy, *make_processors(policy.config, stats, "cpu"))
    seen = {key: cases.FEATURES[key]["shape"] for key in policy.config.input_features}
    generator = np.random.default_rng(0)
    observations = {key: generator.random((9, 2, *shape), dtype=np.float32) for key, shape in seen.items()}
    np.savez(tmp_path / "observations.npz", **observations)

    call(peer, "act", folder)

    loaded = load_checkpoint(folder)
    with cases.known_draws():
        for step, expected in enumerate(np.load(tmp_path / "actions.npy")):
            now = {key: torch.from_numpy(value[step]) for key, value in observations.items()}
            action = loaded.postprocessor.action(loaded.policy.select_action(loaded.preprocessor(now)))
            np.testing.assert_allclose(action.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_lerobot_resumes_our_training(peer: str, tmp_path: Path) -> None:
    policy = {**cases.DIFFUSION, "scheduler_warmup_steps": 2, "drop_n_last_frames": 2}
    values = {"dataset": {"root": record(tmp_path / "data")}, "policy": policy, "output_dir": tmp_path / "run"}
    run = train(build(TrainConfig, {**values, "steps": 3, "save_freq": 3, "batch_size": 2}, source="a test")).output_dir
    found = json.loads(call(peer, "resume", run / "checkpoints/000003")[-1])
    assert found == {"step": 4, "states": COMPUTED["diffusion"]["gradients"]["count"]}


if __name__ == "__main__":  # compute anew what LeRobot's policies compute
    command = [
        os.environ["LEROBOT_PEER_PYTHON"],
        str(HERE / "peer_policies.py"),
        str(HERE / "computed_by_lerobot.json"),
    ]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})

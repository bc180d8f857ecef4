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
from lerobot_ops.policies.config import PeftConfig
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.policies.pretrained import first_policy
from lerobot_ops.policies.registry import based
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.training.lessons import record

HERE = Path(__file__).parent
COMPUTED = json.loads((HERE / "computed_by_lerobot.json").read_text())


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


NAMES = list(cases.EXCHANGED)


@pytest.fixture(scope="session")
def exchanged(peer: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """Checkpoints of ours and of LeRobot's, all of which it has acted with; and whether it has peft."""
    root = tmp_path_factory.mktemp("exchanged")
    for number, name in enumerate(NAMES):
        policy, folder = built(name), root / "ours" / str(number)
        pre, post = make_processors(policy.config, cases.stats(), "cpu")
        save_checkpoint(folder, policy, pre, post)
        if name in cases.ADAPTED:
            adapted = first_policy(parse_policy_config(based({"path": str(folder)})), PeftConfig(r=2))
            for parameter in adapted.adapter.parameters():
                parameter.data.normal_(std=0.1)
            save_checkpoint(root / "ours" / f"{number}_adapted", adapted, pre, post)
        generator = np.random.default_rng(0)
        shapes = {key: cases.FEATURES[key]["shape"] for key in policy.config.input_features}
        observations = {k: generator.random((cases.STEPS, 2, *s), dtype=np.float32) for k, s in shapes.items()}
        for suffix in ("", "_adapted"):
            np.savez(root / f"{number}{suffix}.npz", **observations)
    return root, json.loads(call(peer, "exchange", root)[-1])["peft"]


def assert_both_act_alike(root: Path, name: str) -> None:
    folder, loaded = root / name, load_checkpoint(root / name)
    with np.load(root / f"{folder.name}.npz") as observations, cases.known_draws():
        for step, expected in enumerate(np.load(folder.with_suffix(".npy"))):
            now = {key: torch.from_numpy(observations[key][step]) for key in observations.files}
            action = loaded.postprocessor.action(loaded.policy.select_action(loaded.preprocessor(now | cases.TASK)))
            np.testing.assert_allclose(action.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_both_act_alike_with_a_checkpoint_of_either(name: str, side: str, exchanged: tuple[Path, bool]) -> None:
    assert_both_act_alike(exchanged[0], f"{side}/{NAMES.index(name)}")


@pytest.mark.parametrize("name", cases.ADAPTED)
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_both_act_alike_with_an_adapter_of_either(name: str, side: str, exchanged: tuple[Path, bool]) -> None:
    if not exchanged[1]:
        pytest.skip("LeRobot's environment has no peft: pip install 'lerobot[peft]==0.6.1'")
    assert_both_act_alike(exchanged[0], f"{side}/{NAMES.index(name)}_adapted")


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

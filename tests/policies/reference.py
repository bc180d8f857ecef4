"""A checkpoint that LeRobot 0.6.1 saved, with the inputs that it was given and what it computed.

The large tensors are not stored: `filled.json` names them with their shapes, and each is drawn from its own name.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lerobot_ops.policies import load_policy
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.draws import Draws
from lerobot_ops.policies.policy import Policy
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR, load_pipeline
from lerobot_ops.training.optimizer import make_optimizer

DATA = Path(__file__).parents[1] / "data"
ACT, DIFFUSION, VQBET = (DATA / f"{name}_reference" for name in ("act", "diffusion", "vqbet"))


def rebuild(reference: Path, target: Path) -> Path:
    """The checkpoint folder as LeRobot saved it, with all of `model.safetensors`."""
    target.mkdir(parents=True)
    for file in reference.iterdir():
        if file.name not in ("filled.json", "io.json", "io.npz", "model.small.safetensors"):
            shutil.copy(file, target / file.name)
    tensors = load_file(reference / "model.small.safetensors")
    for name, shape in json.loads((reference / "filled.json").read_text()).items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape))
        tensors[name] = (draw / np.sqrt(fan_in)).astype(np.float32)
    save_file(tensors, target / "model.safetensors")
    return target


IO = dict[str, np.ndarray]


def recorded(reference: Path) -> tuple[IO, dict]:
    """The arrays and the numbers that LeRobot left."""
    with np.load(reference / "io.npz") as content:
        arrays = {name: content[name] for name in content.files}
    return arrays, json.loads((reference / "io.json").read_text())


def section(io: IO, name: str) -> dict[str, torch.Tensor]:
    """The tensors `NAME|*`."""
    return {key.partition("|")[2]: torch.from_numpy(value) for key, value in io.items() if key.startswith(f"{name}|")}


class RecordedDraws(Draws):
    """The random numbers that LeRobot drew in a section, in order, whatever is asked for."""

    def __init__(self, io: IO, name: str) -> None:
        self.left = [torch.from_numpy(value) for key, value in io.items() if key.startswith(f"rng_{name}_")]

    def draw(self, *_: object, **__: object) -> torch.Tensor:
        return self.left.pop(0)

    randn = choose = draw


def assert_saved_as_lerobot_saved_it(checkpoint: Path, target: Path) -> None:
    """Load a checkpoint and save it: the same files, fields in the same order, and tensors."""
    pre, post = load_pipeline(checkpoint, PREPROCESSOR), load_pipeline(checkpoint, POSTPROCESSOR)
    save_checkpoint(target, load_policy(checkpoint), pre, post)
    assert {file.name for file in target.iterdir()} == {file.name for file in checkpoint.iterdir()}
    for file in target.glob("*.json"):
        ours, theirs = json.loads(file.read_text()), json.loads((checkpoint / file.name).read_text())
        assert json.dumps(ours) == json.dumps(theirs), file.name  # the order of keys counts
    for file in target.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(checkpoint / file.name)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert np.array_equal(ours[name], tensor), f"{file.name}: {name}"


def assert_gradients(policy: Policy, expected: dict[str, float]) -> None:
    """The gradients of exactly these parameters, by their norms."""
    norms = {name: p.grad.norm().item() for name, p in policy.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(expected, rel=1e-3, abs=1e-6)


def assert_optimizer_step(policy: Policy, recording: dict) -> None:
    """One step of the preset moves every parameter as far as it moved LeRobot's; the recorded step did not clip."""
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    make_optimizer(policy).step()
    moved = {name: (p.detach() - before[name]).norm().item() for name, p in policy.named_parameters()}
    norms = recording["grad_norms"]
    # where a gradient is rounding noise alone Adam makes a full step of it; so it is for the biases of attention's keys
    real = [name for name in moved if norms.get(name, 0) > 1e-5 and not name.endswith("c_attn.bias")]
    still = [name for name in moved if name not in norms]
    assert len(real) > 0.9 * len(norms)
    assert all(moved[name] == 0 for name in still)
    for name in real:
        assert moved[name] == pytest.approx(recording["opt_delta_norm"][name], rel=5e-3), name


def assert_equal(found: torch.Tensor, expected: np.ndarray) -> None:
    """To the last digits of float32, for numbers about 1."""
    expected_tensor = torch.from_numpy(expected)
    largest = max(1.0, expected_tensor.abs().max().item())
    torch.testing.assert_close(found, expected_tensor, rtol=0, atol=1e-5 * largest)

"""Multi-task DiT against LeRobot 0.6.1: the same weights, inputs and random numbers give the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lerobot_ops.policies import load_policy
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.draws import Draws
from lerobot_ops.policies.multi_task_dit.model import MultiTaskDiTPolicy
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR, load_pipeline
from lerobot_ops.training.optimizer import make_optimizer
from tests.policies.reference import DATA, rebuild

pytest.importorskip("transformers", reason="pip install 'lerobot-ops[multi_task_dit]'")

REFERENCE = DATA / "multi_task_dit_reference"
RECORDED = json.loads((REFERENCE / "io.json").read_text())
IO = dict(np.load(REFERENCE / "io.npz"))


def section(name: str) -> dict[str, torch.Tensor]:
    return {key.partition("|")[2]: torch.from_numpy(value) for key, value in IO.items() if key.startswith(f"{name}|")}


class Recorded(Draws):
    """The random numbers that LeRobot drew in a section, one after the other."""

    def __init__(self, name: str) -> None:
        self.left = [torch.from_numpy(IO[key]) for key in sorted(IO) if key.startswith(f"rng_{name}_")]

    def randn(self, shape: object, like: torch.Tensor) -> torch.Tensor:
        return self.left.pop(0)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(DATA)  # it names its CLIP by a relative path
    return rebuild(REFERENCE, tmp_path / "pretrained_model")


@pytest.fixture
def policy(checkpoint: Path) -> MultiTaskDiTPolicy:
    policy = load_policy(checkpoint)
    assert isinstance(policy, MultiTaskDiTPolicy)
    return policy


def test_preprocessor(checkpoint: Path) -> None:
    pre = load_pipeline(checkpoint, PREPROCESSOR)
    processed = pre({**section("raw_train"), "task": RECORDED["task"]})
    for name, expected in section("pre_train").items():
        torch.testing.assert_close(processed[name], expected, rtol=1e-6, atol=1e-6)


def test_loss_gradients_and_optimizer_step(policy: MultiTaskDiTPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    noise, levels = (torch.from_numpy(IO[f"rng_train_{name}"]) for name in ("000_randn_like", "001_randint"))
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    monkeypatch.setattr(torch, "randint", lambda **_: levels)
    batch = section("pre_train")
    loss, _ = policy.train()(batch)
    assert loss.item() == pytest.approx(RECORDED["loss"], rel=1e-5)

    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in policy.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(RECORDED["grad_norms"], rel=1e-3, abs=1e-6)

    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    make_optimizer(policy).step()
    moved = {name: (p.detach() - before[name]).norm().item() for name, p in policy.named_parameters()}
    real = [name for name, norm in RECORDED["grad_norms"].items() if norm > 1e-5]
    assert len(real) > 50
    for name in real:
        assert moved[name] == pytest.approx(RECORDED["opt_delta_norm"][name], rel=5e-3), name
    assert policy(batch)[0].item() == pytest.approx(RECORDED["loss_after_1_step"], rel=1e-5)


def test_chunk(policy: MultiTaskDiTPolicy, checkpoint: Path) -> None:
    batch = section("pre_infer")
    for name in policy.config.input_features:  # one observation, and so it was the same before
        batch[name] = torch.stack([batch[name]] * policy.config.n_obs_steps, dim=1)
    draws = Recorded("chunk")
    chunk = policy.predict_chunk(batch, draws)
    assert not draws.left
    torch.testing.assert_close(chunk, torch.from_numpy(IO["chunk"]), rtol=1e-5, atol=1e-5)
    posted = load_pipeline(checkpoint, POSTPROCESSOR).action(chunk)
    torch.testing.assert_close(posted, torch.from_numpy(IO["chunk_post"]), rtol=1e-5, atol=1e-5)


def test_actions_one_by_one(policy: MultiTaskDiTPolicy, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Recorded("roll")
    monkeypatch.setattr(torch, "randn", lambda *_, **__: draws.left.pop(0))
    pre, post = load_pipeline(checkpoint, PREPROCESSOR), load_pipeline(checkpoint, POSTPROCESSOR)
    observations = section("seq")
    policy.reset()
    for step, expected in enumerate(IO["roll_actions"]):
        observation = {name: values[step] for name, values in observations.items()}
        action = policy.select_action(pre({**observation, "task": RECORDED["task"]}))
        torch.testing.assert_close(action, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
        posted = torch.from_numpy(IO["roll_actions_post"][step])
        torch.testing.assert_close(post.action(action), posted, rtol=1e-5, atol=1e-5)


def test_saved_as_lerobot_saved_it(policy: MultiTaskDiTPolicy, checkpoint: Path, tmp_path: Path) -> None:
    pre, post = load_pipeline(checkpoint, PREPROCESSOR), load_pipeline(checkpoint, POSTPROCESSOR)
    saved = tmp_path / "again"
    save_checkpoint(saved, policy, pre, post)
    assert {file.name for file in saved.iterdir()} == {file.name for file in checkpoint.iterdir()}
    for file in saved.glob("*.json"):
        assert json.loads(file.read_text()) == json.loads((checkpoint / file.name).read_text()), file.name
    for file in saved.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(checkpoint / file.name)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), f"{file.name}: {name}"

"""ACT against LeRobot 0.6.1: the same weights and inputs give the same numbers, and what we save is what it saved."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lerobot_ops.policies import load_policy
from lerobot_ops.policies.act.model import ACTPolicy
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR, load_pipeline
from lerobot_ops.training.optimizer import make_optimizer
from tests.policies.reference import ACT

IO = dict[str, np.ndarray]


def section(io: IO, name: str) -> dict[str, torch.Tensor]:
    return {key.partition("|")[2]: torch.from_numpy(value) for key, value in io.items() if key.startswith(f"{name}|")}


@pytest.fixture
def policy(act_checkpoint: Path) -> ACTPolicy:
    policy = load_policy(act_checkpoint)
    assert isinstance(policy, ACTPolicy)
    return policy


@pytest.fixture
def recorded_noise(act_io: IO, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.from_numpy(act_io["rng_train_000_randn_like"])
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)


def test_preprocessor(act_checkpoint: Path, act_io: IO) -> None:
    processed = load_pipeline(act_checkpoint, PREPROCESSOR)(section(act_io, "raw_train"))
    for name, expected in section(act_io, "pre_train").items():
        torch.testing.assert_close(processed[name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("recorded_noise")
def test_loss_gradients_and_optimizer_step(policy: ACTPolicy, act_io: IO) -> None:
    recorded = json.loads((ACT / "io.json").read_text())
    batch = section(act_io, "pre_train")
    loss, parts = policy.train()(batch)
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-5)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(recorded["loss_info"], rel=1e-5)

    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in policy.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(recorded["grad_norms"], rel=1e-3, abs=1e-6)

    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimizer = make_optimizer(policy)
    optimizer.step()  # the recorded step did not clip
    moved = {name: (p.detach() - before[name]).norm().item() for name, p in policy.named_parameters()}
    # where a gradient is rounding noise alone (a softmax over equal values) Adam makes a full step of it
    real = [name for name, norm in recorded["grad_norms"].items() if norm > 1e-5]
    assert len(real) > 100
    for name in real:
        # ... so does the third of an attention's biases that is the keys'
        apart = 0.2 if name.endswith("in_proj_bias") else 5e-3
        assert moved[name] == pytest.approx(recorded["opt_delta_norm"][name], rel=apart), name
    assert policy(batch)[0].item() == pytest.approx(recorded["loss_after_1_step"], rel=1e-5)


def test_chunk(policy: ACTPolicy, act_checkpoint: Path, act_io: IO) -> None:
    chunk = policy.predict_chunk(section(act_io, "pre_infer"))
    torch.testing.assert_close(chunk, torch.from_numpy(act_io["chunk"]), rtol=1e-4, atol=1e-5)
    post = load_pipeline(act_checkpoint, POSTPROCESSOR)
    torch.testing.assert_close(post.action(chunk), torch.from_numpy(act_io["chunk_post"]), rtol=1e-4, atol=1e-5)


def test_actions_one_by_one(policy: ACTPolicy, act_checkpoint: Path, act_io: IO) -> None:
    pre, post = load_pipeline(act_checkpoint, PREPROCESSOR), load_pipeline(act_checkpoint, POSTPROCESSOR)
    observations = section(act_io, "seq")
    policy.reset()
    for step, expected in enumerate(act_io["roll_actions"]):
        action = policy.select_action(pre({name: values[step] for name, values in observations.items()}))
        torch.testing.assert_close(action, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
        posted = torch.from_numpy(act_io["roll_actions_post"][step])
        torch.testing.assert_close(post.action(action), posted, rtol=1e-4, atol=1e-5)


def test_saved_as_lerobot_saved_it(policy: ACTPolicy, act_checkpoint: Path, tmp_path: Path) -> None:
    pre, post = load_pipeline(act_checkpoint, PREPROCESSOR), load_pipeline(act_checkpoint, POSTPROCESSOR)
    save_checkpoint(tmp_path, policy, pre, post)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in act_checkpoint.iterdir()}
    for file in tmp_path.glob("*.json"):
        ours, theirs = json.loads(file.read_text()), json.loads((act_checkpoint / file.name).read_text())
        assert json.dumps(ours) == json.dumps(theirs), file.name  # the order of keys counts
    for file in tmp_path.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(act_checkpoint / file.name)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), f"{file.name}: {name}"

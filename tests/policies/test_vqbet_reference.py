"""VQ-BeT against LeRobot 0.6.1, in both phases: the same weights, inputs and random numbers give the same numbers."""

from pathlib import Path

import pytest
import torch

from lerobot_ops.policies import load_policy
from lerobot_ops.policies.vqbet.model import VQBeTPolicy
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR, load_pipeline
from tests.policies.reference import (
    VQBET,
    RecordedDraws,
    assert_equal,
    assert_gradients,
    assert_optimizer_step,
    assert_saved_as_lerobot_saved_it,
    rebuild,
    recorded,
    section,
)

IO, NUMBERS = recorded(VQBET)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its codes count as learned, but its codebooks go on moving: LeRobot's were never frozen."""
    return rebuild(VQBET, tmp_path_factory.mktemp("vqbet") / "pretrained_model")


@pytest.fixture
def policy(checkpoint: Path) -> VQBeTPolicy:
    policy = load_policy(checkpoint)
    assert isinstance(policy, VQBeTPolicy)
    return policy


@pytest.fixture
def trained_on_a_batch(policy: VQBeTPolicy, monkeypatch: pytest.MonkeyPatch) -> VQBeTPolicy:
    """As LeRobot's was when it acted: its codebooks had moved with the batch that its loss was asked of."""
    monkeypatch.setattr(torch, "multinomial", RecordedDraws(IO, "train").draw)
    with torch.no_grad():
        policy.train()(section(IO, "pre_train"))
    return policy.eval()


def test_first_phase(policy: VQBeTPolicy) -> None:
    weights = policy.state_dict()
    policy.load_state_dict(weights | {"vqbet.action_head.vqvae_model.discretized": torch.tensor(False)})
    loss, parts = policy.train()(section(IO, "pre_train"))
    assert loss.item() == pytest.approx(NUMBERS["loss_vqvae_phase"], abs=1e-6)
    found = {name: part.item() for name, part in parts.items()}
    assert found == pytest.approx(NUMBERS["loss_info_vqvae_phase"], rel=1e-6)
    loss.backward()
    assert_gradients(policy, NUMBERS["grad_norms_vqvae_phase"])


def test_second_phase(policy: VQBeTPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = section(IO, "pre_train")
    monkeypatch.setattr(torch, "multinomial", RecordedDraws(IO, "train").draw)
    loss, parts = policy.train()(batch)
    assert loss.item() == pytest.approx(NUMBERS["loss"], rel=1e-6)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(NUMBERS["loss_info"], rel=1e-5)
    loss.backward()
    assert_gradients(policy, NUMBERS["grad_norms"])
    assert_optimizer_step(policy, NUMBERS)


def test_chunk(trained_on_a_batch: VQBeTPolicy, checkpoint: Path) -> None:
    observation = section(IO, "pre_infer")
    same = {name: torch.stack([value] * 3, dim=1) for name, value in observation.items()}
    chunk = trained_on_a_batch.predict_chunk(same, RecordedDraws(IO, "chunk"))
    assert_equal(chunk, IO["chunk"])
    assert_equal(load_pipeline(checkpoint, POSTPROCESSOR).action(chunk), IO["chunk_post"])


def test_actions_one_by_one(trained_on_a_batch: VQBeTPolicy, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pre, post = load_pipeline(checkpoint, PREPROCESSOR), load_pipeline(checkpoint, POSTPROCESSOR)
    monkeypatch.setattr(torch, "multinomial", RecordedDraws(IO, "roll").draw)
    for step, expected in enumerate(IO["roll_actions"]):
        observation = {name: values[step] for name, values in section(IO, "seq").items()}
        action = trained_on_a_batch.select_action(pre(observation))
        assert_equal(action, expected)
        assert_equal(post.action(action), IO["roll_actions_post"][step])


def test_preprocessor(checkpoint: Path) -> None:
    processed = load_pipeline(checkpoint, PREPROCESSOR)(section(IO, "raw_train"))
    for name, expected in section(IO, "pre_train").items():
        torch.testing.assert_close(processed[name], expected, rtol=1e-6, atol=1e-6)


def test_saved_as_lerobot_saved_it(checkpoint: Path, tmp_path: Path) -> None:
    assert_saved_as_lerobot_saved_it(checkpoint, tmp_path)

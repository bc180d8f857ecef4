"""Diffusion against LeRobot 0.6.1: the same weights, inputs and random numbers give the same numbers."""

from pathlib import Path

import pytest
import torch

from lerobot_ops.policies import load_policy
from lerobot_ops.policies.diffusion.model import DiffusionPolicy
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR, load_pipeline
from tests.policies.reference import (
    DIFFUSION,
    RecordedDraws,
    assert_equal,
    assert_gradients,
    assert_optimizer_step,
    assert_saved_as_lerobot_saved_it,
    rebuild,
    recorded,
    section,
)

IO, NUMBERS = recorded(DIFFUSION)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rebuild(DIFFUSION, tmp_path_factory.mktemp("diffusion") / "pretrained_model")


@pytest.fixture
def policy(checkpoint: Path) -> DiffusionPolicy:
    policy = load_policy(checkpoint)
    assert isinstance(policy, DiffusionPolicy)
    return policy


@pytest.fixture
def trained_on_a_batch(policy: DiffusionPolicy) -> DiffusionPolicy:
    """As LeRobot's was when it acted: batch normalisation had seen the training batch, which its loss was asked of."""
    with torch.no_grad():
        policy.train().diffusion.observe(section(IO, "pre_train"))
    return policy.eval()


def draw_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = RecordedDraws(IO, "train")
    monkeypatch.setattr(torch, "randn", draws.draw)
    monkeypatch.setattr(torch, "randint", draws.draw)


def test_loss_gradients_and_optimizer_step(policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = section(IO, "pre_train")
    draw_as_recorded(monkeypatch)
    loss, _ = policy.train()(batch)
    assert loss.item() == pytest.approx(NUMBERS["loss"], abs=1e-6)
    loss.backward()
    assert_gradients(policy, NUMBERS["grad_norms"])
    assert_optimizer_step(policy, NUMBERS)
    draw_as_recorded(monkeypatch)
    assert policy(batch)[0].item() == pytest.approx(NUMBERS["loss_after_1_step"], abs=1e-5)


def test_chunk(trained_on_a_batch: DiffusionPolicy, checkpoint: Path) -> None:
    noise = torch.from_numpy(IO["noise_chunk"])
    chunk = trained_on_a_batch.predict_chunk(section(IO, "pre_infer"), RecordedDraws(IO, "chunk"), noise=noise)
    assert_equal(chunk, IO["chunk"])
    assert_equal(load_pipeline(checkpoint, POSTPROCESSOR).action(chunk), IO["chunk_post"])


def test_actions_one_by_one(
    trained_on_a_batch: DiffusionPolicy, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pre, post = load_pipeline(checkpoint, PREPROCESSOR), load_pipeline(checkpoint, POSTPROCESSOR)
    monkeypatch.setattr(torch, "randn", RecordedDraws(IO, "roll").draw)
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

"""Evaluations of checkpoints: untrained ACTs, whose behaviour is as definite as a trained one's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lerobot_ops.errors import CheckpointError, ConfigError
from lerobot_ops.evaluation.actors import load_actor
from lerobot_ops.evaluation.config import EvalConfig, PolicySource
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.flags import build
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.act.model import ACTPolicy
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.policies.registry import make_policy

STATE = {"observation.state": {"type": "STATE", "shape": [4]}}
SURROUNDINGS = {"observation.environment_state": {"type": "ENV", "shape": [39]}}
CAMERA = {"observation.image": {"type": "VISUAL", "shape": [3, 48, 48]}}


def checkpoint(folder: Path, inputs: dict, actions: int = 4, **values) -> Path:
    """A small ACT with random weights that moves the arm widely."""
    torch.manual_seed(0)
    config = ACTConfig(
        input_features=inputs,
        output_features={"action": {"type": "ACTION", "shape": [actions]}},
        **{"use_vae": False, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, **values},
        pretrained_backbone_weights=None,
    )
    shapes = {name: feature.shape for name, feature in {**config.input_features, **config.output_features}.items()}
    stats = {
        name: {
            "mean": np.full((3, 1, 1) if len(shape) == 3 else shape, 0.1, np.float32),
            "std": np.full((3, 1, 1) if len(shape) == 3 else shape, 0.5, np.float32),
        }
        for name, shape in shapes.items()
    }
    save_checkpoint(folder, make_policy(config), *make_processors(config, stats, "cpu"))
    return folder


def configured(output: Path, policy: Path, workers: int = 0, **values) -> EvalConfig:
    usual = {
        "policy": {"path": str(policy)},
        "env": {"episode_length": 55},
        "eval": {"n_episodes": 4, "batch_size": workers},
        "clips": {"enable": False},
        "sandbox": {"type": "venv"},
        "output_dir": output,
    }
    return build(EvalConfig, {**usual, **values}, source="a test")


def outcomes(result):
    return [record.outcome() for record in result.records]


@pytest.fixture(scope="module")
def low_dimensional(tmp_path_factory) -> Path:
    return checkpoint(
        tmp_path_factory.mktemp("act") / "pretrained_model", STATE | SURROUNDINGS, chunk_size=20, n_action_steps=10
    )


def test_a_checkpoint_gives_equal_records_with_one_and_with_two_simulators(low_dimensional, tmp_path):
    one = evaluate(configured(tmp_path / "one", low_dimensional, workers=1))
    two = evaluate(configured(tmp_path / "two", low_dimensional, workers=2))
    assert outcomes(one) == outcomes(two)
    assert len({record.sum_reward for record in one.records}) == 4
    assert (one.n_errors, one.n_episodes) == (0, 4)


def test_an_evaluation_leaves_torch_as_it_was_and_does_not_depend_on_it(low_dimensional, tmp_path):
    before = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            runs.append(evaluate(configured(tmp_path / f"{count}", low_dimensional)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert outcomes(runs[0]) == outcomes(runs[1])


def test_threads_decide_at_once_unless_the_policy_draws_what_they_share(low_dimensional, monkeypatch):
    assert load_actor(PolicySource(path=str(low_dimensional))).apart
    chunk = ACTPolicy.predict_chunk
    monkeypatch.setattr(ACTPolicy, "predict_chunk", lambda self, batch: chunk(self, batch) + torch.randn(4))
    assert not load_actor(PolicySource(path=str(low_dimensional))).apart


def test_a_policy_that_remembers_is_not_confused_by_episodes_beside_it(tmp_path):
    policy = checkpoint(
        tmp_path / "pretrained_model",
        STATE | SURROUNDINGS,
        chunk_size=8,
        n_action_steps=1,
        temporal_ensemble_coeff=0.01,
    )
    one = evaluate(configured(tmp_path / "one", policy, workers=1, env={"episode_length": 25}))
    two = evaluate(configured(tmp_path / "two", policy, workers=2, env={"episode_length": 25}))
    assert outcomes(one) == outcomes(two)


def test_a_policy_that_sees_is_filmed_as_it_was_measured(tmp_path):
    policy = checkpoint(tmp_path / "pretrained_model", STATE | CAMERA, chunk_size=20, n_action_steps=20)
    result = evaluate(
        configured(
            tmp_path / "result",
            policy,
            env={"episode_length": 45, "options": {"image_size": 48}},
            eval={"n_episodes": 2},
            clips={"size": 64, "fps": 5},
        )
    )
    assert result.clip_problems == []
    assert [clip.success for clip in result.clips] == [False]


def test_the_weights_name_the_evaluation_and_not_their_place(low_dimensional, tmp_path):
    elsewhere = checkpoint(tmp_path / "moved", STATE | SURROUNDINGS, chunk_size=20, n_action_steps=10)
    evaluate(configured(tmp_path / "result", low_dimensional))
    played = []
    evaluate(configured(tmp_path / "result", elsewhere), on_record=played.append)
    assert played == []


@pytest.mark.parametrize(
    ("inputs", "actions", "expected", "problem"),
    [
        (
            STATE | {"observation.images.top": CAMERA["observation.image"]},
            4,
            CheckpointError,
            "reads what metaworld does not show",
        ),
        (
            {"observation.environment_state": {"type": "ENV", "shape": [7]}},
            4,
            ConfigError,
            "another shape than the policy was trained with",
        ),
        (STATE | SURROUNDINGS, 7, CheckpointError, "actions do not fit the benchmark"),
    ],
)
def test_a_policy_for_something_else_is_refused(tmp_path, inputs, actions, expected, problem):
    policy = checkpoint(tmp_path / "pretrained_model", inputs, actions, chunk_size=4, n_action_steps=4)
    with pytest.raises(expected, match=problem):
        evaluate(configured(tmp_path / "result", policy))
    assert not (tmp_path / "result").exists()


def test_an_action_that_is_not_a_number_is_the_policys_fault(tmp_path):
    policy = checkpoint(tmp_path / "pretrained_model", STATE | SURROUNDINGS, chunk_size=4, n_action_steps=4)
    from safetensors.torch import load_file, save_file

    weights = load_file(policy / "model.safetensors")
    weights["model.action_head.bias"][:] = float("nan")
    save_file(weights, policy / "model.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        evaluate(configured(tmp_path / "result", policy))

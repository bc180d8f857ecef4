"""PolicyRunner: from an unbatched observation to actions in the dataset's units."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lerobot_ops.errors import ConfigError
from lerobot_ops.policies import load_policy, make_policy
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.act.model import ACTPolicy, TemporalEnsemble
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.inference import PolicyRunner
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.processors.pipeline import Pipeline
from lerobot_ops.processors.steps import RenameObservations


def test_against_the_reference(act_checkpoint: Path, act_io: dict[str, np.ndarray]) -> None:
    runner = PolicyRunner.from_checkpoint(act_checkpoint)
    assert (runner.type, runner.n_action_steps, runner.n_obs_steps) == ("act", 10, 1)
    assert runner.observation_keys == ["observation.image", "observation.state"]
    assert runner.cameras == ["observation.image"]
    image = (act_io["seq|observation.image"][0, 1] * 255).round().astype(np.uint8)
    observation = {
        "observation.image": image.transpose(1, 2, 0),
        "observation.state": act_io["seq|observation.state"][0, 1],
    }
    actions = runner.act(observation)
    assert (actions.shape, actions.dtype) == ((10, 4), np.float32)
    # 8 bits a channel are less than what LeRobot was given
    np.testing.assert_allclose(actions[0], act_io["roll_actions_post"][0, 1], atol=0.02)


INPUTS = {"observation.environment_state": {"type": "ENV", "shape": [3]}}
OUTPUTS = {"action": {"type": "ACTION", "shape": [2]}}
STATS = {"action": {"mean": np.ones(2), "std": np.full(2, 0.5)}}


def saved(folder: Path, **values: object) -> Path:
    torch.manual_seed(0)
    small = {"dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "chunk_size": 4, "n_action_steps": 2}
    config = ACTConfig.model_validate({"input_features": INPUTS, "output_features": OUTPUTS, **small, **values})
    pre, post = make_processors(config, STATS, "cpu")
    renamed = Pipeline(
        pre.name, [RenameObservations({"observation.goal": "observation.environment_state"}), *pre.steps[1:]]
    )
    save_checkpoint(folder, make_policy(config), renamed, post)
    return folder


def test_environment_state_alone_is_enough(tmp_path: Path) -> None:
    runner = PolicyRunner.from_checkpoint(saved(tmp_path / "checkpoint"))
    assert runner.observation_keys == ["observation.goal"]
    observation = {"observation.goal": np.array([0.1, 0.2, 0.3])}
    first, again = runner.act(observation, "reach"), runner.act(observation, "reach")
    assert first.shape == (2, 2)
    np.testing.assert_array_equal(first, again)


def test_an_observation_that_does_not_fit(tmp_path: Path) -> None:
    runner = PolicyRunner.from_checkpoint(saved(tmp_path / "checkpoint"))
    with pytest.raises(ConfigError, match=r"not there[\s\S]*observation\.goal"):
        runner.act({"observation.goals": np.zeros(3, np.float32)})
    with pytest.raises(ConfigError, match=r"another shape[\s\S]*\(4,\)[\s\S]*\(3,\)"):
        runner.act({"observation.goal": np.zeros(4, np.float32)})


def test_the_temporal_ensemble_is_the_weighted_mean_of_all_predictions() -> None:
    chunks = torch.randn(7, 2, 4, 3)
    ensemble = TemporalEnsemble(0.01)
    for step in range(7):
        action = ensemble(chunks[step])
        made_at = range(max(0, step - 3), step + 1)
        weights = torch.exp(-0.01 * torch.arange(len(made_at)))
        said = torch.stack([chunks[then, :, step - then] for then in made_at])
        torch.testing.assert_close(action, (said * weights[:, None, None]).sum(0) / weights.sum())


def test_episodes_of_a_policy_with_memory_do_not_mix(tmp_path: Path) -> None:
    path = saved(tmp_path / "checkpoint", temporal_ensemble_coeff=0.01, n_action_steps=1)
    runner = PolicyRunner.from_checkpoint(path)
    observations = [{"observation.goal": np.full(3, value, np.float32)} for value in np.linspace(-2, 2, 6)]
    with pytest.raises(ConfigError, match="episode"):
        runner.act(observations[0])
    alone = runner.episode()
    expected = [alone.act(observation) for observation in observations]
    one, other = runner.episode(), runner.episode()
    for observation, action in zip(observations, expected, strict=True):
        other.act(observations[-1])
        np.testing.assert_array_equal(one.act(observation), action)
    assert expected[0].shape == (1, 2)


def test_one_action_at_a_time(tmp_path: Path) -> None:
    policy = load_policy(saved(tmp_path / "checkpoint"))
    assert isinstance(policy, ACTPolicy)
    batch = {"observation.environment_state": torch.randn(1, 3)}
    chunk = policy.predict_chunk(batch)
    other = {"observation.environment_state": torch.randn(1, 3)}
    torch.testing.assert_close(policy.select_action(batch), chunk[:, 0])
    torch.testing.assert_close(policy.select_action(other), chunk[:, 1])  # still the first chunk
    torch.testing.assert_close(policy.select_action(other), policy.predict_chunk(other)[:, 0])
    policy.reset()
    torch.testing.assert_close(policy.select_action(batch), chunk[:, 0])

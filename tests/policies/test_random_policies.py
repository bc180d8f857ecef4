"""Diffusion and VQ-BeT as the evaluator uses them: windows in, actions out, random numbers of a decision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lerobot_ops.errors import CheckpointError, ConfigError
from lerobot_ops.policies import load_policy, make_policy, parse_policy_config
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.inference import Moment, PolicyRunner, act_together
from lerobot_ops.policies.policy import make_processors

STATE, GOAL, CAMERA = "observation.state", "observation.environment_state", "observation.image"
FEATURES: dict[str, dict[str, Any]] = {
    STATE: {"type": "STATE", "shape": [3]},
    GOAL: {"type": "ENV", "shape": [2]},
    CAMERA: {"type": "VISUAL", "shape": [3, 40, 48]},
}
STATS = {
    STATE: {"min": np.full(3, -1.0), "max": np.full(3, 2.0)},
    CAMERA: {"mean": np.full((3, 1, 1), 0.5), "std": np.full((3, 1, 1), 0.3)},
    "action": {"min": np.full(2, -2.0), "max": np.full(2, 2.0)},
}
DIFFUSION: dict[str, Any] = {"type": "diffusion", "horizon": 8, "n_action_steps": 4, "down_dims": [8, 16]}
DIFFUSION |= {"diffusion_step_embed_dim": 8, "num_train_timesteps": 10}
VQBET: dict[str, Any] = {"type": "vqbet", "n_obs_steps": 2, "action_chunk_size": 4, "gpt_input_dim": 16}
VQBET |= {"gpt_output_dim": 16, "gpt_hidden_dim": 16, "gpt_n_head": 2, "gpt_n_layer": 1, "gpt_block_size": 16}
VQBET |= {"crop_shape": None, "bet_softmax_temperature": 10.0}


def values(base: dict[str, Any], *inputs: str, **changed: Any) -> dict[str, Any]:
    outputs = {"action": {"type": "ACTION", "shape": [2]}}
    features = {"input_features": {name: FEATURES[name] for name in inputs}, "output_features": outputs}
    return {**base, **features, "pretrained_backbone_weights": None, **changed}


def saved(folder: Path, config: dict[str, Any]) -> PolicyRunner:
    torch.manual_seed(0)
    policy = make_policy(parse_policy_config(config))
    if config["type"] == "vqbet":
        policy.vqbet.action_head.vqvae_model.freeze()
    save_checkpoint(folder, policy, *make_processors(policy.config, STATS, "cpu"))
    return PolicyRunner.from_checkpoint(folder)


def window(seed: int, *inputs: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    frames = {name: generator.random((2, *FEATURES[name]["shape"])).astype(np.float32) for name in inputs}
    if CAMERA in frames:
        frames[CAMERA] = (255 * frames[CAMERA]).astype(np.uint8).transpose(0, 2, 3, 1)
    return frames


KINDS = [(DIFFUSION, (STATE, GOAL)), (DIFFUSION, (STATE, CAMERA)), (VQBET, (STATE, CAMERA))]


@pytest.mark.parametrize(("base", "inputs"), KINDS)
def test_a_decision_is_the_same_whatever_is_asked_beside_it(base: dict, inputs: tuple, tmp_path: Path) -> None:
    runner = saved(tmp_path, values(base, *inputs))
    assert (runner.last, runner.n_action_steps, runner.alone) == (2, 4, False)
    moments = [Moment(window(seed, *inputs), key=(seed, 40)) for seed in range(3)]
    alone = [act_together([(runner, moment)], size=4)[0] for moment in moments]
    together = act_together([(runner.episode(), moment) for moment in reversed(moments)], size=4)[::-1]
    for one, other in zip(alone, together, strict=True):
        assert one.shape == (4, 2)
        np.testing.assert_array_equal(one, other)
    later = act_together([(runner, moments[0]._replace(key=(0, 44)))], size=4)[0]
    assert not np.array_equal(later, alone[0])


@pytest.mark.parametrize(("base", "inputs"), KINDS)
def test_windows_are_what_one_by_one_would_be(base: dict, inputs: tuple, tmp_path: Path) -> None:
    runner, policy = saved(tmp_path, values(base, *inputs)), load_policy(tmp_path)
    seen = window(0, *inputs)
    torch.manual_seed(1)
    expected = runner.act({name: value[[0, 0]] for name, value in seen.items()})
    pre = {name: torch.from_numpy(value[0]) for name, value in seen.items()}
    if CAMERA in pre:
        pre[CAMERA] = pre[CAMERA].permute(2, 0, 1) / 255
    batch = runner._checkpoint.preprocessor(pre)
    torch.manual_seed(1)
    for action in expected:  # the first observation is also the one before it
        one = runner._checkpoint.postprocessor.action(policy.select_action(batch))
        np.testing.assert_allclose(one[0].numpy(), action, rtol=1e-5, atol=1e-6)


def test_an_unfinished_vqbet_warns(tmp_path: Path) -> None:
    policy = make_policy(parse_policy_config(values(VQBET, STATE, CAMERA))).eval()
    batch = {STATE: torch.zeros(1, 2, 3), CAMERA: torch.zeros(1, 2, 3, 40, 48)}
    with pytest.warns(UserWarning, match="first phase"):
        policy.predict_chunk(batch)
    with pytest.raises(ValueError, match="3 steps, and n_obs_steps is 2"):
        policy.predict_chunk({STATE: torch.zeros(1, 3, 3), CAMERA: torch.zeros(1, 3, 3, 40, 48)})


@pytest.mark.parametrize(
    ("base", "changed", "message"),
    [
        (DIFFUSION, {"horizon": 10}, r"horizon \(10\) is a multiple of 4"),
        (DIFFUSION, {"n_action_steps": 8}, r"n_action_steps \(8\) is at most horizon - n_obs_steps \+ 1 \(7\)"),
        (DIFFUSION, {"kernel_size": 4}, "odd"),
        (DIFFUSION, {"down_dims": [8, 12]}, "multiples of n_groups"),
        (DIFFUSION, {"use_group_norm": True, "pretrained_backbone_weights": "here"}, "null with use_group_norm"),
        (DIFFUSION, {"num_inference_steps": 11}, "at most num_train_timesteps"),
        (DIFFUSION, {"noise_scheduler_type": "DDIM", "beta_schedule": "sigmoid"}, "needs noise_scheduler_type DDPM"),
        (DIFFUSION, {"resize_shape": [4, 4], "crop_ratio": 0.1}, "leaves nothing"),
        (DIFFUSION, {"prediction_type": "v"}, "prediction_type"),
        (VQBET, {"gpt_n_head": 3}, "multiple of gpt_n_head"),
        (VQBET, {"gpt_block_size": 7}, "at least 8, the tokens of 2 observations and 3 chunks"),
        (VQBET, {"use_group_norm": True, "pretrained_backbone_weights": "here"}, "null with use_group_norm"),
        (VQBET, {"vqvae_n_embde": 3}, "did you mean 'vqvae_n_embed'"),
    ],
)
def test_configurations_that_cannot_be(base: dict, changed: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_policy_config(values(base, STATE, CAMERA, **changed))


@pytest.mark.parametrize(
    ("base", "inputs", "changed", "message"),
    [
        (DIFFUSION, (GOAL,), {}, r"needs observation\.state"),
        (DIFFUSION, (STATE,), {}, "see its surroundings"),
        (DIFFUSION, (STATE, CAMERA), {"crop_shape": [41, 20]}, r"crop is larger[\s\S]*\(40, 48\)"),
        (DIFFUSION, (STATE, GOAL), {"output_features": {}}, "needs an action"),
        (VQBET, (STATE, GOAL, CAMERA), {}, "cannot read this input"),
        (VQBET, (CAMERA,), {}, r"needs observation\.state"),
        (VQBET, (STATE,), {}, "exactly one camera"),
    ],
)
def test_features_that_do_not_fit(base: dict, inputs: tuple, changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(parse_policy_config(values(base, *inputs, **changed)))


def test_the_ratio_decides_the_crop() -> None:
    config = parse_policy_config(values(DIFFUSION, STATE, CAMERA, resize_shape=[30, 40], crop_ratio=0.5))
    assert config.crop_shape == (15, 20)
    assert parse_policy_config(config.entry()) == config
    whole = parse_policy_config(values(DIFFUSION, STATE, CAMERA, resize_shape=[30, 40], crop_shape=[9, 9]))
    assert whole.crop_shape is None

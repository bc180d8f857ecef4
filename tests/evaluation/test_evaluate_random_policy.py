"""Evaluations of policies that draw random numbers: the records are the same with any number of simulators."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.flags import build
from lerobot_ops.policies import make_policy, parse_policy_config
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.policy import make_processors

STATE = {"observation.state": {"type": "STATE", "shape": [4]}}
SURROUNDINGS = {"observation.environment_state": {"type": "ENV", "shape": [39]}}
CAMERA = {"observation.image": {"type": "VISUAL", "shape": [3, 48, 48]}}
DIFFUSION = {"type": "diffusion", "horizon": 16, "n_action_steps": 8, "down_dims": [8, 16], "num_train_timesteps": 5}
VQBET = {"type": "vqbet", "n_obs_steps": 3, "crop_shape": [40, 40], "gpt_hidden_dim": 16, "gpt_n_layer": 1}
VQBET |= {"gpt_n_head": 2, "gpt_input_dim": 16, "gpt_output_dim": 16, "gpt_block_size": 20, "action_chunk_size": 10}


def checkpoint(folder: Path, values: dict, inputs: dict) -> Path:
    torch.manual_seed(0)
    outputs = {"action": {"type": "ACTION", "shape": [4]}}
    features = {"input_features": inputs, "output_features": outputs, "pretrained_backbone_weights": None}
    policy = make_policy(parse_policy_config({**values, **features}))
    if values["type"] == "vqbet":
        policy.vqbet.action_head.vqvae_model.freeze()
    bounds = {"min": np.full(4, -1.0), "max": np.full(4, 1.0)}
    frames = {"mean": np.full((3, 1, 1), 0.5), "std": np.full((3, 1, 1), 0.5)}
    stats = {"observation.state": bounds, "action": bounds, "observation.image": frames}
    save_checkpoint(folder, policy, *make_processors(policy.config, stats, "cpu"))
    return folder


@pytest.mark.parametrize(
    ("policy", "inputs", "options"),
    [(DIFFUSION, STATE | SURROUNDINGS, {}), (VQBET, STATE | CAMERA, {"image_size": 48})],
    ids=["diffusion", "vqbet"],
)
def test_one_two_and_batched(policy: dict, inputs: dict, options: dict, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "pretrained_model", policy, inputs)
    outcomes = []
    for workers in (1, 2):
        values = {"policy": {"path": str(path)}, "env": {"episode_length": 24, "options": options}}
        values |= {"eval": {"n_episodes": 3, "batch_size": workers}, "clips": {"enable": False}}
        values |= {"sandbox": {"type": "venv"}, "output_dir": tmp_path / str(workers)}
        result = evaluate(build(EvalConfig, values, source="a test"))
        assert result.n_errors == 0
        outcomes.append([record.outcome() for record in result.records])
    assert outcomes[0] == outcomes[1]
    assert len({record.sum_reward for record in result.records}) == 3

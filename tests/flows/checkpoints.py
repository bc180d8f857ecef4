"""Policies for tests: small ACTs with random weights, whose behaviour is as definite as a trained one's."""

from pathlib import Path

import numpy as np
import torch

from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.policies.registry import make_policy

SIZES = {"observation.state": 4, "observation.environment_state": 39, "action": 4}
KINDS = {"observation.state": "STATE", "observation.environment_state": "ENV", "action": "ACTION"}


def checkpoint(folder: Path, action_mean: tuple[float, ...] = (0.0,) * 4, action_std: float = 1e-6) -> Path:
    """A policy for Meta-World that acts around `action_mean`."""
    torch.manual_seed(0)
    features = {name: {"type": KINDS[name], "shape": [size]} for name, size in SIZES.items()}
    config = ACTConfig(
        input_features={name: feature for name, feature in features.items() if name != "action"},
        output_features={"action": features["action"]},
        use_vae=False,
        dim_model=16,
        n_heads=2,
        dim_feedforward=16,
        n_encoder_layers=1,
        pretrained_backbone_weights=None,
    )
    stats = {
        name: {"mean": np.zeros(size, np.float32), "std": np.ones(size, np.float32)} for name, size in SIZES.items()
    }
    stats["action"] = {"mean": np.array(action_mean, np.float32), "std": np.full(4, action_std, np.float32)}
    save_checkpoint(folder, make_policy(config), *make_processors(config, stats, "cpu"))
    return folder

"""The optimisers of training against torch's own."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lerobot_ops.policies import make_policy, parse_policy_config
from lerobot_ops.policies.config import OptimizerConfig
from lerobot_ops.training.optimizer import clip_gradients, make_optimizer

POLICY = {
    "type": "act",
    "dim_model": 8,
    "n_heads": 2,
    "dim_feedforward": 8,
    "pretrained_backbone_weights": None,
    "input_features": {"observation.environment_state": {"type": "ENV", "shape": [2]}},
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}


@pytest.mark.parametrize(("kind", "torchs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_steps_are_torchs(kind: str, torchs: type[torch.optim.Adam]) -> None:
    settings = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-7, "weight_decay": 0.01}
    found = []
    for ours in (True, False):
        torch.manual_seed(0)
        policy = make_policy(parse_policy_config(POLICY))
        if ours:
            optimizer = make_optimizer(policy, OptimizerConfig(type=kind, grad_clip_norm=0, **settings))
        else:
            optimizer = torchs(policy.parameter_groups(), fused=True, **settings)
        schedule = LambdaLR(optimizer, lambda step: 0.9**step)
        for _ in range(3):
            for parameter in policy.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        found.append((nn.utils.parameters_to_vector(policy.parameters()), optimizer.state_dict()["param_groups"]))
    (weights, groups), (torchs_weights, torchs_groups) = found
    assert torch.equal(weights, torchs_weights)
    assert groups == torchs_groups


def test_no_compiler_is_imported_to_make_a_step() -> None:
    """It takes as long as everything else before the first step."""
    code = """
import sys, torch
from lerobot_ops.policies import make_policy, parse_policy_config
from lerobot_ops.training.optimizer import clip_gradients, make_optimizer
policy = make_policy(parse_policy_config({config}))
optimizer = make_optimizer(policy)
for parameter in policy.parameters():
    parameter.grad = torch.ones_like(parameter)
optimizer.step(), optimizer.zero_grad()
print("torch._dynamo" in sys.modules)
"""
    made = subprocess.run(
        [sys.executable, "-c", code.format(config=POLICY)], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "False"


@pytest.mark.parametrize(("limit", "torchs"), [(0.5, 0.5), (1e6, 1e6), (0, float("inf"))])
def test_gradients_are_clipped_as_torch_does(limit: float, torchs: float) -> None:
    policy = make_policy(parse_policy_config(POLICY))
    torch.manual_seed(0)
    gradients = [torch.randn_like(parameter) for parameter in policy.parameters()]
    found = []
    for ours in (True, False):
        for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        parameters = list(policy.parameters())
        norm = clip_gradients(policy, limit) if ours else torch.nn.utils.clip_grad_norm_(parameters, torchs)
        found.append([norm, *(parameter.grad for parameter in parameters)])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))

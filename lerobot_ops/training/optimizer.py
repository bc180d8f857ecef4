"""The optimiser of a policy's training preset, and its state as LeRobot's safetensors and JSON."""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lerobot_ops.artifacts import write_json
from lerobot_ops.errors import CheckpointError, ConfigError, did_you_mean
from lerobot_ops.policies.config import OptimizerConfig
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.weights import read_tensors, write_tensors
from lerobot_ops.training.distributed import World
from lerobot_ops.training.sharding import copied, part_like, whole

STATE = "optimizer_state.safetensors"
GROUPS = "optimizer_param_groups.json"
_TINY = 1e-6
"""What torch adds to a norm before it divides by it."""


class _Bare(torch.optim.Adam):
    """Adam without what keeps the compiler out of its methods: that imports the compiler, two seconds of it."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class _Adam(_Bare):
    """torch.optim.Adam."""


class _AdamW(_Bare, torch.optim.AdamW):
    """torch.optim.AdamW."""


_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adamw": _AdamW, "adam": _Adam}


def make_optimizer(policy: Policy, config: OptimizerConfig | None = None) -> torch.optim.Optimizer:
    """The optimiser that the policy's preset asks for, or `config`; its step is one fused kernel for all parameters."""
    config = config or policy.config.optimizer()
    if config.type not in _OPTIMIZERS:
        raise ConfigError("unknown optimiser", found=config.type, fix=did_you_mean(config.type, _OPTIMIZERS))
    make: Any = _OPTIMIZERS[config.type]
    optimizer: torch.optim.Optimizer = make(
        policy.parameter_groups() if policy.adapter is None else [{"params": policy.adapter.parameters()}],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    return optimizer


def clip_gradients(policy: Policy, limit: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `limit` (0: no limit); returns the norm before."""
    parameters = list(policy.parameters())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    before = whole(norm)
    within = limit <= 0 or (before.device.type == "cpu" and bool(before + _TINY <= limit))  # a GPU is not waited for
    if not within:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm, foreach=True)
    return before


def optimizer_tensors(optimizer: torch.optim.Optimizer, world: World) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Copies on the CPU of process 0 of its state, by `state/<parameter>/<name>`, and its parameter groups."""
    content = optimizer.state_dict()
    tensors = {
        f"state/{index}/{name}": value
        for index, values in sorted(content["state"].items())
        for name, value in sorted(values.items())
    }
    # how a step is computed is no part of its state, and LeRobot, whose steps are not fused, would refuse it
    return copied(tensors, world), [{**group, "fused": None} for group in content["param_groups"]]


def write_optimizer(state: tuple[dict[str, Tensor], list[dict[str, Any]]], directory: Path) -> None:
    """Write what `optimizer_tensors` gave, in LeRobot's files."""
    tensors, groups = state
    write_tensors(directory / STATE, tensors)
    write_json(directory / GROUPS, groups, indent=4)


def load_optimizer(optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Continue with the state that `write_optimizer` wrote; raises CheckpointError when it is not this optimiser's."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(directory / STATE).items():
        _, index, name = key.split("/")
        state.setdefault(int(index), {})[name] = tensor
    try:
        stored = json.loads((directory / GROUPS).read_text(encoding="utf-8"))
        groups = [{**group, "fused": own["fused"]} for group, own in zip(stored, optimizer.param_groups, strict=True)]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, values in state.items():
            if any(value.ndim and value.shape != parameters[number].shape for value in values.values()):
                raise ValueError(f"parameter {number} has another shape: it is of another policy, or in another order")
            state[number] = {name: part_like(value, parameters[number]) for name, value in values.items()}
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(
            "the optimiser's state does not fit the policy", file=directory / GROUPS, found=str(error)
        ) from None

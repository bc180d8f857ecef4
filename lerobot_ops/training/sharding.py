"""Tensors of which every process of a training holds a part (FSDP2): made from whole ones, and whole again.

https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from lerobot_ops.training.distributed import World


def shard(policy: nn.Module, mesh: "DeviceMesh") -> None:
    """Let every process hold its part of the parameters: layer by layer, so that few are whole at a time.

    Layers are the elements of a ModuleList. Checkpoints are loaded as ever: `load_state_dict` takes whole tensors.
    """
    from torch.distributed.fsdp import fully_shard

    for layer in _layers(policy):
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    policy.register_load_state_dict_pre_hook(_take_parts)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            if any(True for _ in child.parameters()):
                yield child
        else:
            yield from _layers(child)


def _take_parts(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    own = module.state_dict()
    for name in own.keys() & state.keys():
        state[name] = part_like(state[name], own[name])


def part_like(value: Any, own: Any) -> Any:
    """The part of a whole tensor that this process holds of `own`; where that is not sharded, `value` itself."""
    if not is_part(own) or is_part(value) or value.shape != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    whole = value.to(own.device)
    # every process has read the same file, so none has to send anything
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)


def is_part(value: Any) -> bool:
    """Whether this is torch's DTensor: the part that this process holds of a tensor."""
    return hasattr(value, "full_tensor")


def own_parts(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """What this process holds of each tensor: what is done to it is done to the tensor."""
    return {name: value.to_local() if is_part(value) else value for name, value in tensors.items()}


def whole(value: Any) -> Tensor:
    """All of a tensor of which each process holds a part; every process is to call this."""
    complete: Tensor = value.full_tensor() if is_part(value) else torch.as_tensor(value)
    return complete


def copied(tensors: Mapping[str, Any], world: "World") -> dict[str, Tensor]:
    """Whole copies on the CPU for process 0, and nothing for the others; every process is to call this."""
    found = {}
    for name, value in tensors.items():
        if world.is_main or is_part(value):
            complete = whole(value)
            if world.is_main:
                found[name] = complete.detach().to("cpu", copy=True).contiguous()
    return found

"""A policy's weights as `model.safetensors`: written whole, loaded only where every name and shape agrees."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lerobot_ops.artifacts import write_parts
from lerobot_ops.errors import CheckpointError, did_you_mean
from lerobot_ops.hub.checkpoints import WEIGHTS

OLD_NORMALIZERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""What the statistics among the weights of a checkpoint from before LeRobot's processors are called."""
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""Their names in a file, whose tensors are in the reverse of this order."""
_DRAWS = (torch.Tensor.uniform_, torch.Tensor.normal_)
"""What those functions of `torch.nn.init` come to that no mode can override."""
_SHOWN = 6


class Unfilled(TorchFunctionMode):
    """In this block layers get parameters without values, for a checkpoint to fill: random ones take seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = kwargs or {}
        tensor = args[0] if args else values.get("tensor")
        fills = getattr(func, "__module__", None) == "torch.nn.init" or func in _DRAWS
        if fills and isinstance(tensor, nn.Parameter):
            return tensor
        return func(*args, **values)


def save_weights(weights: Mapping[str, Tensor], directory: Path, name: str = WEIGHTS) -> None:
    """Write a state dict: the same weights give the same bytes."""
    write_tensors(directory / name, weights)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, with the bytes that the library's own `save` gives, but from where the tensors lie.

    That one makes two copies of them all. https://huggingface.co/docs/safetensors/index#format
    """
    names = sorted(tensors, key=lambda name: (-list(_DTYPES).index(tensors[name].dtype), name))
    header: dict[str, object] = {}
    begin = 0
    for name in names:
        end = begin + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _DTYPES[tensors[name].dtype], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    flat = (tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8) for name in names)
    write_parts(
        file, itertools.chain([len(text).to_bytes(8, "little"), text], (bytes_.numpy().data for bytes_ in flat))
    )


def load_weights(policy: nn.Module, directory: Path) -> None:
    """Replace the policy's weights by a checkpoint's; raises CheckpointError when a name or a shape differs."""
    file = directory / WEIGHTS
    tensors = read_tensors(file)
    if any(name.startswith(OLD_NORMALIZERS) for name in tensors):
        raise CheckpointError(
            "the checkpoint is from before LeRobot's processors: its normaliser is among the weights",
            file=file,
            fix=f"lerobot-ops migrate {directory} NEW_FOLDER",
        )
    require_fit(tensors, policy.state_dict(), file)
    policy.load_state_dict(tensors)


def require_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: Path) -> None:
    """Raise CheckpointError, naming all that is wrong, unless `tensors` have the names and shapes that are expected."""
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    shapes = [
        f"{name} {tuple(tensors[name].shape)} in place of {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(tensors))
        if tensors[name].shape != expected[name].shape
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    lines = [f"  {kind} ({len(names)}): {_few(names)}" for kind, names in wrong.items() if names]
    if not lines:
        return
    fix = "use the config.json that the weights were saved with, and the code version of its manifest.json"
    if missing and unexpected:
        fix = f"of {unexpected[0]!r}: {did_you_mean(unexpected[0], missing)}; {fix}"
    raise CheckpointError(
        "the weights are not those of the policy that config.json describes\n" + "\n".join(lines),
        file=file,
        found=f"{len(tensors)} tensors",
        expected=f"{len(expected)} tensors",
        fix=fix,
    )


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises CheckpointError when it is missing or damaged."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise CheckpointError("the checkpoint's tensors are missing", file=file, found="no such file") from None
    except SafetensorError as error:
        raise CheckpointError(
            "the checkpoint's tensors cannot be read", file=file, found=str(error), expected="a whole safetensors file"
        ) from None


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

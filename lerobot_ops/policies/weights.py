"""A policy's weights as `model.safetensors`: written whole, loaded only where every name and shape agrees."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.errors import CheckpointError, did_you_mean

WEIGHTS = "model.safetensors"


def save_weights(weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write a state dict: the same weights give the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_bytes(directory / WEIGHTS, save(tensors))


def load_weights(policy: nn.Module, directory: Path) -> None:
    """Replace the policy's weights by a checkpoint's; raises CheckpointError when a name or a shape differs."""
    file = directory / WEIGHTS
    tensors = read_tensors(file)
    expected = policy.state_dict()
    if any(name.startswith(("normalize_inputs.", "unnormalize_outputs.")) for name in tensors):
        raise CheckpointError(
            "the checkpoint is from before LeRobot's processors",
            file=file,
            fix="convert it with `python -m lerobot.processor.migrate_policy_normalization`",
        )
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing:
        raise CheckpointError(
            f"the weights lack {len(missing)} tensor(s) of the policy", file=file, expected=_few(missing)
        )
    if unexpected:
        raise CheckpointError(
            f"the weights have {len(unexpected)} tensor(s) that the policy does not",
            file=file,
            found=_few(unexpected),
            fix=did_you_mean(unexpected[0], expected),
        )
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                "a tensor has another shape than config.json says",
                file=file,
                field=name,
                found=tuple(tensors[name].shape),
                expected=tuple(tensor.shape),
            )
    policy.load_state_dict(tensors)


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
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

"""Where a policy computes."""

import torch

from lerobot_ops.errors import ConfigError


def best_device(name: str | None) -> str:
    """`name`, or the best device that is there: `cuda`, `mps` or `cpu`; raises ConfigError when `name` is not."""
    if name is None or name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            "the device cannot be used",
            field="device",
            found=f"{name}: {str(error).splitlines()[0]}",
            expected=f"cpu, cuda or mps; here the best is {best_device(None)}",
        ) from None
    return name

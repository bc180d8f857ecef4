"""Which process of a training this is, as launchers say it in the environment. Needs no torch."""

import os

from lerobot_ops.errors import ConfigError


def process() -> tuple[int, int, int]:
    """(rank, number of processes, rank on this machine), as torchrun and `accelerate launch` set them; alone (0, 1, 0).

    Raises ConfigError when they make no sense.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    found = [os.environ.get(name) for name in names]
    if found[1] in (None, "1"):
        return 0, 1, 0
    try:
        rank, size, local = (int(value or 0) for value in found)
    except ValueError:
        rank, size, local = -1, 0, 0
    if not 0 <= rank < size or not os.environ.get("MASTER_ADDR"):
        raise ConfigError(
            "the environment says that this is one process of several, but not how to find the others",
            found=", ".join(f"{name}={value}" for name, value in zip(names, found, strict=True)),
            fix="start the training with torchrun, or unset WORLD_SIZE",
        )
    return rank, size, local


def is_main() -> bool:
    """Whether this process is the one that writes and logs."""
    return process()[0] == 0


def quiet_torch() -> None:
    """Before torch is imported in one of several processes: have it tell errors only.

    Every process would tell that it looks for parameters without a gradient and has found none.
    """
    if process()[1] > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

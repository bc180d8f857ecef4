"""What resuming needs beside the policy: step, random numbers, optimiser, schedule and the log's unfinished line."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lerobot_ops.artifacts import write_bytes, write_json
from lerobot_ops.errors import CheckpointError
from lerobot_ops.policies.weights import read_tensors
from lerobot_ops.training.log import Window
from lerobot_ops.training.optimizer import load_optimizer, save_optimizer
from lerobot_ops.training.schedulers import load_scheduler, save_scheduler

STEP = "training_step.json"
RANDOM = "rng_state.safetensors"
WINDOW = "log_window.json"


def save_state(
    directory: Path,
    *,
    step: int,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR | None,
    window: Window,
) -> None:
    """Write `training_state`, in LeRobot's layout; `log_window.json` is ours."""
    directory.mkdir(parents=True)
    parallelism = {"dp_replicate": 1, "dp_shard": 1, "ring_degree": 1, "ulysses_degree": 1}
    counts = {"step": step, "dp_world_size": 1, "batch_size": batch_size, "grad_accum_steps": 1}
    write_json(directory / STEP, counts | {"parallelism": parallelism}, indent=4)
    write_bytes(directory / RANDOM, save(_random_state()))
    save_optimizer(optimizer, directory)
    if scheduler is not None:
        save_scheduler(scheduler, directory)
    write_json(directory / WINDOW, window.sums())


def load_state(directory: Path, optimizer: torch.optim.Optimizer, scheduler: LambdaLR | None, window: Window) -> None:
    """Continue where `save_state` was called; raises CheckpointError when a file is missing or damaged."""
    load_optimizer(optimizer, directory)
    if scheduler is not None:
        load_scheduler(scheduler, directory)
    tensors = read_tensors(directory / RANDOM)
    try:
        torch.set_rng_state(tensors["torch_rng_state"])
        if torch.cuda.is_available() and "torch_cuda_rng_state" in tensors:
            torch.cuda.set_rng_state(tensors["torch_cuda_rng_state"])
        window.load(json.loads((directory / WINDOW).read_text(encoding="utf-8")))
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError("the training's state cannot be read", file=directory, found=str(error)) from None


def _random_state() -> dict[str, Tensor]:
    """The state of torch's generators; Python's and numpy's, which training leaves alone, as LeRobot expects them."""
    version, words, _ = random.Random(0).getstate()  # noqa: S311
    values = np.random.RandomState(0).get_state(legacy=False)["state"]
    state = {
        "py_rng_version": torch.tensor([version]),
        "py_rng_state": torch.tensor(words),
        "np_rng_state_values": torch.tensor(values["key"].astype(np.int64)),
        "np_rng_state_index": torch.tensor([values["pos"]]),
        "np_rng_has_gauss": torch.tensor([0]),
        "np_rng_cached_gaussian": torch.tensor([0.0]),
        "torch_rng_state": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["torch_cuda_rng_state"] = torch.cuda.get_rng_state()
    return state

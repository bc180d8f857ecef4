"""What resuming needs beside the policy: step, random numbers, optimiser, schedule and the log's unfinished line."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from lerobot_ops.artifacts import write_bytes, write_json
from lerobot_ops.errors import CheckpointError
from lerobot_ops.policies.weights import read_tensors
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.log import Window
from lerobot_ops.training.optimizer import load_optimizer, optimizer_tensors, write_optimizer
from lerobot_ops.training.schedulers import load_scheduler, write_scheduler

if TYPE_CHECKING:
    from lerobot_ops.training.learner import Learner

STEP = "training_step.json"
RANDOM = "rng_state.safetensors"
WINDOW = "log_window.json"


@dataclass(frozen=True)
class TrainingState:
    """The state after one step, apart from what goes on changing."""

    counts: dict[str, Any]
    random: dict[str, Tensor]
    optimizer: tuple[dict[str, Tensor], list[dict[str, Any]]]
    """Tensors by `state/<parameter>/<name>`, and the parameter groups."""
    scheduler: dict[str, Any] | None
    scaler: dict[str, Any] | None
    window: dict[str, float]

    @classmethod
    def of(cls, config: TrainConfig, learner: "Learner", step: int, window: Window) -> "TrainingState":
        """Copy it, to the CPU."""
        counts = {"step": step, "dp_world_size": 1, "batch_size": config.batch_size}
        counts["grad_accum_steps"] = config.accelerator.gradient_accumulation.steps
        parallelism = {"dp_replicate": 1, "dp_shard": 1, "ring_degree": 1, "ulysses_degree": 1}
        return cls(
            counts={**counts, "parallelism": parallelism},
            random=_random_state(),
            optimizer=optimizer_tensors(learner.optimizer),
            scheduler=None if learner.scheduler is None else dict(learner.scheduler.state_dict()),
            scaler=learner.precision.state(),
            window=window.sums(),
        )

    def write(self, directory: Path) -> None:
        """Write `training_state`, in LeRobot's layout; `log_window.json` and `grad_scaler.json` are ours."""
        directory.mkdir(parents=True)
        write_json(directory / STEP, self.counts, indent=4)
        write_bytes(directory / RANDOM, save(self.random))
        write_optimizer(self.optimizer, directory)
        if self.scheduler is not None:
            write_scheduler(self.scheduler, directory)
        if self.scaler is not None:
            write_json(directory / "grad_scaler.json", self.scaler)
        write_json(directory / WINDOW, self.window)


def load_state(directory: Path, learner: "Learner", window: Window) -> None:
    """Continue where a state was written; raises CheckpointError when a file is missing or damaged."""
    load_optimizer(learner.optimizer, directory)
    if learner.scheduler is not None:
        load_scheduler(learner.scheduler, directory)
    learner.precision.load(directory)
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

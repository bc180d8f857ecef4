"""What resuming needs beside the policy: step, random numbers, optimiser, schedule and the log's unfinished line."""

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from lerobot_ops.artifacts import write_bytes, write_json
from lerobot_ops.errors import CheckpointError
from lerobot_ops.policies.weights import read_tensors
from lerobot_ops.training.distributed import World, reseed
from lerobot_ops.training.log import Window
from lerobot_ops.training.optimizer import load_optimizer, optimizer_tensors, write_optimizer
from lerobot_ops.training.sampler import Position
from lerobot_ops.training.schedulers import load_scheduler, write_scheduler

if TYPE_CHECKING:
    from lerobot_ops.training.learner import Learner

STEP = "training_step.json"
RANDOM = "rng_state.safetensors"
WINDOW = "log_window.json"


@dataclass(frozen=True)
class Counts:
    """How far a training is, and in batches of which size it came there."""

    step: int
    processes: int = 1
    batch_size: int = 1
    """Of one process."""
    grad_accum_steps: int = 1
    origin: Position = field(default_factory=Position)
    """Where in the order of frames its batches are counted from."""
    parallelism: tuple[int, int] = (1, 1)
    """Groups of processes that hold the whole policy, and parts of it in each."""

    @property
    def batches(self) -> int:
        """How many batches have been learned from."""
        return self.step * self.grad_accum_steps

    @property
    def frames(self) -> int:
        """Frames of a batch, of all processes."""
        return self.processes * self.batch_size

    def entry(self) -> dict[str, Any]:
        """LeRobot's JSON object; `num_processes` is what 0.6.1 and earlier ones call `dp_world_size`, `order` ours."""
        replicas, shards = self.parallelism
        parallelism = {"dp_replicate": replicas, "dp_shard": shards, "ring_degree": 1, "ulysses_degree": 1}
        order = {} if self.origin == Position() else {"order": asdict(self.origin)}
        return {
            "step": self.step,
            "dp_world_size": self.processes,
            "num_processes": self.processes,
            "batch_size": self.batch_size,
            "grad_accum_steps": self.grad_accum_steps,
            "parallelism": parallelism,
            **order,
        }

    @classmethod
    def read(cls, directory: Path, default: "Counts") -> "Counts":
        """Those of a checkpoint; what an old one of LeRobot does not say is as in `default`."""
        try:
            entry = json.loads((directory / STEP).read_text(encoding="utf-8"))
            return cls(
                step=int(entry["step"]),
                processes=int(entry.get("dp_world_size") or entry.get("num_processes") or default.processes),
                batch_size=int(entry.get("batch_size") or default.batch_size),
                grad_accum_steps=int(entry.get("grad_accum_steps") or 1),
                origin=Position(**entry.get("order", {})),
            )
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                "the training's state cannot be read", file=directory / STEP, found=str(error)
            ) from None


@dataclass(frozen=True)
class TrainingState:
    """The state after one step, apart from what goes on changing."""

    counts: Counts
    random: list[dict[str, Tensor]]
    """Of every process."""
    optimizer: tuple[dict[str, Tensor], list[dict[str, Any]]]
    """Tensors by `state/<parameter>/<name>`, and the parameter groups."""
    scheduler: dict[str, Any] | None
    scaler: dict[str, Any] | None
    window: dict[str, Any]

    @classmethod
    def of(cls, learner: "Learner", window: Window, counts: Counts) -> "TrainingState":
        """Copy it, to the CPU of process 0; every process is to call this."""
        return cls(
            counts=counts,
            random=_random_states(learner.world),
            optimizer=optimizer_tensors(learner.optimizer, learner.world),
            scheduler=None if learner.scheduler is None else dict(learner.scheduler.state_dict()),
            scaler=learner.precision.state(),
            window=window.sums(learner.world),
        )

    def write(self, directory: Path) -> None:
        """Write `training_state`, in LeRobot's layout.

        `log_window.json`, `grad_scaler.json` and `rng_state_<process>.safetensors` are ours.
        """
        directory.mkdir(parents=True)
        write_json(directory / STEP, self.counts.entry(), indent=4)
        for rank, state in enumerate(self.random):
            write_bytes(directory / _random_file(rank), save(state))
        write_optimizer(self.optimizer, directory)
        if self.scheduler is not None:
            write_scheduler(self.scheduler, directory)
        if self.scaler is not None:
            write_json(directory / "grad_scaler.json", self.scaler)
        write_json(directory / WINDOW, self.window)


def load_state(directory: Path, learner: "Learner", window: Window, seed: int) -> None:
    """Continue where a state was written; raises CheckpointError when a file is missing or damaged.

    A process that had no part in writing it draws its random numbers from the seed and the step; LeRobot writes them
    for process 0 alone, and nothing for the log.
    """
    rank = learner.world.rank
    load_optimizer(learner.optimizer, directory)
    if learner.scheduler is not None:
        load_scheduler(learner.scheduler, directory)
    learner.precision.load(directory)
    try:
        if rank and not (directory / _random_file(rank)).exists():
            reseed(learner.world, seed, Counts.read(directory, Counts(0)).step)
        else:
            tensors = read_tensors(directory / _random_file(rank))
            torch.set_rng_state(tensors["torch_rng_state"])
            if torch.cuda.is_available() and "torch_cuda_rng_state" in tensors:
                torch.cuda.set_rng_state(tensors["torch_cuda_rng_state"])
        if (directory / WINDOW).exists():
            window.load(json.loads((directory / WINDOW).read_text(encoding="utf-8")), learner.world)
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError("the training's state cannot be read", file=directory, found=str(error)) from None


def _random_file(rank: int) -> str:
    return RANDOM if rank == 0 else f"rng_state_{rank}.safetensors"


def _random_states(world: World) -> list[dict[str, Tensor]]:
    """The states of torch's generators in every process; in the first, Python's and numpy's, too."""
    states = [_random_state()]
    on_cpu = world.gathered(torch.get_rng_state())
    on_cuda = world.gathered(torch.cuda.get_rng_state()) if torch.cuda.is_available() else []
    for rank in range(1, world.size):
        states.append({"torch_rng_state": on_cpu[rank]})
        if on_cuda:
            states[rank]["torch_cuda_rng_state"] = on_cuda[rank]
    return states


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

"""Episodes that are kept from the training, to see what the policy makes of what it did not learn from."""

import csv
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.datasets.loader import read_ahead
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.errors import ConfigError
from lerobot_ops.training.config import EarlyStopConfig, TrainConfig
from lerobot_ops.training.data import BatchReader, as_recorded, scaled
from lerobot_ops.training.learner import Learner

FILE = "eval_loss.csv"


class HeldOut:
    """The held-out episodes, and the policy's mean loss on them."""

    def __init__(self, dataset: LeRobotDataset, config: TrainConfig, learner: Learner) -> None:
        self.config = config
        drop = learner.policy.config.n_last_frames_dropped
        self.rows = sampled_frames(dataset, config.max_eval_samples, drop)
        as_bytes = torch.device(learner.device).type != "cpu"
        self.read = BatchReader(
            dataset, as_recorded(learner.policy.config, config.rename_map), seed=config.seed, as_bytes=as_bytes
        )

    @torch.no_grad()
    def loss(self, learner: Learner, stopped: Callable[[], bool] = lambda: False) -> float | None:
        """The loss in evaluation mode, averaged over frames; of the averaged weights where they are to be used.

        None as soon as `stopped` says so. Random numbers are the same at every look, and the training's own are as
        before afterwards. Every process takes its share of the batches, and as many as the others.
        """
        policy, size, world = learner.policy, self.config.batch_size, learner.world
        average = learner.average if learner.average is not None and learner.average.config.use_for_eval else None
        total = torch.zeros((), dtype=torch.float64)
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        policy.eval()
        try:
            with torch.random.fork_rng(devices=devices), average.in_place_of(policy) if average else nullcontext():
                torch.manual_seed(self.config.seed)
                every = [self.rows[start : start + size] for start in range(0, len(self.rows), size)]
                own = [(part, len(part)) for part in every[world.rank :: world.size]]
                own += [(every[0], 0)] * (-(-len(every) // world.size) - len(own))
                wanted = [part for part, _ in own]
                threads, ahead = max(1, self.config.num_workers), self.config.prefetch_factor
                read = read_ahead(self.read, wanted, threads=threads, ahead=ahead)
                for (_, weight), batch in zip(own, read, strict=True):
                    if stopped():
                        return None
                    ready = learner.preprocessor(scaled(batch, learner.device))
                    with learner.precision.autocast():
                        loss, _ = policy(ready)
                    total += weight * loss.double().cpu()
        finally:
            policy.train()
        return float(sum(world.gathered(total)) / len(self.rows))


class Looks:
    """The losses on held-out episodes so far, kept in `eval_loss.csv`; lines after step `start` are an older run's."""

    def __init__(self, root: Path, config: EarlyStopConfig, start: int) -> None:
        self.path, self.config = root / FILE, config
        self.losses = {step: loss for step, loss in _read(self.path).items() if step <= start}
        if self.path.exists():
            self._write()

    def add(self, step: int, loss: float, *, write: bool = True) -> None:
        """Note a look, and `write` it."""
        self.losses[step] = loss
        if write:
            self._write()

    def best(self, steps: Iterable[int]) -> int | None:
        """Of `steps`, such as those with a checkpoint, the one with the lowest loss, the first of them."""
        looked = [step for step in steps if step in self.losses]
        return min(looked, key=lambda step: (self.losses[step], step), default=None)

    @property
    def enough(self) -> bool:
        """Whether so many looks in a row brought nothing that training is to end."""
        lowest, since = math.inf, 0
        for loss in self.losses.values():
            since = 0 if loss < lowest - self.config.min_delta else since + 1
            lowest = min(lowest, loss)
        return 0 < self.config.patience <= since

    def _write(self) -> None:
        lines = [f"{step},{loss!r}" for step, loss in self.losses.items()]
        write_bytes(self.path, ("\n".join(["step,eval_loss", *lines]) + "\n").encode())


def parted(dataset: LeRobotDataset, share: float) -> tuple[list[int], list[int]]:
    """The episodes to train on, and those held out: of every task the last ceil(share * n), by its first frame's task.

    Raises ConfigError when a task would have no episode left to train on.
    """
    tasks = _task_of_episodes(dataset)
    kept: list[int] = []
    held: list[int] = []
    for task in np.unique(tasks):
        episodes = dataset.episodes[tasks == task].tolist()
        count = math.ceil(len(episodes) * share)
        if count == len(episodes):
            raise ConfigError(
                "a task would have no episode to train on",
                field="dataset.eval_split",
                found=f"{share} of the {len(episodes)} episode(s) of {dataset.tasks[task]!r}",
                fix="record more episodes, or hold out a smaller share",
            )
        kept += episodes[: len(episodes) - count]
        held += episodes[len(episodes) - count :]
    return sorted(kept), sorted(held)


def sampled_frames(dataset: LeRobotDataset, most: int, drop_n_last_frames: int = 0) -> NDArray[np.int64]:
    """The rows to look at, int64 (n,): those that training would start from, or each task's first ones up to `most`."""
    first, last = dataset.episode_bounds
    ends = np.maximum(last - drop_n_last_frames, first + 1)
    rows = [np.arange(start, end) for start, end in zip(first, ends, strict=True)]
    if not most:
        return np.concatenate(rows)
    tasks = _task_of_episodes(dataset)
    known = np.unique(tasks)
    each = max(1, most // len(known))
    by_task = [np.concatenate([r for r, own in zip(rows, tasks, strict=True) if own == task])[:each] for task in known]
    return np.sort(np.concatenate(by_task))


def _task_of_episodes(dataset: LeRobotDataset) -> NDArray[np.int64]:
    first, _ = dataset.episode_bounds
    tasks: NDArray[np.int64] = dataset.column("task_index").reshape(-1)[first]
    return tasks


def _read(path: Path) -> dict[int, float]:
    if not path.exists():
        return {}
    with path.open(newline="") as lines:
        return {int(line["step"]): float(line["eval_loss"]) for line in csv.DictReader(lines)}

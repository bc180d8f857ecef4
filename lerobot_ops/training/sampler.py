"""Which frames are in which batch: a function of the seed and the step alone, so a resumed run needs no state."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Position:
    """A place in the order of the frames."""

    batches: int = 0
    """How many batches were before it."""
    epoch: int = 0
    start: int = 0
    """How many frames of the epoch were before it."""

    def after(self, batches: int, batch_size: int, frames: int) -> "Position":
        """Where the batch begins that comes so many batches later, in epochs of so many frames."""
        rest = -(-(frames - self.start) // batch_size)
        if batches < rest:
            return Position(self.batches + batches, self.epoch, self.start + batches * batch_size)
        epochs, place = divmod(batches - rest, -(-frames // batch_size))
        return Position(self.batches + batches, self.epoch + 1 + epochs, place * batch_size)


class EpisodeAwareSampler:
    """Every epoch visits each frame once, in an order drawn from (seed, epoch); the last batch may be smaller.

    `first` and `last` are the bounds of the episodes, int64 (E,), `last` exclusive; the last `drop_n_last_frames` of
    an episode are left out. With `weights`, one for every frame, an epoch draws as many frames with these odds.
    A batch may be shared by several processes, which learn from about equal parts of it.
    """

    def __init__(
        self,
        first: NDArray[np.int64],
        last: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        drop_n_last_frames: int = 0,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        kept = [np.arange(start, end - drop_n_last_frames) for start, end in zip(first, last, strict=True)]
        self.frames: NDArray[np.int64] = np.concatenate(kept or [np.empty(0, np.int64)]).astype(np.int64)
        self.weights = None if weights is None else torch.from_numpy(weights[self.frames])
        self.batch_size, self.seed = batch_size, seed
        self.batches_per_epoch = -(-len(self.frames) // batch_size)
        self.origin = Position()
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    def batch(self, step: int) -> NDArray[np.int64]:
        """The frames (batch_size,), or fewer, of the batch with this number, from 0."""
        at = self.position(step)
        return self._order(at.epoch)[at.start : at.start + self.batch_size]

    def part(self, step: int, rank: int, size: int) -> tuple[NDArray[np.int64], float]:
        """What process `rank` of `size` learns from of a batch, and how much that weighs against the mean part.

        A process that a small last batch has no frame for gets one that weighs nothing.
        """
        batch = self.batch(step)
        part = np.array_split(batch, size)[rank]
        return (part, len(part) * size / len(batch)) if len(part) else (batch[:1], 0.0)

    def position(self, step: int) -> "Position":
        """Where the batch with this number begins."""
        return self.origin.after(step - self.origin.batches, self.batch_size, len(self.frames))

    def go_on(self, batches: int, batch_size: int, origin: "Position") -> bool:
        """Go on after `batches`, counted from `origin`, which may have had another size; whether they are as before."""
        same = batch_size == self.batch_size
        self.origin = origin if same else origin.after(batches - origin.batches, batch_size, len(self.frames))
        return same

    def epochs(self, step: int) -> float:
        """How often all frames have been visited after this many batches."""
        return step / self.batches_per_epoch

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        generator = torch.Generator()
        generator.manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]))
        count = len(self.frames)
        if self.weights is None:
            return self.frames[torch.randperm(count, generator=generator).numpy()]
        # Not torch.multinomial, which takes at most 2**24 weights.
        chance = torch.rand(count, dtype=torch.float64, generator=generator) * self.weights.sum()
        return self.frames[torch.searchsorted(self.weights.cumsum(0), chance, right=True).clamp_max(count - 1).numpy()]


def frame_weights(dataset: LeRobotDataset, task_weights: Mapping[str, float] | None) -> NDArray[np.float64] | None:
    """The weight of every frame by its task, float64 (frames,), 1 for a task that is not named; none without any.

    Raises ConfigError when a task is not the dataset's, or nothing would be drawn.
    """
    if not task_weights:
        return None
    for task in task_weights:
        if task not in dataset.tasks:
            raise ConfigError(
                "the dataset has no such task",
                field="dataset.task_weights",
                found=task,
                fix=did_you_mean(task, dataset.tasks),
            )
    by_task = np.array([task_weights.get(task, 1.0) for task in dataset.tasks])
    weights: NDArray[np.float64] = by_task[dataset.column("task_index").reshape(-1)]
    if not weights.any():
        raise ConfigError("no frame would be drawn", field="dataset.task_weights", found=dict(task_weights))
    return weights

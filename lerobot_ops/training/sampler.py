"""Which frames are in which batch: a function of the seed and the step alone, so a resumed run needs no state."""

import functools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.errors import ConfigError, did_you_mean


class EpisodeAwareSampler:
    """Every epoch visits each frame once, in an order drawn from (seed, epoch); the last batch may be smaller.

    `first` and `last` are the bounds of the episodes, int64 (E,), `last` exclusive; the last `drop_n_last_frames` of
    an episode are left out. With `weights`, one for every frame, an epoch draws as many frames with these odds.
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
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    def batch(self, step: int) -> NDArray[np.int64]:
        """The frames (batch_size,), or fewer, of the batch with this number, from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

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

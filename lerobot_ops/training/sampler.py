"""Which frames are in which batch: a function of the seed and the step alone, so a resumed run needs no state."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray


class EpisodeAwareSampler:
    """Every epoch visits each frame once, in an order drawn from (seed, epoch); the last batch may be smaller.

    `first` and `last` are the bounds of the episodes, int64 (E,), `last` exclusive; the last `drop_n_last_frames` of
    an episode are left out.
    """

    def __init__(
        self,
        first: NDArray[np.int64],
        last: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        drop_n_last_frames: int = 0,
    ) -> None:
        kept = [np.arange(start, end - drop_n_last_frames) for start, end in zip(first, last, strict=True)]
        self.frames: NDArray[np.int64] = np.concatenate(kept or [np.empty(0, np.int64)]).astype(np.int64)
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
        order = torch.randperm(len(self.frames), generator=generator).numpy()
        return self.frames[order]

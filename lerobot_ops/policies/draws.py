"""Where a policy's random numbers come from: torch's generator, or one generator for every row of a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Numbers of torch's own generator, as training and LeRobot draw them."""

    def randn(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers with the type and device of `like`; the first dimension is the batch's."""
        return torch.randn(tuple(shape), dtype=like.dtype, device=like.device)

    def choose(self, probabilities: Tensor) -> Tensor:
        """One index (N, 1) for each distribution (N, K)."""
        return torch.multinomial(probabilities, num_samples=1)


class SeededDraws(Draws):
    """Row i draws on the CPU from a generator of its own, so it does not matter which rows share its batch.

    `keys` holds a key for each row, such as (an episode's seed, the step of its query).
    """

    def __init__(self, keys: Sequence[Sequence[int]]) -> None:
        self.generators = [_generator(key) for key in keys]

    def randn(self, shape: Sequence[int], like: Tensor) -> Tensor:
        rows = [torch.randn(tuple(shape[1:]), generator=g, dtype=like.dtype) for g in self.generators]
        return torch.stack(rows).to(like.device)

    def choose(self, probabilities: Tensor) -> Tensor:
        """Of N distributions every row of the batch has the same number, one row after the other."""
        parts = probabilities.cpu().chunk(len(self.generators))
        chosen = [torch.multinomial(p, 1, generator=g) for p, g in zip(parts, self.generators, strict=True)]
        return torch.cat(chosen).to(probabilities.device)


def _generator(key: Sequence[int]) -> torch.Generator:
    words = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]))

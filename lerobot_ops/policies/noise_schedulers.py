"""How noise is added to actions in training and taken away at inference, as `diffusers` does it.

DDPM (Ho et al. 2020, arXiv:2006.11239) removes the noise step by step and adds a little anew; DDIM (Song et al. 2020,
arXiv:2010.02502) adds none and may skip steps. These few formulas do not need the weight of `diffusers`, which
computes the same numbers: everything is in float32 and in its order, since at the noisiest level 1 / sqrt(alpha) blows
up a difference in rounding.
"""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lerobot_ops.policies.draws import Draws

Kind = Literal["DDPM", "DDIM"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
Prediction = Literal["epsilon", "sample"]

Predict = Callable[[Tensor, int], Tensor]
"""(noisy actions, time step) -> what the network predicts of them."""


class NoiseScheduler:
    """`steps` levels of noise, from the least (0) to hardly anything else; no state of its own."""

    def __init__(
        self,
        kind: Kind,
        *,
        steps: int,
        beta_schedule: BetaSchedule = "squaredcos_cap_v2",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        prediction_type: Prediction = "epsilon",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
    ) -> None:
        self.kind, self.steps, self.prediction_type = kind, steps, prediction_type
        self.clip = clip_sample_range if clip_sample else None
        self.kept = torch.cumprod(1.0 - betas(beta_schedule, steps, beta_start, beta_end), dim=0)
        """How much of the clean actions' variance is left at each level (the literature's alpha bar)."""
        self._kept_there, self._one = self.kept, torch.tensor(1.0)

    def add_noise(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Actions (B, T, A) with noise of the levels (B,)."""
        if self._kept_there.device != clean.device:
            self._kept_there = self.kept.to(clean.device)
        kept = self._kept_there.to(clean.dtype)[levels].view(-1, *[1] * (clean.ndim - 1))
        return kept**0.5 * clean + (1 - kept) ** 0.5 * noise

    def levels(self, count: int) -> list[int]:
        """`count` evenly spaced levels to denoise at, from the noisiest to 0."""
        return [number * (self.steps // count) for number in reversed(range(count))]

    def denoise(self, predict: Predict, noise: Tensor, count: int, draws: Draws) -> Tensor:
        """Pure noise (B, T, A) -> actions, in `count` queries of the network."""
        levels, sample = self.levels(count), noise
        for level, next_level in zip(levels, [*levels[1:], -1], strict=True):
            # scalars of the CPU multiply tensors of any device, and nothing waits
            here, there = self.kept[level], self.kept[next_level] if next_level >= 0 else self._one
            output = predict(sample, level)
            sample = self._less_noisy(sample, output, here, there, draws if level > 0 else None)
        return sample

    def _less_noisy(self, sample: Tensor, output: Tensor, here: Tensor, there: Tensor, draws: Draws | None) -> Tensor:
        """The sample at the next level, of which `there` is kept; `draws` is none for the last."""
        if self.prediction_type == "epsilon":
            clean, noise = (sample - (1 - here) ** 0.5 * output) / here**0.5, output
        else:
            clean, noise = output, (sample - here**0.5 * output) / (1 - here) ** 0.5
        if self.clip is not None:
            clean = clean.clamp(-self.clip, self.clip)
        if self.kind == "DDIM":
            return there**0.5 * clean + (1 - there) ** 0.5 * noise
        ratio = here / there
        mean = there**0.5 * (1 - ratio) / (1 - here) * clean + ratio**0.5 * (1 - there) / (1 - here) * sample
        if draws is None:
            return mean
        variance = ((1 - there) / (1 - here) * (1 - ratio)).clamp(min=1e-20)
        return mean + variance**0.5 * draws.randn(output.shape, output)


def betas(schedule: BetaSchedule, steps: int, start: float, end: float) -> Tensor:
    """The share of noise that each step adds (steps,)."""
    if schedule == "linear":
        return torch.linspace(start, end, steps)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps) ** 2
    if schedule == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, steps)) * (end - start) + start
    edges = [math.cos((step / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(steps + 1)]
    return torch.tensor([min(1 - after / before, 0.999) for before, after in itertools.pairwise(edges)])

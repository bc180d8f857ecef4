"""How the learning rate changes over a training, with LeRobot's types, fields and values. Free of heavy imports.

A schedule is a pure function: the step and the training's length in, a factor of each parameter group's own rate out.
`step` counts the optimiser's steps from 0, the first one's.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from lerobot_ops.config import Config

Curve = Literal["cosine", "linear", "cosine_with_restarts", "constant_with_warmup", "constant"]
"""The curves of `diffusers` that need no more than a warm-up: to 0 along half a cosine or a line, or constant."""


class DiffuserSchedule(Config):
    """A linear rise from 0, then one of the curves of `diffusers` over the rest of the training."""

    type: Literal["diffuser"] = "diffuser"
    name: Curve = "cosine"
    """`constant` has no rise."""
    num_warmup_steps: int = Field(default=0, ge=0)

    def factor(self, step: int, steps: int) -> float:
        """The factor of the learning rate at `step` of `steps`."""
        if self.name == "constant":
            return 1.0
        if step < self.num_warmup_steps:
            return _rise(step, self.num_warmup_steps)
        if self.name == "constant_with_warmup":
            return 1.0
        rest = max(1, steps - self.num_warmup_steps)
        if self.name == "linear":
            return max(0.0, (steps - step) / rest)
        progress = (step - self.num_warmup_steps) / rest
        if self.name == "cosine_with_restarts" and progress >= 1:
            return 0.0
        return _half_cosine(progress)


class VQBeTSchedule(Config):
    """Constant while actions are discretised, then a linear rise and half a cosine over a training's length."""

    type: Literal["vqbet"] = "vqbet"
    num_warmup_steps: int = Field(ge=0)
    num_vqvae_training_steps: int = Field(ge=0)
    num_cycles: float = 0.5

    def factor(self, step: int, steps: int) -> float:
        """The factor of the learning rate at `step` of `steps`; the curve is cut off, not squeezed, by phase 1."""
        since = step - self.num_vqvae_training_steps
        if since < 0:
            return 1.0
        if since < self.num_warmup_steps:
            return _rise(since, self.num_warmup_steps)
        progress = (since - self.num_warmup_steps) / max(1, steps - self.num_warmup_steps)
        return _half_cosine(2 * self.num_cycles * progress)


class CosineDecaySchedule(Config):
    """A linear rise, then half a cosine from `peak_lr` to `decay_lr`; both shrink with a training that is shorter."""

    type: Literal["cosine_decay_with_warmup"] = "cosine_decay_with_warmup"
    num_warmup_steps: int = Field(ge=0)
    num_decay_steps: int = Field(ge=1)
    peak_lr: float = Field(gt=0)
    decay_lr: float = Field(ge=0)

    def factor(self, step: int, steps: int) -> float:
        """The factor of the learning rate at `step` of `steps`."""
        decay = min(steps, self.num_decay_steps)
        warmup = self.num_warmup_steps
        if steps < self.num_decay_steps:
            warmup = int(warmup * (steps / self.num_decay_steps))
        if step < warmup:
            first = 1 / (warmup + 1)
            return first if step <= 0 else (first - 1) * (1 - step / warmup) + 1
        lowest = self.decay_lr / self.peak_lr
        return (1 - lowest) * _half_cosine(min(step, decay) / decay) + lowest


Schedule = Annotated[DiffuserSchedule | VQBeTSchedule | CosineDecaySchedule, Field(discriminator="type")]
"""A field of this type holds any schedule, chosen by its `type`."""


def _rise(step: int, steps: int) -> float:
    return step / max(1, steps)


def _half_cosine(progress: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))

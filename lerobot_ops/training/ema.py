"""A policy averaged over its training: its weights wander, their exponential moving average does not.

The decay grows with the updates, 1 - (1 + n / inv_gamma) ** -power, so that the average soon forgets the random
weights it began with (the warm-up of https://github.com/crowsonkb/k-diffusion, with LeRobot's names).
"""

import contextlib
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from lerobot_ops.config import Config
from lerobot_ops.training.sharding import own_parts

if TYPE_CHECKING:
    from lerobot_ops.policies.policy import Policy


class EMAConfig(Config):
    """Whether and how a policy's weights are averaged."""

    enable: bool = False
    """Keep an average of the weights; a checkpoint then has it as `pretrained_model_ema`."""
    decay: float | None = Field(default=None, ge=0, lt=1)
    """A constant decay; none lets it grow."""
    update_after_step: int = Field(default=0, ge=0)
    """Until this step the average is the policy itself."""
    inv_gamma: float = Field(default=1.0, gt=0)
    power: float = Field(default=0.75, gt=0)
    min_decay: float = Field(default=0.0, ge=0, le=1)
    max_decay: float = Field(default=0.9999, ge=0, le=1)
    use_for_eval: bool = True
    """Evaluate the average, and publish it, in place of the last weights."""

    def decay_at(self, step: int) -> float:
        """How much of the average stays at this step, counted from 1."""
        updates = step - self.update_after_step - 1
        if updates <= 0:
            return 0.0
        if self.decay is not None:
            return self.decay
        return min(max(1 - (1 + updates / self.inv_gamma) ** -self.power, self.min_decay), self.max_decay)


class WeightAverage:
    """The average of what a checkpoint holds of a policy, on its device; what is no float is copied."""

    def __init__(self, config: EMAConfig, policy: "Policy") -> None:
        self.config = config
        self.weights: dict[str, Any] = {name: value.detach().clone() for name, value in policy.saved_weights().items()}

    @torch.no_grad()
    def update(self, policy: "Policy", step: int) -> None:
        """Take in the weights after the optimiser's step `step`, counted from 1."""
        share = 1 - self.config.decay_at(step)
        average, present = own_parts(self.weights), own_parts(policy.saved_weights())
        floats = [name for name, value in present.items() if value.is_floating_point()]
        torch._foreach_lerp_([average[name] for name in floats], [present[name] for name in floats], share)
        for name in present.keys() - set(floats):
            average[name].copy_(present[name])

    @contextlib.contextmanager
    def in_place_of(self, policy: "Policy") -> Generator[None]:
        """A block in which the policy has the average for its weights."""
        average, present = own_parts(self.weights), own_parts(policy.saved_weights())
        kept = {name: value.detach().clone() for name, value in present.items()}
        try:
            with torch.no_grad():
                for name, value in present.items():
                    value.copy_(average[name])
            yield
        finally:
            with torch.no_grad():
                for name, value in present.items():
                    value.copy_(kept[name])

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from the average of a checkpoint."""
        for name, value in self.weights.items():
            value.copy_(weights[name])

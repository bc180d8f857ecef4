"""What the network of Multi-task DiT learns, and how actions come out of noise with it.

Shapes: B batch, T horizon, A action, C features of the observation.
"""

from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lerobot_ops.policies.draws import Draws
from lerobot_ops.policies.multi_task_dit.config import MultiTaskDiTConfig
from lerobot_ops.policies.noise_schedulers import NoiseScheduler


class Network(Protocol):
    """(actions (B, T, A), times (B,), observation (B, C)) -> (B, T, A)."""

    def __call__(self, actions: Tensor, time: Tensor, observation: Tensor) -> Tensor: ...


class Diffusion:
    """Predict the noise that was added, or the actions without it; remove it step by step."""

    def __init__(self, config: MultiTaskDiTConfig) -> None:
        self.queries = config.num_inference_steps or config.num_train_timesteps
        self.scheduler = NoiseScheduler(
            config.noise_scheduler_type,
            steps=config.num_train_timesteps,
            beta_schedule=config.beta_schedule,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            prediction_type=config.prediction_type,
            clip_sample=config.clip_sample,
            clip_sample_range=config.clip_sample_range,
        )

    def error(self, network: Network, actions: Tensor, observation: Tensor) -> Tensor:
        """The squared error (B, T, A) of one random level of noise for every chunk."""
        noise = torch.randn_like(actions)
        levels = torch.randint(low=0, high=self.scheduler.steps, size=(len(actions),), device=actions.device).long()
        predicted = network(self.scheduler.add_noise(actions, noise, levels), levels, observation)
        target = noise if self.scheduler.prediction_type == "epsilon" else actions
        return F.mse_loss(predicted, target, reduction="none")

    def sample(self, network: Network, noise: Tensor, observation: Tensor, draws: Draws) -> Tensor:
        """Noise (B, T, A) -> actions (B, T, A)."""

        def predict(sample: Tensor, level: int) -> Tensor:
            levels = torch.full(sample.shape[:1], level, dtype=torch.long, device=sample.device)
            return network(sample, levels, observation)

        return self.scheduler.denoise(predict, noise, self.queries, draws)


class FlowMatching:
    """Predict the velocity of the straight line from noise to actions (Lipman et al., arXiv:2210.02747)."""

    def __init__(self, config: MultiTaskDiTConfig) -> None:
        self.config = config
        self.noise_left = 1 - config.sigma_min
        self.step = _euler_step if config.integration_method == "euler" else _runge_kutta_step

    def error(self, network: Network, actions: Tensor, observation: Tensor) -> Tensor:
        """The squared error (B, T, A) at one random time for every chunk."""
        noise = torch.randn_like(actions)
        time = self._times(actions)
        at = time.view(-1, 1, 1)
        predicted = network(at * actions + (1 - self.noise_left * at) * noise, time, observation)
        return F.mse_loss(predicted, actions - self.noise_left * noise, reduction="none")

    def sample(self, network: Network, noise: Tensor, observation: Tensor, draws: Draws) -> Tensor:
        """Noise (B, T, A) -> actions (B, T, A); nothing is drawn on the way."""

        def velocity(sample: Tensor, time: float) -> Tensor:
            return network(
                sample, torch.full(sample.shape[:1], time, dtype=sample.dtype, device=sample.device), observation
            )

        sample = noise
        times = torch.linspace(0, 1, self.config.num_integration_steps + 1)
        for now, then in pairwise(times):
            sample = self.step(velocity, sample, now.item(), (then - now).item())
        return sample

    def _times(self, actions: Tensor) -> Tensor:
        config, count = self.config, len(actions)
        if config.timestep_sampling_strategy == "uniform":
            return torch.rand(count, device=actions.device)
        distribution = torch.distributions.Beta(config.timestep_sampling_alpha, config.timestep_sampling_beta)
        return config.timestep_sampling_s * (1.0 - distribution.sample((count,)).to(actions.device))


class Velocity(Protocol):
    """(actions (B, T, A), time) -> their velocity (B, T, A)."""

    def __call__(self, sample: Tensor, time: float) -> Tensor: ...


def _euler_step(velocity: Velocity, sample: Tensor, time: float, span: float) -> Tensor:
    return sample + span * velocity(sample, time)


def _runge_kutta_step(velocity: Velocity, sample: Tensor, time: float, span: float) -> Tensor:
    """Of fourth order."""
    first = velocity(sample, time)
    second = velocity(sample + span * first / 2, time + span / 2)
    third = velocity(sample + span * second / 2, time + span / 2)
    fourth = velocity(sample + span * third, time + span)
    return sample + span / 6 * (first + 2 * second + 2 * third + fourth)

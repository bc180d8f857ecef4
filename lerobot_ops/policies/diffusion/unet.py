"""The network of Diffusion Policy: noisy actions, their level of noise and the observation in, a prediction out.

A U-Net of convolutions over time whose features the level and the observation scale and shift (FiLM: Perez et al. 2017,
https://arxiv.org/abs/1709.07871). State-dict names and shapes are LeRobot's. Shapes below: B batch, T horizon,
A action, C channels, G features of level and observation.
"""

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lerobot_ops.policies.diffusion.config import DiffusionConfig

LAST_GROUPS = 8
"""Groups of the last block's normalisation, whatever `n_groups` says: checkpoints are trained that way."""


class UNet(nn.Module):
    """(actions (B, T, A), levels (B,), observation (B, O)) -> (B, T, A)."""

    def __init__(self, config: DiffusionConfig, observation_features: int) -> None:
        super().__init__()
        self.saves_memory = config.gradient_checkpointing
        step, dims = config.diffusion_step_embed_dim, config.down_dims
        self.diffusion_step_encoder = nn.Sequential(
            LevelEmbedding(step), nn.Linear(step, 4 * step), nn.Mish(), nn.Linear(4 * step, step)
        )
        block = functools.partial(ResidualBlock, config=config, given=step + observation_features)
        steps = list(zip((config.action_dim, *dims[:-1]), dims, strict=True))
        self.down_modules = nn.ModuleList()
        for inputs, outputs in steps:
            halve = nn.Conv1d(outputs, outputs, 3, stride=2, padding=1)
            last = len(self.down_modules) == len(steps) - 1
            self.down_modules.append(
                nn.ModuleList([block(inputs, outputs), block(outputs, outputs), nn.Identity() if last else halve])
            )
        self.mid_modules = nn.ModuleList(block(dims[-1], dims[-1]) for _ in range(2))
        self.up_modules = nn.ModuleList()
        for outputs, inputs in reversed(steps[1:]):
            double = nn.ConvTranspose1d(outputs, outputs, 4, stride=2, padding=1)
            self.up_modules.append(nn.ModuleList([block(2 * inputs, outputs), block(outputs, outputs), double]))
        self.final_conv = nn.Sequential(
            ConvBlock(dims[0], dims[0], config.kernel_size, LAST_GROUPS), nn.Conv1d(dims[0], config.action_dim, 1)
        )

    def forward(self, actions: Tensor, levels: Tensor, observation: Tensor) -> Tensor:
        given = torch.cat([self.diffusion_step_encoder(levels), observation], dim=-1)  # (B, G)
        x, skipped = actions.transpose(1, 2), []
        for first, second, halve in _triples(self.down_modules):
            x = self._run(second, self._run(first, x, given), given)
            skipped.append(x)
            x = halve(x)
        for block in self.mid_modules:
            x = self._run(block, x, given)
        for first, second, double in _triples(self.up_modules):
            x = torch.cat([x, skipped.pop()], dim=1)
            x = double(self._run(second, self._run(first, x, given), given))
        predicted: Tensor = self.final_conv(x).transpose(1, 2)
        return predicted

    def _run(self, block: nn.Module, x: Tensor, given: Tensor) -> Tensor:
        result: Tensor
        if self.saves_memory and self.training:
            result = checkpoint(block, x, given, use_reentrant=False)
        else:
            result = block(x, given)
        return result


def _triples(stages: nn.ModuleList) -> Iterator[tuple[nn.Module, nn.Module, nn.Module]]:
    for stage in stages:
        assert isinstance(stage, nn.ModuleList)
        yield stage[0], stage[1], stage[2]


class LevelEmbedding(nn.Module):
    """Levels (B,) -> sines and cosines (B, D) of geometrically spaced frequencies, from 1 to 1/10,000."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = width // 2

    def forward(self, levels: Tensor) -> Tensor:
        rate = -math.log(10000) / (self.frequencies - 1)
        angles = levels.unsqueeze(-1) * torch.exp(rate * torch.arange(self.frequencies, device=levels.device))
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConvBlock(nn.Module):
    """Convolution over time, normalisation and Mish: (B, C, T) -> (B, C', T)."""

    def __init__(self, inputs: int, outputs: int, size: int, groups: int) -> None:
        super().__init__()
        convolution = nn.Conv1d(inputs, outputs, size, padding=size // 2)
        self.block = nn.Sequential(convolution, nn.GroupNorm(groups, outputs), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; between them features are scaled and shifted by what is given (B, G)."""

    def __init__(self, inputs: int, outputs: int, *, given: int, config: DiffusionConfig) -> None:
        super().__init__()
        self.scales = config.use_film_scale_modulation
        self.conv1 = ConvBlock(inputs, outputs, config.kernel_size, config.n_groups)
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(given, (2 if self.scales else 1) * outputs))
        self.conv2 = ConvBlock(outputs, outputs, config.kernel_size, config.n_groups)
        self.residual_conv = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        out = self.conv1(x)
        modulation = self.cond_encoder(given).unsqueeze(-1)
        if self.scales:
            scale, shift = modulation.chunk(2, dim=1)
            out = scale * out + shift
        else:
            out = out + modulation
        result: Tensor = self.conv2(out) + self.residual_conv(x)
        return result

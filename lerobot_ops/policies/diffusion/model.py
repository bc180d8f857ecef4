"""Diffusion Policy (Chi et al. 2023, https://arxiv.org/abs/2303.04137): observations in, a chunk of actions out.

In training noise of a random level is added to the actions, and the network learns to tell it from them. A query starts
from pure noise and removes it level by level. State-dict names and shapes are LeRobot's. Shapes below: B batch,
S observed steps, T horizon, A action.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.policies.diffusion.config import DiffusionConfig
from lerobot_ops.policies.diffusion.unet import UNet
from lerobot_ops.policies.draws import Draws
from lerobot_ops.policies.losses import mean_without_padding
from lerobot_ops.policies.noise_schedulers import NoiseScheduler
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.rgb_encoder import RgbEncoder
from lerobot_ops.processors.features import ACTION, ENVIRONMENT_STATE, STATE
from lerobot_ops.processors.steps import Batch


class DiffusionPolicy(Policy):
    """The network with its loss and its way from noise to actions."""

    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig, *, pretrained_backbone: bool = True) -> None:
        super().__init__(config)
        self.diffusion = Diffusion(config, config.pretrained_backbone_weights if pretrained_backbone else None)
        self.noise = NoiseScheduler(
            config.noise_scheduler_type,
            steps=config.num_train_timesteps,
            beta_schedule=config.beta_schedule,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            prediction_type=config.prediction_type,
            clip_sample=config.clip_sample,
            clip_sample_range=config.clip_sample_range,
        )

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        actions: Tensor = batch[ACTION]
        seen = self.diffusion.observe(batch)
        noise = torch.randn(actions.shape, device=actions.device)
        levels = torch.randint(low=0, high=self.noise.steps, size=(len(actions),), device=actions.device)
        predicted = self.diffusion.unet(self.noise.add_noise(actions, noise, levels), levels, seen)
        target = noise if self.config.prediction_type == "epsilon" else actions
        error = F.mse_loss(predicted, target, reduction="none")
        if not self.config.do_mask_loss_for_padding:
            return error.mean(), {}
        return mean_without_padding(error, batch["action_is_pad"]), {}

    @torch.no_grad()
    def predict_chunk(self, batch: Batch, draws: Draws | None = None, noise: Tensor | None = None) -> Tensor:
        """The actions (B, n_action_steps, A) from the present one on.

        Observations are (B, S, ...), or (B, ...) where one step is all that is seen. `draws` gives the random numbers;
        `noise` (B, T, A) is what the actions are made of, in place of the first of them.
        """
        draws = draws or Draws()
        seen = self.diffusion.observe(batch)
        if noise is None:
            noise = draws.randn((len(seen), self.config.horizon, self.config.action_dim), seen)

        def predict(sample: Tensor, level: int) -> Tensor:
            levels = torch.full(sample.shape[:1], level, dtype=torch.long, device=sample.device)
            predicted: Tensor = self.diffusion.unet(sample, levels, seen)
            return predicted

        count = self.config.num_inference_steps or self.config.num_train_timesteps
        actions = self.noise.denoise(predict, noise, count, draws)
        start = self.config.n_obs_steps - 1
        return actions[:, start : start + self.config.n_action_steps]

    def adapts(self, name: str, module: nn.Module) -> bool:
        return name.startswith("diffusion.unet.") and type(module) in (nn.Linear, nn.Conv1d)


class Diffusion(nn.Module):
    """The cameras' encoders and the U-Net."""

    def __init__(self, config: DiffusionConfig, weights: str | None) -> None:
        super().__init__()
        self.config = config
        self.cameras = list(config.image_features)
        features = sum(f.shape[0] for name, f in config.input_features.items() if name not in self.cameras)
        if self.cameras:
            if config.use_separate_rgb_encoder_per_camera:
                self.rgb_encoder: Any = nn.ModuleList(self._encoder(weights) for _ in self.cameras)
            else:
                self.rgb_encoder = self._encoder(weights)
            features += 2 * config.spatial_softmax_num_keypoints * len(self.cameras)
        self.unet: Any = UNet(config, features * config.n_obs_steps)
        if config.compile_model:
            self.unet = torch.compile(self.unet, mode=config.compile_mode)

    def observe(self, batch: Batch) -> Tensor:
        """The observation's features (B, O): of each step the state, the cameras in turn, the environment's state."""
        state = self._steps(batch, STATE, dims=2)
        size, steps = state.shape[:2]
        if steps != self.config.n_obs_steps:
            raise ValueError(f"observations have {steps} steps, and n_obs_steps is {self.config.n_obs_steps}")
        seen = [state]
        if self.cameras:
            frames = [self._steps(batch, name, dims=4).flatten(0, 1) for name in self.cameras]  # (B S, C, H, W) each
            if self.config.use_separate_rgb_encoder_per_camera:
                points = [encode(images) for encode, images in zip(self.rgb_encoder, frames, strict=True)]
                found = torch.cat(points, dim=-1)
            else:  # all in one batch, since batch normalisation sees them together
                found = self.rgb_encoder(torch.stack(frames, dim=1).flatten(0, 1))
            seen.append(found.reshape(size, steps, -1))
        if ENVIRONMENT_STATE in self.config.input_features:
            seen.append(self._steps(batch, ENVIRONMENT_STATE, dims=2))
        return torch.cat(seen, dim=-1).flatten(1)

    def _encoder(self, weights: str | None) -> RgbEncoder:
        config = self.config
        _, height, width = config.image_features[self.cameras[0]].shape
        return RgbEncoder(
            config.vision_backbone,
            (height, width),
            points=config.spatial_softmax_num_keypoints,
            resize=config.resize_shape,
            crop=config.crop_shape,
            crop_is_random=config.crop_is_random,
            use_group_norm=config.use_group_norm,
            weights=weights,
        )

    @staticmethod
    def _steps(batch: Batch, name: str, dims: int) -> Tensor:
        """An observation with its steps (B, S, ...); `dims` without the batch's own."""
        value: Tensor = batch[name]
        return value if value.ndim == dims + 1 else value.unsqueeze(1)

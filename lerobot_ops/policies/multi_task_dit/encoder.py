"""What Multi-task DiT sees: the robot's state, CLIP's summary of every camera's frame, and the instruction's meaning.

CLIP comes from `transformers` (the extra `multi_task_dit`). State-dict names are LeRobot's. Shapes below: B batch,
S observed steps, N cameras, C channels.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lerobot_ops.errors import CheckpointError, PrerequisiteError
from lerobot_ops.policies.image_frames import Frames
from lerobot_ops.policies.multi_task_dit.config import MultiTaskDiTConfig
from lerobot_ops.processors.features import STATE
from lerobot_ops.processors.steps import Batch
from lerobot_ops.processors.tokenizer import MASK, TOKENS

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ObservationEncoder(nn.Module):
    """A batch -> (B, S x features): state, frames and text of every step, in this order."""

    def __init__(self, config: MultiTaskDiTConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.cameras = list(config.image_features)
        self.separate = config.use_separate_rgb_encoder_per_camera
        self.frames = Frames(config.image_resize_shape, config.image_crop_shape, config.image_crop_is_random)
        features = config.input_features[STATE].shape[0] + config.hidden_dim
        if self.cameras:
            count = len(self.cameras) if self.separate else 1
            encoders = [VisionEncoder(config.vision_encoder_name, pretrained) for _ in range(count)]
            if self.separate:
                self.vision_encoders = nn.ModuleList(encoders)
            else:
                self.vision_encoder = encoders[0]
            features += encoders[0].width * len(self.cameras)
        self.text_encoder = TextEncoder(config.text_encoder_name, config.hidden_dim, pretrained)
        self.features = features * config.n_obs_steps

    def forward(self, batch: Batch) -> Tensor:
        state: Tensor = batch[STATE]
        steps = state.shape[1]
        seen = [state]
        if self.cameras:
            seen.append(self._look(batch))
        text = self.text_encoder(batch[TOKENS], batch[MASK])
        seen.append(text.unsqueeze(1).expand(-1, steps, -1))
        return torch.cat(seen, dim=-1).flatten(start_dim=1)

    def _look(self, batch: Batch) -> Tensor:
        """(B, S, N x width)."""
        if self.separate:
            frames = [self.frames(batch[name].flatten(0, 1)) for name in self.cameras]
            encoded = [encode(seen) for encode, seen in zip(self.vision_encoders, frames, strict=True)]
            looked = torch.cat(encoded, dim=-1)
        else:
            # One random crop for all frames of a batch, as one transform of the whole stack gives.
            stacked = torch.stack([batch[name] for name in self.cameras], dim=2)  # (B, S, N, C, H, W)
            looked = self.vision_encoder(self.frames(stacked.flatten(0, 2)))
        batch_size, steps = batch[STATE].shape[:2]
        return looked.reshape(batch_size, steps, -1)


class VisionEncoder(nn.Module):
    """Frames (B, 3, H, W) -> CLIP's class token (B, width)."""

    def __init__(self, name: str, pretrained: bool) -> None:
        super().__init__()
        model = _clip("CLIPVisionModel", "CLIPVisionConfig", name, pretrained)
        # `transformers` has moved the network up a level; the names of LeRobot's checkpoints are the older ones.
        self.model = nn.ModuleDict({"vision_model": getattr(model, "vision_model", model)})
        self.width: int = model.config.hidden_size
        self.size: int = model.config.image_size

    def forward(self, frames: Tensor) -> Tensor:
        if frames.shape[-2:] != (self.size, self.size):
            raise CheckpointError(
                "the cameras' frames do not fit the vision encoder",
                field="policy.image_crop_shape",
                found=tuple(frames.shape[-2:]),
                expected=(self.size, self.size),
                fix="set policy.image_resize_shape or policy.image_crop_shape",
            )
        tokens: Tensor = self.model["vision_model"](pixel_values=frames).last_hidden_state
        return tokens[:, 0]


class TextEncoder(nn.Module):
    """Tokens (B, L) and their mask -> (B, width): CLIP's frozen summary, projected by a layer that learns."""

    def __init__(self, name: str, width: int, pretrained: bool) -> None:
        super().__init__()
        model = _clip("CLIPTextModel", "CLIPTextConfig", name, pretrained)
        self.text_encoder = nn.ModuleDict({"text_model": getattr(model, "text_model", model)})
        self.text_encoder.requires_grad_(False)
        self.projection = nn.Linear(model.config.hidden_size, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            summary = self.text_encoder["text_model"](input_ids=tokens, attention_mask=mask).pooler_output
        projected: Tensor = self.projection(summary)
        return projected


def _clip(model: str, config: str, name: str, pretrained: bool) -> Any:
    """One half of CLIP: a folder, or OWNER/NAME on the Hub, whose weights are only read when they are wanted."""
    try:
        import transformers
    except ImportError:
        raise PrerequisiteError(
            "this policy reads images and instructions with CLIP, which is not installed",
            field="policy.type",
            found="multi_task_dit",
            fix="pip install 'lerobot-ops[multi_task_dit]'",
        ) from None
    quiet = transformers.utils.logging
    level = quiet.get_verbosity()
    quiet.set_verbosity_error()  # it lists the other half's weights as unexpected
    quiet.disable_progress_bar()
    try:
        if pretrained:
            return getattr(transformers, model).from_pretrained(name, use_safetensors=True, dtype=torch.float32)
        settings: PretrainedConfig = getattr(transformers, config).from_pretrained(name)
        return getattr(transformers, model)(settings)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "CLIP cannot be loaded",
            field="policy.vision_encoder_name" if "Vision" in model else "policy.text_encoder_name",
            found=f"{name}: {str(error).splitlines()[0]}",
            fix="give a folder with config.json and model.safetensors, or a repository of the Hub",
        ) from None
    finally:
        quiet.set_verbosity(level)

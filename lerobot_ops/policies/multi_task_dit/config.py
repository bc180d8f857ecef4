"""Multi-task DiT's configuration: LeRobot's fields and defaults (its `config.json` is this model's JSON)."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from lerobot_ops.policies.config import OptimizerConfig, PolicyConfig, adam_preset
from lerobot_ops.policies.requirements import (
    is_camera,
    require_action,
    require_frames_of_one_size,
    require_inputs,
    require_readable,
)
from lerobot_ops.policies.schedules import Curve, DiffuserSchedule
from lerobot_ops.processors.features import STATE, FeatureType, NormalizationMode, PolicyFeature

if TYPE_CHECKING:
    from lerobot_ops.policies.config import PolicyClass

NAME = "Multi-task DiT"
CLIP = "openai/clip-vit-base-patch16"


def _modes() -> dict[FeatureType, NormalizationMode]:
    scaled = dict.fromkeys((FeatureType.STATE, FeatureType.ACTION), NormalizationMode.MIN_MAX)
    return {FeatureType.VISUAL: NormalizationMode.MEAN_STD, **scaled}


class MultiTaskDiTConfig(PolicyConfig):
    """A transformer that turns noise into a chunk of actions, given cameras, state and an instruction."""

    type: Literal["multi_task_dit"] = "multi_task_dit"
    n_obs_steps: int = Field(default=2, ge=1)
    """Observations that the policy sees, the present one included."""
    horizon: int = Field(default=32, ge=1)
    """Actions predicted at once, from the first observation on."""
    n_action_steps: int = Field(default=24, ge=1)
    """Actions of a chunk that are executed before the next query."""
    objective: Literal["diffusion", "flow_matching"] = "diffusion"
    """Learn to remove noise step by step, or the velocity from noise to actions."""
    noise_scheduler_type: Literal["DDPM", "DDIM"] = "DDPM"
    num_train_timesteps: int = Field(default=100, ge=1)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    beta_start: float = Field(default=0.0001, ge=0, le=1)
    beta_end: float = Field(default=0.02, ge=0, le=1)
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    """Predict the noise, or the actions without it."""
    clip_sample: bool = True
    clip_sample_range: float = Field(default=1.0, gt=0)
    num_inference_steps: int | None = Field(default=None, ge=1)
    """Denoising steps of a query; none for as many as in training."""
    sigma_min: float = Field(default=0.0, ge=0, le=1)
    """Noise that is left at the end of the flow."""
    num_integration_steps: int = Field(default=100, ge=1)
    """Steps from noise to actions of a flow's query."""
    integration_method: Literal["euler", "rk4"] = "euler"
    timestep_sampling_strategy: Literal["uniform", "beta"] = "beta"
    """How a flow's times are drawn in training."""
    timestep_sampling_s: float = Field(default=0.999, gt=0, le=1)
    timestep_sampling_alpha: float = Field(default=1.5, gt=0)
    timestep_sampling_beta: float = Field(default=1.0, gt=0)
    hidden_dim: int = Field(default=512, ge=1)
    """Width of the transformer."""
    num_layers: int = Field(default=6, ge=1)
    num_heads: int = Field(default=8, ge=1)
    dropout: float = Field(default=0.1, ge=0, le=1)
    use_positional_encoding: bool = False
    """Learn a vector for every position of the chunk."""
    timestep_embed_dim: int = Field(default=256, ge=4, multiple_of=2)
    use_rope: bool = True
    """Turn queries and keys by their position."""
    rope_base: float = Field(default=10000.0, gt=0)
    vision_encoder_name: str = CLIP
    """CLIP for the cameras: a folder, or OWNER/NAME on the Hub."""
    use_separate_rgb_encoder_per_camera: bool = False
    vision_encoder_lr_multiplier: float = Field(default=0.1, ge=0)
    """Its learning rate, as a part of `optimizer_lr`."""
    image_resize_shape: tuple[int, int] | None = None
    """Height and width that frames are brought to before they are cropped."""
    image_crop_shape: tuple[int, int] | None = (224, 224)
    """Height and width of what is cut out of a frame; frames that are smaller are not cropped."""
    image_crop_is_random: bool = True
    """Cut at random in training; a query cuts the centre."""
    text_encoder_name: str = CLIP
    """CLIP for the instruction: a folder, or OWNER/NAME on the Hub."""
    tokenizer_max_length: int = Field(default=77, ge=1)
    tokenizer_padding: Literal["max_length", "longest"] = "max_length"
    tokenizer_padding_side: Literal["left", "right"] = "right"
    tokenizer_truncation: bool = True
    normalization_mapping: dict[FeatureType, NormalizationMode] = Field(default_factory=_modes)
    """How each type of feature is scaled; what is not named stays as it is."""
    optimizer_lr: float = Field(default=2e-5, gt=0)
    optimizer_betas: tuple[float, float] = (0.95, 0.999)
    optimizer_eps: float = Field(default=1e-8, gt=0)
    optimizer_weight_decay: float = Field(default=0.0, ge=0)
    scheduler_name: Curve = "cosine"
    scheduler_warmup_steps: int = Field(default=0, ge=0)
    do_mask_loss_for_padding: bool = False
    """Learn nothing from the actions behind an episode's end."""
    drop_n_last_frames: int | None = Field(default=None, ge=0)
    """Frames at an episode's end that training does not start from; by default those with a padded chunk."""

    @model_validator(mode="after")
    def _consistent(self) -> "MultiTaskDiTConfig":
        if self.n_obs_steps - 1 + self.n_action_steps > self.horizon:
            raise ValueError(
                f"n_obs_steps - 1 + n_action_steps ({self.n_obs_steps - 1 + self.n_action_steps}) is at most "
                f"horizon ({self.horizon})"
            )
        if self.hidden_dim % self.num_heads or (self.use_rope and self.hidden_dim // self.num_heads % 2):
            raise ValueError(f"hidden_dim ({self.hidden_dim}) is num_heads ({self.num_heads}) times an even number")
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start ({self.beta_start}) is at most beta_end ({self.beta_end})")
        if self.drop_n_last_frames is None:
            spare = self.horizon - self.n_action_steps - self.n_obs_steps + 1
            object.__setattr__(self, "drop_n_last_frames", spare)
        return self

    def policy_class(self) -> "PolicyClass":
        from lerobot_ops.policies.multi_task_dit.model import MultiTaskDiTPolicy

        return MultiTaskDiTPolicy

    def optimizer(self) -> OptimizerConfig:
        return adam_preset(self)

    def scheduler(self) -> DiffuserSchedule:
        return DiffuserSchedule(name=self.scheduler_name, num_warmup_steps=self.scheduler_warmup_steps)

    @property
    def normalization(self) -> dict[FeatureType, NormalizationMode]:
        return self.normalization_mapping

    @property
    def observation_delta_indices(self) -> list[int]:
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(1 - self.n_obs_steps, 1 - self.n_obs_steps + self.horizon))

    @property
    def n_last_frames_dropped(self) -> int:
        return self.drop_n_last_frames or 0

    @property
    def n_actions(self) -> int:
        return self.n_action_steps

    @property
    def is_random(self) -> bool:
        return True

    @property
    def tokenizer(self) -> dict[str, Any]:
        return {
            "tokenizer_name": self.text_encoder_name,
            "max_length": self.tokenizer_max_length,
            "padding": self.tokenizer_padding,
            "padding_side": self.tokenizer_padding_side,
            "truncation": self.tokenizer_truncation,
        }

    @property
    def crop(self) -> tuple[int, int] | None:
        """The crop that fits every camera's frames; like LeRobot's, none when it fits one of them not."""
        if self.image_crop_shape is None:
            return None
        sizes = [self.image_resize_shape or feature.shape[1:] for feature in self.image_features.values()]
        fits = all(self.image_crop_shape[0] <= size[0] and self.image_crop_shape[1] <= size[1] for size in sizes)
        return self.image_crop_shape if fits else None

    def reads(self, name: str, feature: PolicyFeature) -> bool:
        vector = name == STATE and feature.type == FeatureType.STATE and len(feature.shape) == 1
        return is_camera(feature) or vector

    def check_features(self) -> None:
        require_readable(self, NAME, f"cameras of 3 channels, and {STATE}")
        require_inputs(self, NAME, STATE)
        require_frames_of_one_size(self, NAME, None)
        require_action(self, NAME)

"""Diffusion's configuration: LeRobot's fields and defaults (its `config.json` is this model's JSON)."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from lerobot_ops.errors import ConfigError
from lerobot_ops.policies.config import OptimizerConfig, PolicyConfig, adam_preset
from lerobot_ops.policies.requirements import (
    is_camera,
    require_action,
    require_frames_of_one_size,
    require_inputs,
    require_readable,
)
from lerobot_ops.policies.schedules import Curve, DiffuserSchedule
from lerobot_ops.processors.features import (
    ENVIRONMENT_STATE,
    STATE,
    FeatureType,
    NormalizationMode,
    PolicyFeature,
)

if TYPE_CHECKING:
    from lerobot_ops.policies.config import PolicyClass

NAME = "Diffusion"
Pixels = Annotated[int, Field(gt=0)]


def _modes() -> dict[FeatureType, NormalizationMode]:
    return {
        FeatureType.VISUAL: NormalizationMode.MEAN_STD,
        FeatureType.STATE: NormalizationMode.MIN_MAX,
        FeatureType.ACTION: NormalizationMode.MIN_MAX,
    }


class DiffusionConfig(PolicyConfig):
    """A convolutional network that turns noise into a chunk of actions, given the last observations."""

    type: Literal["diffusion"] = "diffusion"
    n_obs_steps: int = Field(default=2, ge=1)
    horizon: int = Field(default=64, ge=1)
    """Actions predicted at once, from the oldest of the observations on."""
    n_action_steps: int = Field(default=32, ge=1)
    """Actions that are executed before the next query, from the present one on."""
    normalization_mapping: dict[FeatureType, NormalizationMode] = Field(default_factory=_modes)
    """How each type of feature is scaled; what is not named stays as it is. Actions must fit `clip_sample_range`."""
    drop_n_last_frames: int = Field(default=7, ge=0)
    """Frames at an episode's end that training does not start from, since most of their actions are padding."""
    vision_backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """The network that cameras' frames go through."""
    resize_shape: tuple[Pixels, Pixels] | None = None
    """Height and width that frames are brought to first."""
    crop_ratio: float = Field(default=1.0, gt=0, le=1)
    """With `resize_shape`, the part of height and width that is cut out; decides `crop_shape`."""
    crop_shape: tuple[Pixels, Pixels] | None = None
    """Height and width of what is cut out of a frame."""
    crop_is_random: bool = True
    """Cut at random in training; a query always cuts the centre."""
    pretrained_backbone_weights: str | None = "ResNet18_Weights.IMAGENET1K_V1"
    """torchvision's name of ImageNet weights (fetched from the Hub), a safetensors file, or null for random ones."""
    use_group_norm: bool = False
    """Normalise in groups of 16 channels in place of over the batch; needs random weights."""
    spatial_softmax_num_keypoints: int = Field(default=32, ge=1)
    """Places in a frame that the network looks for."""
    use_separate_rgb_encoder_per_camera: bool = True
    """One encoder for each camera, or one for all."""
    down_dims: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(512, 1024, 2048), min_length=1)
    """Channels of the network's stages; each next one has half as many time steps."""
    kernel_size: int = Field(default=5, ge=1)
    n_groups: int = Field(default=8, ge=1)
    """Groups of the network's normalisation."""
    diffusion_step_embed_dim: int = Field(default=128, ge=4, multiple_of=2)
    use_film_scale_modulation: bool = True
    """Let the observation scale features, and not only shift them."""
    gradient_checkpointing: bool = False
    """Compute blocks twice in training and keep less of them in memory."""
    noise_scheduler_type: Literal["DDPM", "DDIM"] = "DDPM"
    num_train_timesteps: int = Field(default=100, ge=1)
    """Levels of noise."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "squaredcos_cap_v2"
    beta_start: float = Field(default=0.0001, ge=0, le=1)
    beta_end: float = Field(default=0.02, ge=0, le=1)
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    """Predict the noise, or the actions without it."""
    clip_sample: bool = True
    """Keep actions within `clip_sample_range` while noise is removed."""
    clip_sample_range: float = Field(default=1.0, gt=0)
    num_inference_steps: int | None = Field(default=None, ge=1)
    """Levels at which a query removes noise; none for all of them."""
    compile_model: bool = False
    """Compile the network with torch.compile."""
    compile_mode: str = "reduce-overhead"
    do_mask_loss_for_padding: bool = False
    """Learn nothing from the actions behind an episode's end."""
    optimizer_lr: float = Field(default=1e-4, gt=0)
    optimizer_betas: tuple[float, float] = (0.95, 0.999)
    optimizer_eps: float = Field(default=1e-8, gt=0)
    optimizer_weight_decay: float = Field(default=1e-6, ge=0)
    scheduler_name: Curve = "cosine"
    scheduler_warmup_steps: int = Field(default=500, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> "DiffusionConfig":
        if self.resize_shape is not None:  # LeRobot's rule: the ratio decides, also against a crop that was given
            height, width = (int(pixels * self.crop_ratio) for pixels in self.resize_shape)
            object.__setattr__(self, "crop_shape", (height, width) if self.crop_ratio < 1 else None)
            if not height or not width:
                raise ValueError(f"crop_ratio ({self.crop_ratio}) leaves nothing of resize_shape {self.resize_shape}")
        if self.horizon % 2 ** len(self.down_dims):
            raise ValueError(
                f"horizon ({self.horizon}) is a multiple of {2 ** len(self.down_dims)}, which is 2 to the number of "
                f"down_dims"
            )
        most = self.horizon - self.n_obs_steps + 1
        if self.n_action_steps > most:
            raise ValueError(f"n_action_steps ({self.n_action_steps}) is at most horizon - n_obs_steps + 1 ({most})")
        if not self.kernel_size % 2:
            raise ValueError(f"kernel_size ({self.kernel_size}) is odd")
        if odd := [channels for channels in self.down_dims if channels % self.n_groups]:
            raise ValueError(f"down_dims ({odd[0]}) are multiples of n_groups ({self.n_groups})")
        if self.use_group_norm and self.pretrained_backbone_weights is not None:
            raise ValueError("pretrained_backbone_weights is null with use_group_norm, which they do not fit")
        if self.num_inference_steps is not None and self.num_inference_steps > self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps ({self.num_inference_steps}) is at most num_train_timesteps "
                f"({self.num_train_timesteps})"
            )
        if self.noise_scheduler_type == "DDIM" and self.beta_schedule == "sigmoid":
            raise ValueError("beta_schedule sigmoid needs noise_scheduler_type DDPM")
        return self

    def policy_class(self) -> "PolicyClass":
        from lerobot_ops.policies.diffusion.model import DiffusionPolicy

        return DiffusionPolicy

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
        return self.drop_n_last_frames

    @property
    def n_actions(self) -> int:
        return self.n_action_steps

    @property
    def is_random(self) -> bool:
        return True

    def reads(self, name: str, feature: PolicyFeature) -> bool:
        vector = {STATE: FeatureType.STATE, ENVIRONMENT_STATE: FeatureType.ENV}.get(name) == feature.type
        return is_camera(feature) or (vector and len(feature.shape) == 1)

    def check_features(self) -> None:
        require_readable(self, NAME, f"cameras of 3 channels, {STATE} and {ENVIRONMENT_STATE}")
        require_inputs(self, NAME, STATE)
        if not self.image_features and ENVIRONMENT_STATE not in self.input_features:
            raise ConfigError(
                f"{NAME} needs to see its surroundings",
                field="policy.input_features",
                found=", ".join(self.input_features),
                expected=f"at least one camera or {ENVIRONMENT_STATE}",
            )
        require_frames_of_one_size(self, NAME, None if self.resize_shape else self.crop_shape)
        require_action(self, NAME)

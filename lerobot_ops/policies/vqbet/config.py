"""VQ-BeT's configuration: LeRobot's fields and defaults (its `config.json` is this model's JSON)."""

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
from lerobot_ops.policies.schedules import VQBeTSchedule
from lerobot_ops.processors.features import STATE, FeatureType, NormalizationMode, PolicyFeature

if TYPE_CHECKING:
    from lerobot_ops.policies.config import PolicyClass

NAME = "VQ-BeT"
Pixels = Annotated[int, Field(gt=0)]
TOKENS_PER_STEP = 3
"""The frame's, the state's and the query for actions."""


def _modes() -> dict[FeatureType, NormalizationMode]:
    return {
        FeatureType.VISUAL: NormalizationMode.IDENTITY,
        FeatureType.STATE: NormalizationMode.MIN_MAX,
        FeatureType.ACTION: NormalizationMode.MIN_MAX,
    }


class VQBeTConfig(PolicyConfig):
    """A transformer that chooses codes of action chunks, which a residual VQ-VAE has learned in a first phase."""

    type: Literal["vqbet"] = "vqbet"
    n_obs_steps: int = Field(default=5, ge=1)
    n_action_pred_token: int = Field(default=3, ge=1)
    """Chunks predicted, each a step later than the one before; the first is executed, the others help to learn."""
    action_chunk_size: int = Field(default=5, ge=1)
    """Actions of a chunk, all of which are executed before the next query."""
    normalization_mapping: dict[FeatureType, NormalizationMode] = Field(default_factory=_modes)
    """How each type of feature is scaled; what is not named stays as it is."""
    vision_backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """The network that the camera's frames go through."""
    crop_shape: tuple[Pixels, Pixels] | None = (84, 84)
    """Height and width of what is cut out of a frame; null for all of it."""
    crop_is_random: bool = True
    """Cut at random in training; a query always cuts the centre."""
    pretrained_backbone_weights: str | None = "ResNet18_Weights.IMAGENET1K_V1"
    """torchvision's name of ImageNet weights (fetched from the Hub), a safetensors file, or null for random ones."""
    use_group_norm: bool = False
    """Normalise in groups of 16 channels in place of over the batch; needs random weights."""
    spatial_softmax_num_keypoints: int = Field(default=32, ge=1)
    """Places in a frame that the network looks for."""
    n_vqvae_training_steps: int = Field(default=20000, ge=1)
    """The first steps of a training, in which only the codes are learned."""
    vqvae_n_embed: int = Field(default=16, ge=2)
    """Codes of each of the two layers, coarse and fine."""
    vqvae_embedding_dim: int = Field(default=256, ge=1)
    vqvae_enc_hidden_dim: int = Field(default=128, ge=1)
    gpt_block_size: int = Field(default=500, ge=1)
    """Tokens that the transformer has positions for."""
    gpt_input_dim: int = Field(default=512, ge=1)
    gpt_output_dim: int = Field(default=512, ge=1)
    gpt_n_layer: int = Field(default=8, ge=1)
    gpt_n_head: int = Field(default=8, ge=1)
    gpt_hidden_dim: int = Field(default=512, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    offset_loss_weight: float = Field(default=10000.0, ge=0)
    primary_code_loss_weight: float = Field(default=5.0, ge=0)
    secondary_code_loss_weight: float = Field(default=0.5, ge=0)
    bet_softmax_temperature: float = Field(default=0.1, gt=0)
    """Lower chooses the likeliest code more often."""
    sequentially_select: bool = False
    """Choose the coarse code first and the fine one given it, in place of both at once."""
    optimizer_lr: float = Field(default=1e-4, gt=0)
    optimizer_betas: tuple[float, float] = (0.95, 0.999)
    optimizer_eps: float = Field(default=1e-8, gt=0)
    optimizer_weight_decay: float = Field(default=1e-6, ge=0)
    optimizer_vqvae_lr: float = Field(default=1e-3, gt=0)
    optimizer_vqvae_weight_decay: float = Field(default=1e-4, ge=0)
    scheduler_warmup_steps: int = Field(default=500, ge=0)
    """Steps of the second phase over which its learning rate rises."""

    @model_validator(mode="after")
    def _consistent(self) -> "VQBeTConfig":
        if self.gpt_hidden_dim % self.gpt_n_head:
            raise ValueError(f"gpt_hidden_dim ({self.gpt_hidden_dim}) is a multiple of gpt_n_head ({self.gpt_n_head})")
        tokens = self.n_obs_steps * TOKENS_PER_STEP + self.n_action_pred_token - 1
        if tokens > self.gpt_block_size:
            raise ValueError(
                f"gpt_block_size ({self.gpt_block_size}) is at least {tokens}, the tokens of {self.n_obs_steps} "
                f"observations and {self.n_action_pred_token} chunks"
            )
        if self.use_group_norm and self.pretrained_backbone_weights is not None:
            raise ValueError("pretrained_backbone_weights is null with use_group_norm, which they do not fit")
        return self

    def policy_class(self) -> "PolicyClass":
        from lerobot_ops.policies.vqbet.model import VQBeTPolicy

        return VQBeTPolicy

    def optimizer(self) -> OptimizerConfig:
        return adam_preset(self)

    def scheduler(self) -> VQBeTSchedule:
        return VQBeTSchedule(
            num_warmup_steps=self.scheduler_warmup_steps, num_vqvae_training_steps=self.n_vqvae_training_steps
        )

    @property
    def normalization(self) -> dict[FeatureType, NormalizationMode]:
        return self.normalization_mapping

    @property
    def observation_delta_indices(self) -> list[int]:
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(1 - self.n_obs_steps, self.n_action_pred_token + self.action_chunk_size - 1))

    @property
    def n_actions(self) -> int:
        return self.action_chunk_size

    @property
    def is_random(self) -> bool:
        return True

    @property
    def camera(self) -> str:
        """The name of the one camera."""
        return next(iter(self.image_features))

    def reads(self, name: str, feature: PolicyFeature) -> bool:
        return is_camera(feature) or (name == STATE and feature.type == FeatureType.STATE and len(feature.shape) == 1)

    def check_features(self) -> None:
        require_readable(self, NAME, f"one camera of 3 channels and {STATE}")
        require_inputs(self, NAME, STATE)
        if len(self.image_features) != 1:
            raise ConfigError(
                f"{NAME} sees through exactly one camera",
                field="policy.input_features",
                found=", ".join(self.image_features) or "no camera",
                fix="name one camera and observation.state in policy.input_features",
            )
        require_frames_of_one_size(self, NAME, self.crop_shape)
        require_action(self, NAME)

"""ACT's configuration: LeRobot's fields and defaults (its `config.json` is this model's JSON)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from lerobot_ops.errors import ConfigError
from lerobot_ops.policies.config import OptimizerConfig, PolicyConfig
from lerobot_ops.processors.features import (
    ACTION,
    ENVIRONMENT_STATE,
    STATE,
    FeatureType,
    NormalizationMode,
    PolicyFeature,
)

if TYPE_CHECKING:
    from lerobot_ops.policies.config import PolicyClass

IMAGENET = "ResNet18_Weights.IMAGENET1K_V1"


def _mean_std() -> dict[FeatureType, NormalizationMode]:
    kinds = (FeatureType.VISUAL, FeatureType.STATE, FeatureType.ACTION)
    return dict.fromkeys(kinds, NormalizationMode.MEAN_STD)


class ACTConfig(PolicyConfig):
    """A transformer that predicts a chunk of actions from one observation, trained as a conditional VAE."""

    type: Literal["act"] = "act"
    n_obs_steps: Literal[1] = 1
    chunk_size: int = Field(default=100, ge=1)
    """Actions predicted at once."""
    n_action_steps: int = Field(default=100, ge=1)
    """Actions of a chunk that are executed before the next query."""
    normalization_mapping: dict[FeatureType, NormalizationMode] = Field(default_factory=_mean_std)
    """How each type of feature is scaled; what is not named stays as it is."""
    vision_backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """The network that every camera's frames go through."""
    pretrained_backbone_weights: str | None = IMAGENET
    """torchvision's name of ImageNet weights (fetched from the Hub), a safetensors file, or null for random ones."""
    replace_final_stride_with_dilation: bool = False
    """A finer last feature map, for resnet50 only."""
    pre_norm: bool = False
    """Normalise before each block of the transformer and not after it."""
    dim_model: int = Field(default=512, ge=4, multiple_of=4)
    """Width of the transformer."""
    n_heads: int = Field(default=8, ge=1)
    dim_feedforward: int = Field(default=3200, ge=1)
    feedforward_activation: Literal["relu", "gelu"] = "relu"
    n_encoder_layers: int = Field(default=4, ge=1)
    n_decoder_layers: int = Field(default=1, ge=1)
    """The original code's decoder has 7 layers of which only the first is used, hence 1."""
    use_vae: bool = True
    """Train with a latent that tells apart the ways in which people do the same thing."""
    latent_dim: int = Field(default=32, ge=1)
    n_vae_encoder_layers: int = Field(default=4, ge=1)
    temporal_ensemble_coeff: float | None = None
    """Query at every step and average what earlier chunks said, weighted exp(-coeff * age rank); 0.01 in the paper."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    kl_weight: float = Field(default=10.0, ge=0)
    """Weight of the latent's KL divergence in the loss."""
    optimizer_lr: float = Field(default=1e-5, gt=0)
    optimizer_weight_decay: float = Field(default=1e-4, ge=0)
    optimizer_lr_backbone: float = Field(default=1e-5, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> "ACTConfig":
        if self.n_action_steps > self.chunk_size:
            raise ValueError(f"n_action_steps ({self.n_action_steps}) is at most chunk_size ({self.chunk_size})")
        if self.temporal_ensemble_coeff is not None and self.n_action_steps != 1:
            raise ValueError("n_action_steps is 1 with temporal_ensemble_coeff, which queries at every step")
        if self.dim_model % self.n_heads:
            raise ValueError(f"dim_model ({self.dim_model}) is a multiple of n_heads ({self.n_heads})")
        if self.replace_final_stride_with_dilation and self.vision_backbone != "resnet50":
            raise ValueError("replace_final_stride_with_dilation needs vision_backbone resnet50")
        return self

    def policy_class(self) -> "PolicyClass":
        from lerobot_ops.policies.act.model import ACTPolicy

        return ACTPolicy

    def optimizer(self) -> OptimizerConfig:
        return OptimizerConfig(
            type="adamw", lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay, grad_clip_norm=10.0
        )

    @property
    def normalization(self) -> dict[FeatureType, NormalizationMode]:
        return self.normalization_mapping

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def n_actions(self) -> int:
        return self.n_action_steps

    @property
    def keeps_memory(self) -> bool:
        return self.temporal_ensemble_coeff is not None

    @property
    def remembers_chunks_only(self) -> bool:
        return self.keeps_memory

    def reads(self, name: str, feature: PolicyFeature) -> bool:
        vector = {STATE: FeatureType.STATE, ENVIRONMENT_STATE: FeatureType.ENV}.get(name) == feature.type
        camera = feature.type == FeatureType.VISUAL and feature.shape[0] == 3
        return camera or (vector and len(feature.shape) == 1)

    def check_features(self) -> None:
        for name, feature in self.input_features.items():
            if not self.reads(name, feature):
                raise ConfigError(
                    "ACT cannot read this input",
                    field=f"policy.input_features.{name}",
                    found=f"{feature.type} {feature.shape}",
                    expected=f"cameras of 3 channels, {STATE} and {ENVIRONMENT_STATE}",
                    fix="name in policy.input_features only what the policy is to read",
                )
        if not self.image_features and ENVIRONMENT_STATE not in self.input_features:
            raise ConfigError(
                "ACT needs to see its surroundings",
                field="policy.input_features",
                found=", ".join(self.input_features) or "nothing",
                expected=f"at least one camera or {ENVIRONMENT_STATE}",
            )
        if ACTION not in self.output_features or len(self.output_features[ACTION].shape) != 1:
            raise ConfigError(
                "ACT needs an action",
                field="policy.output_features",
                found={name: feature.shape for name, feature in self.output_features.items()},
                expected="`action`, a vector",
            )

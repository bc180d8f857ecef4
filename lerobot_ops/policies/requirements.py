"""What a policy asks of its features, and the errors that say so; free of heavy imports."""

from lerobot_ops.errors import ConfigError
from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.processors.features import ACTION, FeatureType, PolicyFeature

Size = tuple[int, int]


def is_camera(feature: PolicyFeature) -> bool:
    """Whether a ResNet can see it: frames of three channels."""
    return feature.type == FeatureType.VISUAL and feature.shape[0] == 3


def require_readable(config: PolicyConfig, who: str, readable: str) -> None:
    """Raise ConfigError for an input that the policy `who` does not read; `readable` lists what it does."""
    for name, feature in config.input_features.items():
        if not config.reads(name, feature):
            raise ConfigError(
                f"{who} cannot read this input",
                field=f"policy.input_features.{name}",
                found=f"{feature.type} {feature.shape}",
                expected=readable,
                fix="name in policy.input_features only what the policy is to read",
            )


def require_inputs(config: PolicyConfig, who: str, *names: str) -> None:
    """Raise ConfigError unless all of these are among the inputs."""
    for name in names:
        if name not in config.input_features:
            raise ConfigError(
                f"{who} needs {name}",
                field="policy.input_features",
                found=", ".join(config.input_features) or "nothing",
                expected=f"{name} among them",
            )


def require_frames_of_one_size(config: PolicyConfig, who: str, crop: Size | None) -> None:
    """Raise ConfigError unless all cameras have frames of one size that the crop fits into."""
    sizes = {name: feature.shape[1:] for name, feature in config.image_features.items()}
    if len(set(sizes.values())) > 1:
        raise ConfigError(
            f"{who} needs cameras of one size",
            field="policy.input_features",
            found=sizes,
            fix="name cameras of one size in policy.input_features, or record them at one size",
        )
    for name, (height, width) in sizes.items():
        if crop is not None and (crop[0] > height or crop[1] > width):
            raise ConfigError(
                "the crop is larger than the frames",
                field="policy.crop_shape",
                found=crop,
                expected=f"at most {(height, width)}, the frames of {name}",
                fix="pass a smaller --policy.crop_shape, or null",
            )


def require_action(config: PolicyConfig, who: str) -> None:
    """Raise ConfigError unless the output is a vector named `action`."""
    if ACTION not in config.output_features or len(config.output_features[ACTION].shape) != 1:
        raise ConfigError(
            f"{who} needs an action",
            field="policy.output_features",
            found={name: feature.shape for name, feature in config.output_features.items()},
            expected="`action`, a vector",
        )

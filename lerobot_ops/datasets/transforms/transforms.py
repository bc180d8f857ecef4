"""Random changes of camera frames during training, with LeRobot's names and defaults.

Unlike LeRobot's, all of them change uint8 frames too; those are what a training reads from videos.
"""

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator

from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

    from lerobot_ops.datasets.transforms.kinds import Kind


class ImageTransformConfig(Config):
    """One transform, and how often it is chosen."""

    weight: float = 1.0
    """Its share in the draw; 0 leaves it out."""
    type: str = "Identity"
    """ColorJitter, SharpnessJitter, RandomAffine, GaussianNoise, MotionBlur, JPEGCompression, GaussianPatchBrightness,
    RandomShadow, CoarseDropout, GammaCorrection, PlanckianJitter or Identity."""
    kwargs: dict[str, Any] = {}
    """Its parameters: mostly the (low, high) of what is drawn."""

    @field_validator("weight")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not 0 <= value < float("inf"):
            raise ValueError("a weight of 0 or more")
        return value


def _usual() -> dict[str, ImageTransformConfig]:
    jitter = {"brightness": (0.8, 1.2), "contrast": (0.8, 1.2), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}
    found = {name: ImageTransformConfig(type="ColorJitter", kwargs={name: span}) for name, span in jitter.items()}
    found["sharpness"] = ImageTransformConfig(type="SharpnessJitter", kwargs={"sharpness": (0.5, 1.5)})
    kwargs = {"degrees": (-5.0, 5.0), "translate": (0.05, 0.05)}
    return found | {"affine": ImageTransformConfig(type="RandomAffine", kwargs=kwargs)}


class ImageTransformsConfig(Config):
    """Which transforms are applied to frames, and how many at once."""

    enable: bool = False
    max_num_transforms: int = Field(default=3, ge=1)
    """How many are drawn, without replacement, for the frames of one camera in one item."""
    random_order: bool = False
    """Apply them in the order in which they were drawn, rather than that of `tfs`."""
    tfs: dict[str, ImageTransformConfig] = Field(default_factory=_usual)
    """The transforms to draw from, by a name of one's own."""


class ImageTransforms:
    """A callable for `LeRobotDataset(image_transforms=...)` that changes frames as a configuration says.

    Frames are [..., channels, height, width] of one camera: uint8, or floating point in [0, 1], and keep their type and
    shape. All of them are changed alike, except that noise is new in every frame. With a `generator` the result
    depends on its state alone, otherwise on torch's global one. Raises ConfigError for an unknown type or parameter.
    """

    def __init__(self, config: ImageTransformsConfig) -> None:
        self.config = config
        chosen = {name: tf for name, tf in config.tfs.items() if tf.weight > 0} if config.enable else {}
        self._weights = [tf.weight for tf in chosen.values()]
        self._kinds = [make_kind(tf, f"image_transforms.tfs.{name}") for name, tf in chosen.items()]

    def __call__(self, frames: "torch.Tensor", generator: "torch.Generator | None" = None) -> "torch.Tensor":
        import torch

        count = min(self.config.max_num_transforms, len(self._kinds))
        if not count:
            return frames
        drawn = torch.multinomial(torch.tensor(self._weights), count, generator=generator).tolist()
        kinds = [self._kinds[place] for place in (drawn if self.config.random_order else sorted(drawn))]
        return changed(frames, kinds, generator)


def changed(frames: "torch.Tensor", kinds: "list[Kind]", generator: "torch.Generator | None") -> "torch.Tensor":
    """`frames` after each of `kinds`; bytes are rounded once, at the end."""
    import torch

    from lerobot_ops.datasets.transforms.kinds import Draw

    if not (frames.dtype == torch.uint8 or frames.is_floating_point()) or frames.ndim < 3:
        raise ConfigError(
            "transforms change frames of cameras",
            found=f"{frames.dtype} {tuple(frames.shape)}",
            expected="uint8 or floating point, (..., channels, height, width)",
        )
    values = frames.reshape(-1, *frames.shape[-3:])
    values = values.to(torch.float32) / 255 if frames.dtype == torch.uint8 else values
    for kind in kinds:
        values = kind.apply(values, Draw(generator))
    if frames.dtype == torch.uint8:
        values = (values * 255).round_().clamp_(0, 255).to(torch.uint8)
    return values.to(frames.dtype).reshape(frames.shape)


def make_kind(config: ImageTransformConfig, field: str) -> "Kind":
    """The transform of a configuration; raises ConfigError, naming `field`, when its type or parameters are wrong."""
    from lerobot_ops.datasets.transforms.kinds import KINDS

    kind: Callable[..., Kind] | None = KINDS.get(config.type)
    if kind is None:
        raise ConfigError(
            "there is no such image transform",
            field=f"{field}.type",
            found=config.type,
            expected=", ".join(sorted(KINDS)),
            fix=did_you_mean(config.type, KINDS),
        )
    known = KINDS[config.type].model_fields
    for name in config.kwargs:
        if name not in known:
            raise ConfigError(
                f"{config.type} has no such parameter",
                field=f"{field}.kwargs.{name}",
                fix=did_you_mean(name, known) if known else "leave it out",
            )
    try:
        return kind(**config.kwargs)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{config.type} does not take this",
            field=f"{field}.kwargs.{place}",
            found=first["input"],
            expected=first["msg"].removeprefix("Value error, "),
        ) from None


def row_generator(seed: int, epoch: int, row: int, camera: str = "") -> "torch.Generator":
    """Where the random numbers of one item come from, so that a resumed training changes its frames alike."""
    import numpy as np
    import torch

    state = np.random.SeedSequence([seed, epoch, row, zlib.crc32(camera.encode())]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))

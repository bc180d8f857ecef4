"""The kinds of cameras that are known, and cameras made of their configurations."""

from typing import TYPE_CHECKING

from lerobot_ops.cameras.camera import Camera, CameraConfig, FoundCamera
from lerobot_ops.cameras.file import FileCameraConfig
from lerobot_ops.cameras.opencv import OpenCVCameraConfig
from lerobot_ops.cameras.pattern import PatternCameraConfig
from lerobot_ops.variants import Variants

CAMERAS: Variants[CameraConfig] = Variants(
    "camera",
    "lerobot_ops.cameras",
    CameraConfig,
    {"opencv": OpenCVCameraConfig, "pattern": PatternCameraConfig, "file": FileCameraConfig},
)

if TYPE_CHECKING:
    AnyCameraConfig = CameraConfig
else:
    AnyCameraConfig = CAMERAS.annotation()
    """A field of this type holds any registered camera's configuration, chosen by its `type`."""


def make_camera(config: CameraConfig, name: str = "camera") -> Camera:
    """The camera of this configuration, not yet connected; messages call it `name`."""
    return config.make(name)


def find_cameras(kind: str | None = None) -> list[FoundCamera]:
    """The cameras on this machine, of one type or of all."""
    kinds = CAMERAS.types.values() if kind is None else [CAMERAS.types[kind]]
    return [found for config in kinds for found in config.find()]

"""What a camera is: frames that arrive in the background, each with the moment at which it was taken."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lerobot_ops.config import Config


class CameraConfig(Config):
    """A camera's settings; every kind of camera adds its own. The names are LeRobot's."""

    type: str
    """Name of the kind of camera."""
    width: int = Field(ge=1)
    """Pixels, after the rotation."""
    height: int = Field(ge=1)
    fps: int = Field(ge=1)
    """Frames of a second; the camera is refused if it cannot deliver them."""


@dataclass(frozen=True)
class Frame:
    """One picture of a camera."""

    image: NDArray[np.uint8]
    """(height, width, 3), RGB; not changed by anyone."""
    captured_at: float
    """When it was taken, in seconds of `time.perf_counter`."""
    number: int
    """Frames since the camera was connected, from 0: equal numbers are the same picture."""


class Camera(ABC):
    """One camera; a thread of its own reads it, so that nobody waits for it.

    Every method raises DeviceError when the camera is not connected, is gone, or gives no frames.
    """

    def __init__(self, config: CameraConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def is_connected(self) -> bool:
        """Whether frames can be asked for."""

    @abstractmethod
    def connect(self, warmup: bool = True) -> None:
        """Open the device, check size and rate, and start reading; with `warmup` return once exposure has settled."""

    @abstractmethod
    def disconnect(self) -> None:
        """Stop reading and close the device; may be called twice."""

    @abstractmethod
    def latest(self, max_age_ms: float = 500) -> Frame:
        """The newest frame, at once; raises DeviceError if it is older than `max_age_ms`."""

    @abstractmethod
    def next(self, timeout_ms: float = 200) -> Frame:
        """The first frame that nobody was given yet; raises DeviceError if none comes in time."""

    def read_latest(self, max_age_ms: float = 500) -> NDArray[np.uint8]:
        """The picture of `latest`; LeRobot's name."""
        return self.latest(max_age_ms).image

    def async_read(self, timeout_ms: float = 200) -> NDArray[np.uint8]:
        """The picture of `next`; LeRobot's name."""
        return self.next(timeout_ms).image

    @classmethod
    @abstractmethod
    def find_cameras(cls) -> list[dict[str, Any]]:
        """The cameras of this kind on this machine: type, id, and what they deliver by default."""

    def settings(self) -> dict[str, Any]:
        """What the device really does (size, rate, exposure, ...), as JSON, for the dataset's provenance."""
        return self.config.model_dump(mode="json")

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.disconnect()

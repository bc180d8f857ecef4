"""A camera without a device: stripes that move, each frame with its number drawn into it, and faults on command."""

import time
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lerobot_ops.cameras.camera import Camera, CameraConfig, Source
from lerobot_ops.errors import DeviceError

BITS = 32
PIXELS_PER_FRAME = 4
FAULTS = ("freeze", "stall", "unplug")


class PatternCameraConfig(CameraConfig):
    """A test pattern at a real rate; frame `n` looks the same on every machine."""

    type: Literal["pattern"] = "pattern"
    width: int = Field(default=640, ge=BITS)
    height: int = Field(default=480, ge=16)
    fps: int = Field(default=30, ge=1)
    warmup_s: float = Field(default=0.0, ge=0)
    seed: int = 0
    """Colours; give every camera another one."""
    control: Path | None = None
    """While this file exists, the word in it breaks the camera: freeze (one picture again and again), stall (no frames)
    or unplug (the device is gone)."""

    def make(self, name: str) -> Camera:
        return PatternCamera(self, name)


class PatternCamera(Camera):
    """Gives frame `n` at `n / fps` seconds after it was opened; a reader that is late misses frames."""

    config: PatternCameraConfig
    fault: str | None = None
    """Set it to one of FAULTS to break the camera, to None to mend it."""

    def open(self) -> Source:
        source = _Pattern(self)
        if self.current_fault() == "unplug":
            raise DeviceError(f"the camera {self.name!r} is unplugged", fix="end the fault")
        return source

    def current_fault(self) -> str | None:
        """The fault that was set here or in the file `control`."""
        if self.fault is None and self.config.control is not None:
            try:
                return self.config.control.read_text().strip() or None
            except FileNotFoundError:
                return None
        return self.fault


def pattern_number(image: NDArray[np.uint8]) -> int:
    """The number of a pattern's frame, (height, width, 3) uint8; it survives video encoding."""
    height, width, _ = image.shape
    cell = width // BITS
    # The middle of every cell: a codec blurs its edges.
    middle = image[height // 32, cell // 2 : cell * BITS : cell].mean(axis=1)
    return int(sum(1 << bit for bit in range(BITS) if middle[bit] > 127))


class _Pattern(Source):
    def __init__(self, camera: PatternCamera) -> None:
        self.camera, config = camera, camera.config
        self.height, self.width, self.fps = config.height, config.width, config.fps
        self.cell = config.width // BITS
        colors = np.random.default_rng(config.seed).integers(60, 200, 3)
        self.period = config.width
        phase = np.arange(2 * config.width) * (4 * np.pi / self.period)
        row = (colors + 50 * np.sin(phase)[:, None]).astype(np.uint8)
        self.canvas = np.repeat(row[None], config.height, axis=0)
        self.started, self.number = time.perf_counter(), -1
        self.frozen: NDArray[np.uint8] | None = None

    def read(self) -> tuple[NDArray[np.uint8], float]:
        self.number = max(self.number + 1, int((time.perf_counter() - self.started) * self.fps))
        captured_at = self.started + self.number / self.fps
        time.sleep(max(0.0, captured_at - time.perf_counter()))
        fault = self.camera.current_fault()
        while fault == "stall" and self.camera.is_connected:
            time.sleep(1 / self.fps)
            fault = self.camera.current_fault()
        if fault == "unplug":
            raise DeviceError(f"the camera {self.camera.name!r} was unplugged")
        picture = self.frozen if fault == "freeze" and self.frozen is not None else self.picture(self.number)
        self.frozen = picture
        return picture, captured_at

    def picture(self, number: int) -> NDArray[np.uint8]:
        """Frame `number`, (height, width, 3) uint8."""
        shift = number * PIXELS_PER_FRAME % self.period
        picture = self.canvas[:, shift : shift + self.width].copy()
        bits = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
        picture[: self.height // 16, : self.cell * BITS] = np.repeat(bits, self.cell)[None, :, None]
        return picture

    def close(self) -> None:
        pass

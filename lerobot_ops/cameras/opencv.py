"""Cameras that OpenCV opens: by index, by path (best below /dev/v4l/by-id), or a video file."""

import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lerobot_ops.cameras.camera import Camera, CameraConfig, FoundCamera, Source
from lerobot_ops.errors import DeviceError, PrerequisiteError

PLAUSIBLE_AGE_S = 1.0
INDICES = 10
"""Indices that are tried where the system does not list its cameras."""


class OpenCVCameraConfig(CameraConfig):
    """A USB camera, or a video file."""

    type: Literal["opencv"] = "opencv"
    index_or_path: int | Path
    """0 for /dev/video0, or a path; paths below /dev/v4l/by-id stay the same when cameras are plugged in again."""
    color_mode: Literal["rgb", "bgr"] = "rgb"
    """Order of a picture's channels; datasets and policies expect rgb."""
    rotation: Literal[0, 90, 180, -90] = 0
    """Degrees clockwise."""
    fourcc: str | None = Field(default=None, min_length=4, max_length=4)
    """Format on the cable: MJPG needs a tenth of YUYV's bandwidth; by default the driver chooses."""
    backend: Literal[0, 200, 700, 800, 1000, 1200, 1400] = 0
    """OpenCV's number of a video system: 0 any, 200 V4L2, 700 DSHOW, 1200 AVFoundation, 1400 MSMF."""

    def make(self, name: str) -> Camera:
        return OpenCVCamera(self, name)

    @classmethod
    def find(cls) -> list[FoundCamera]:
        found = [_described(device) for device in _devices()]
        return [camera for camera in found if camera is not None]


class OpenCVCamera(Camera):
    """Refuses a device that does not take the asked size, rate or format."""

    config: OpenCVCameraConfig

    def open(self) -> Source:
        return _Capture(self.config, self.name)


class _Capture(Source):
    def __init__(self, config: OpenCVCameraConfig, name: str) -> None:
        self.config, self.name, self.cv2 = config, name, _cv2()
        self.device = _device(config.index_or_path)
        # A file has no clock of its own: it is played at its rate.
        self.paced = isinstance(self.device, str) and Path(self.device).is_file()
        self.capture = self.cv2.VideoCapture(self.device, config.backend)
        try:
            if not self.capture.isOpened():
                raise _not_opened(self.device, name)
            self._configure()
        except BaseException:
            self.close()
            raise
        self.started, self.frames = time.perf_counter(), 0
        self.v4l2 = self.capture.getBackendName() == "V4L2"
        self.turn = {90: 0, 180: 1, -90: 2}.get(config.rotation)

    def read(self) -> tuple[NDArray[np.uint8], float]:
        if self.paced:
            time.sleep(max(0.0, self.started + self.frames / self.config.fps - time.perf_counter()))
        if not self.capture.grab():  # what comes before decoding: the moment that counts
            raise DeviceError(f"the camera {self.name!r} stopped", fix="check its cable and its USB hub")
        captured_at = self._captured_at()
        done, picture = self.capture.retrieve()
        if not done:
            raise DeviceError(f"a frame of the camera {self.name!r} cannot be decoded", fix="try another fourcc")
        self.frames += 1
        if self.config.color_mode == "rgb":
            picture = self.cv2.cvtColor(picture, self.cv2.COLOR_BGR2RGB)
        return (picture if self.turn is None else self.cv2.rotate(picture, self.turn)), captured_at

    def close(self) -> None:
        self.capture.release()

    def settings(self) -> dict[str, Any]:
        read = {
            "exposure": self.cv2.CAP_PROP_EXPOSURE,
            "auto_exposure": self.cv2.CAP_PROP_AUTO_EXPOSURE,
            "gain": self.cv2.CAP_PROP_GAIN,
            "auto_white_balance": self.cv2.CAP_PROP_AUTO_WB,
            "white_balance": self.cv2.CAP_PROP_WB_TEMPERATURE,
        }
        known = {} if self.paced else {name: self.capture.get(number) for name, number in read.items()}
        return {
            "device": str(self.device),
            "device_name": _device_name(self.device),
            "backend_api": self.capture.getBackendName(),
            "fourcc": _fourcc(self.capture.get(self.cv2.CAP_PROP_FOURCC)),
            **known,
        }

    def _configure(self) -> None:
        config, cv2 = self.config, self.cv2
        width, height = (config.width, config.height)[:: 1 if config.rotation in (0, 180) else -1]
        # The format first: it decides which sizes and rates there are.
        if config.fourcc:
            self.capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
        for number, value in ((cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height)):
            self.capture.set(number, value)
        self.capture.set(cv2.CAP_PROP_FPS, config.fps)
        size = (int(self.capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(self.capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        rate, fourcc = self.capture.get(cv2.CAP_PROP_FPS), _fourcc(self.capture.get(cv2.CAP_PROP_FOURCC))
        turned = f", before it is turned by {config.rotation}°" if config.rotation in (90, -90) else ""
        if size != (width, height):
            raise self._refused("width and height", f"{size[0]}x{size[1]}", f"{width}x{height}{turned}")
        if rate > 0 and abs(rate - config.fps) > 0.01 * config.fps:
            raise self._refused("fps", f"{rate:g} frames/s", f"{config.fps} frames/s")
        if config.fourcc and fourcc != config.fourcc:
            raise self._refused("fourcc", fourcc, config.fourcc)

    def _refused(self, field: str, found: str, expected: str) -> DeviceError:
        return DeviceError(
            f"the camera {self.name!r} ({self.device}) does not do what it is asked",
            field=field,
            found=found,
            expected=expected,
            fix="ask for what it has; `v4l2-ctl --list-formats-ext` lists its sizes, rates and formats",
        )

    def _captured_at(self) -> float:
        now = time.perf_counter()
        if self.v4l2 and sys.platform == "linux":  # the driver's stamp; both clocks are CLOCK_MONOTONIC
            stamp = self.capture.get(self.cv2.CAP_PROP_POS_MSEC) / 1e3
            if 0 <= now - stamp < PLAUSIBLE_AGE_S:
                return float(stamp)
        return now


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise PrerequisiteError("OpenCV is not installed", fix="pip install 'lerobot-ops[hardware]'") from None
    # OpenCV tells stderr about every device that it cannot open; we say it better.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _device(index_or_path: int | Path) -> int | str:
    if isinstance(index_or_path, int):
        return f"/dev/video{index_or_path}" if sys.platform == "linux" else index_or_path
    return str(index_or_path.expanduser())


def _not_opened(device: int | str, name: str) -> DeviceError:
    fix = "is another program using it? `fuser -v DEVICE` shows which"
    found: object = None
    if isinstance(device, str) and not os.path.exists(device):
        found, fix = "no such device", "plug it in; `lerobot-ops find-cameras` lists those that are there"
    elif isinstance(device, str) and not os.access(device, os.R_OK):
        found, fix = "no permission", "sudo usermod -aG video $USER, and log in again"
    return DeviceError(f"the camera {name!r} cannot be opened", file=str(device), found=found, fix=fix)


def _devices() -> list[int | str]:
    if sys.platform != "linux":
        return list(range(INDICES))
    return [str(path) for path in sorted(Path("/dev").glob("video[0-9]*"), key=lambda path: int(path.name[5:]))]


def _described(device: int | str) -> FoundCamera | None:
    """What the device is; None if it gives no pictures, as the second device of many a camera."""
    cv2 = _cv2()
    capture = cv2.VideoCapture(device, cv2.CAP_ANY)
    try:
        if not capture.isOpened():
            return None
        path = _lasting_path(device)
        return FoundCamera(
            name=_device_name(device) or f"camera {device}",
            settings={
                "type": "opencv",
                "index_or_path": path or device,
                "width": int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
                "height": int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
                "fps": round(capture.get(cv2.CAP_PROP_FPS)) or 30,
            },
            details={
                "device": device,
                "backend_api": capture.getBackendName(),
                "fourcc": _fourcc(capture.get(cv2.CAP_PROP_FOURCC)),
            },
        )
    finally:
        capture.release()


def _device_name(device: int | str) -> str | None:
    file = Path("/sys/class/video4linux", Path(str(device)).resolve().name, "name")
    return file.read_text().strip() if file.is_file() else None


def _lasting_path(device: int | str) -> str | None:
    """The path of the device that stays the same when cameras are plugged in in another order."""
    links = sorted(Path("/dev/v4l/by-id").glob("*")) + sorted(Path("/dev/v4l/by-path").glob("*"))
    return next((str(link) for link in links if str(link.resolve()) == str(device)), None)


def _fourcc(code: float) -> str:
    return "".join(chr(int(code) >> shift & 0xFF) for shift in (0, 8, 16, 24)).strip("\0")

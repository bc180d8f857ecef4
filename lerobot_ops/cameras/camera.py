"""What a camera is: frames that arrive in the background, each with the moment at which it was taken."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.errors import DeviceError

logger = logging.getLogger(__name__)

FIRST_FRAME_S = 10.0  # a USB camera may take seconds from being opened to its first frame
RETRY_S = 0.5
ENOUGH = 0.8  # of the asked rate: measured in about a second, it is off by a frame or two
SPARSE = (slice(None, None, 7), slice(None, None, 5))  # a sensor's noise changes these pixels in every frame


class CameraConfig(Config):
    """A camera's settings; every kind of camera adds its own. The names are LeRobot's."""

    type: str
    """Name of the kind of camera."""
    width: int = Field(ge=1)
    """Pixels, after the rotation."""
    height: int = Field(ge=1)
    fps: int = Field(ge=1)
    """Frames of a second; the camera is refused if it cannot deliver them."""
    warmup_s: float = Field(default=1.0, ge=0)
    """How long frames are thrown away, and their rate measured, until exposure has settled."""
    frozen_after_s: float | None = Field(default=2.0, gt=0)
    """A camera that repeats one picture for so long is broken; none where pictures may stand still."""

    def make(self, name: str) -> "Camera":
        """The camera of this configuration, not yet connected; messages call it `name`."""
        raise NotImplementedError(f"{type(self).__name__} does not say which class is made of it")

    @classmethod
    def find(cls) -> "list[FoundCamera]":
        """The cameras of this kind on this machine."""
        return []


class FoundCamera(Config):
    """A camera that is there."""

    name: str
    settings: dict[str, Any]
    """A configuration that opens it, with the size and rate that it has by default."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What else is known of it."""


@dataclass(frozen=True)
class Frame:
    """One picture of a camera."""

    image: NDArray[np.uint8]
    """(height, width, 3), RGB; not changed by anyone."""
    captured_at: float
    """When it was taken, in seconds of `time.perf_counter`."""
    number: int
    """Frames since the camera was connected, from 0: equal numbers are the same picture."""


class Source(ABC):
    """An opened device, used by one thread."""

    @abstractmethod
    def read(self) -> tuple[NDArray[np.uint8], float]:
        """Wait for the next picture: (height, width, 3) uint8, and when it was taken (`time.perf_counter`, s).

        Raises DeviceError when the device is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the device back."""

    def settings(self) -> dict[str, Any]:
        """What the device says that it does, as JSON."""
        return {}


class Camera(ABC):
    """One camera; a thread of its own reads it, so that nobody waits for it.

    A device that fails is opened again until it answers; meanwhile its last frame grows old, and is refused when it is
    too old. A kind of camera says how its device is opened, checked and read (`open`).

    Every method raises DeviceError when the camera is not connected, is gone, or gives no frames.
    """

    def __init__(self, config: CameraConfig, name: str = "camera") -> None:
        self.config, self.name = config, name
        self.reconnections = 0
        self._news = threading.Condition()
        self._frame: Frame | None = None
        self._given = -1
        self._failure: Exception | None = None
        self._changed_at = 0.0
        self._reader: threading.Thread | None = None
        self._closing = threading.Event()
        self._settings: dict[str, Any] = {}

    @abstractmethod
    def open(self) -> Source:
        """Open the device and make it do what the configuration says; DeviceError says what it does instead."""

    @property
    def is_connected(self) -> bool:
        """Whether frames can be asked for."""
        return self._reader is not None

    def connect(self, warmup: bool = True) -> None:
        """Open the device, check size and rate, and start reading; with `warmup` return once exposure has settled."""
        if self._reader is not None:
            raise DeviceError(f"the camera {self.name!r} is connected already", fix="disconnect it first")
        source = self.open()
        self._settings = source.settings()
        self._frame, self._given, self._failure, self._changed_at = None, -1, None, time.perf_counter()
        self._closing = threading.Event()
        self._reader = threading.Thread(
            target=self._read, args=(source, self._closing), name=f"camera {self.name}", daemon=True
        )
        self._reader.start()
        try:
            first = self._first()
            if warmup and self.config.warmup_s:
                self._warm_up(first)
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        """Stop reading and close the device; may be called twice."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._closing.set()
            reader.join(timeout=2)  # a driver that hangs keeps its thread, which is a daemon

    def latest(self, max_age_ms: float = 500) -> Frame:
        """The newest frame, at once; raises DeviceError if it is older than `max_age_ms`, or frozen."""
        frame = self._connected()
        age = time.perf_counter() - frame.captured_at
        if age * 1e3 > max_age_ms:
            raise self._silent(f"its last frame is {age:.2f} s old", f"a frame of the last {max_age_ms:g} ms")
        self._check_frozen(frame)
        self._given = frame.number
        return frame

    def next(self, timeout_ms: float = 200) -> Frame:
        """The first frame that nobody was given yet; raises DeviceError if none comes in time, or it is frozen."""
        self._connected()
        frame = self._await(self._given + 1, timeout_ms / 1e3)
        self._check_frozen(frame)
        self._given = frame.number
        return frame

    def read_latest(self, max_age_ms: float = 500) -> NDArray[np.uint8]:
        """The picture of `latest`; LeRobot's name."""
        return self.latest(max_age_ms).image

    def async_read(self, timeout_ms: float = 200) -> NDArray[np.uint8]:
        """The picture of `next`; LeRobot's name."""
        return self.next(timeout_ms).image

    def settings(self) -> dict[str, Any]:
        """What the device really does (size, rate, exposure, ...), as JSON, for the dataset's provenance."""
        return {**self.config.model_dump(mode="json"), **self._settings}

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.disconnect()

    def _read(self, opened: Source, closing: threading.Event) -> None:
        source: Source | None = opened
        number = 0
        while not closing.is_set():
            try:
                if source is None:
                    source = self.open()
                    self.reconnections += 1
                    logger.warning("the camera %r is back", self.name)
                image, captured_at = source.read()
                self._check_size(image)
            except Exception as error:  # whatever a driver does, the thread lives on and the message reaches the reader
                self._fail(error, closing)
                if source is not None:
                    source.close()
                    source = None
                closing.wait(RETRY_S)
                continue
            if not closing.is_set():  # a driver that hung may wake up when the camera has been connected anew
                self._publish(image, captured_at, number)
            number += 1
        if source is not None:
            source.close()

    def _publish(self, image: NDArray[np.uint8], captured_at: float, number: int) -> None:
        image.setflags(write=False)
        with self._news:
            if self._frame is None or not np.array_equal(image[SPARSE], self._frame.image[SPARSE]):
                self._changed_at = captured_at
            self._failure, self._frame = None, Frame(image, captured_at, number)
            self._news.notify_all()

    def _fail(self, error: Exception, closing: threading.Event) -> None:
        with self._news:
            if self._failure is None and self._frame is not None and not closing.is_set():
                logger.warning("%s; the camera %r is opened again until it answers", _problem(error), self.name)
            self._failure = error
            self._news.notify_all()

    def _first(self) -> Frame:
        with self._news:
            self._news.wait_for(lambda: self._frame is not None or self._failure is not None, FIRST_FRAME_S)
            frame, failure = self._frame, self._failure
        if frame is not None:
            return frame
        if isinstance(failure, DeviceError):
            raise failure
        found = f"no frame in {FIRST_FRAME_S:g} s" if failure is None else type(failure).__name__
        raise self._silent(found, f"{self.config.fps} frames/s")

    def _check_size(self, image: NDArray[np.uint8]) -> None:
        expected = (self.config.height, self.config.width, 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise DeviceError(
                f"the camera {self.name!r} gives other pictures",
                found=f"{image.dtype} {image.shape}",
                expected=f"uint8 {expected}: (height, width, 3)",
                fix="set width and height, after the rotation, to what it delivers: lerobot-ops find-cameras",
            )

    def _connected(self) -> Frame:
        frame = self._frame
        if self._reader is None or frame is None:
            raise DeviceError(f"the camera {self.name!r} is not connected", fix="call connect() first")
        return frame

    def _await(self, number: int, seconds: float) -> Frame:
        """The newest frame, once its number is at least `number`."""
        with self._news:
            come = self._news.wait_for(lambda: self._frame is not None and self._frame.number >= number, seconds)
            frame = self._frame
        if not come or frame is None:
            raise self._silent(f"no frame in {seconds:g} s", f"{self.config.fps} frames/s")
        return frame

    def _warm_up(self, first: Frame) -> None:
        until = first.captured_at + self.config.warmup_s
        frame = first
        while frame.captured_at < until:
            frame = self._await(frame.number + 1, FIRST_FRAME_S)
        self._given = frame.number
        rate = (frame.number - first.number) / (frame.captured_at - first.captured_at)
        if rate < ENOUGH * self.config.fps:
            raise DeviceError(
                f"the camera {self.name!r} is slower than it should be",
                field="fps",
                found=f"{rate:.1f} frames/s, measured over {frame.captured_at - first.captured_at:.1f} s",
                expected=f"{self.config.fps} frames/s",
                fix="give it more light (a long exposure lowers the rate), a port of its own, a smaller size or "
                "fourcc=MJPG; or set fps to what it delivers",
            )

    def _check_frozen(self, frame: Frame) -> None:
        limit = self.config.frozen_after_s
        still = frame.captured_at - self._changed_at
        if limit is not None and still > limit:
            raise DeviceError(
                f"the camera {self.name!r} is frozen: its frames are equal to the last bit",
                found=f"one picture for {still:.1f} s",
                expected=f"a change within {limit:g} s (frozen_after_s)",
                fix="plug it in again; if the lens is covered or the picture may stand still, set frozen_after_s: null",
            )

    def _silent(self, found: str, expected: str) -> DeviceError:
        reason = f": {_problem(self._failure)}" if self._failure else ""
        return DeviceError(
            f"the camera {self.name!r} gives no frames{reason}",
            found=found,
            expected=expected,
            fix="check its cable and its USB hub; it is opened again by itself once it answers",
        )


def _problem(error: Exception) -> str:
    return error.problem if isinstance(error, DeviceError) else str(error)

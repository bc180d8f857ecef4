"""A video file or a folder of pictures, played as if it were a camera."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lerobot_ops.cameras.camera import Camera, CameraConfig, Source
from lerobot_ops.errors import DeviceError

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class FileCameraConfig(CameraConfig):
    """Plays at `fps`, whatever the file's own rate is."""

    type: Literal["file"] = "file"
    path: Path
    """A video that FFmpeg reads, or a folder whose pictures are shown in the order of their names."""
    loop: bool = True
    """Begin again at the end; else the camera is then gone."""
    warmup_s: float = Field(default=0.0, ge=0)
    frozen_after_s: float | None = None

    def make(self, name: str) -> Camera:
        return FileCamera(self, name)


class FileCamera(Camera):
    """Refuses files whose pictures are of another size."""

    config: FileCameraConfig

    def open(self) -> Source:
        if self.is_connected and not self.config.loop:  # asked by the thread, which lost it
            raise _ended(self.config, self.name)
        return _Player(self.config, self.name)


class _Player(Source):
    def __init__(self, config: FileCameraConfig, name: str) -> None:
        self.config, self.name = config, name
        if not config.path.exists():
            raise DeviceError(f"the file of the camera {name!r} does not exist", file=config.path)
        self.started = time.perf_counter()
        self.pictures = enumerate(self._all())

    def read(self) -> tuple[NDArray[np.uint8], float]:
        try:
            number, picture = next(self.pictures)
        except StopIteration:
            raise _ended(self.config, self.name) from None
        shown_at = self.started + number / self.config.fps
        late = time.perf_counter() - shown_at
        if late > 1 / self.config.fps:  # nothing is skipped: the clock waits for a slow machine
            self.started += late
            return picture, shown_at + late
        time.sleep(max(0.0, -late))
        return picture, shown_at

    def close(self) -> None:
        self.pictures = enumerate(())

    def _all(self) -> Iterator[NDArray[np.uint8]]:
        for _ in itertools.count() if self.config.loop else range(1):
            count = 0
            for picture in self._folder() if self.config.path.is_dir() else self._video():
                count += 1
                yield picture
            if not count:
                raise DeviceError(f"the file of the camera {self.name!r} holds no picture", file=self.config.path)

    def _folder(self) -> Iterator[NDArray[np.uint8]]:
        from PIL import Image

        for file in sorted(self.config.path.iterdir()):
            if file.suffix.lower() in PICTURES:
                yield np.array(Image.open(file).convert("RGB"))

    def _video(self) -> Iterator[NDArray[np.uint8]]:
        import av

        try:
            with av.open(str(self.config.path)) as container:
                for frame in container.decode(video=0):
                    yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        except (av.FFmpegError, IndexError) as error:
            raise DeviceError(
                f"the file of the camera {self.name!r} is no video", file=self.config.path, found=str(error)
            ) from None


def _ended(config: FileCameraConfig, name: str) -> DeviceError:
    return DeviceError(f"the file of the camera {name!r} has ended", file=config.path, fix="set loop to true")

"""Video files that stay open from one read to the next, and give any frame by its time."""

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from lerobot_ops.errors import DatasetError

_open_decoders = threading.local()
_inherited_decoders: list[Any] = []
_OPEN_DECODERS = 32


def open_video(path: Path, file: Any = None) -> Any:
    """An open PyAV container with a video stream; raises DatasetError that names the file.

    `file`: where its bytes come from when it is not on disk, an open binary file.
    """
    try:
        container = av.open(str(path) if file is None else file, "r")
    except (av.FFmpegError, OSError) as error:
        missing = file is None and not Path(path).exists()
        raise DatasetError(
            "a video of the dataset is missing" if missing else "a video of the dataset cannot be read",
            file=path,
            found=None if missing else str(error),
            expected="an mp4",
        ) from None
    if not container.streams.video:
        container.close()
        raise DatasetError("a file of the dataset has no video in it", file=path, expected="an mp4 with video")
    return container


def decoder_of(path: Path) -> "Decoder":
    """This thread's decoder of a file; a forked process or a replaced file gets a new one."""
    cache: OrderedDict[Any, Decoder]
    if getattr(_open_decoders, "process", None) != os.getpid():
        # A forked process must not free its parent's decoders: their threads, which it would wait for, are not in it.
        _inherited_decoders.append(getattr(_open_decoders, "cache", None))
        _open_decoders.process, _open_decoders.cache = os.getpid(), OrderedDict()
    cache = _open_decoders.cache
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise DatasetError("a video of the dataset is missing", file=path, expected="an mp4") from None
    key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    decoder = cache.pop(key, None) or Decoder(path)
    cache[key] = decoder
    while len(cache) > _OPEN_DECODERS:
        cache.popitem(last=False)[1].close()
    return decoder


class Decoder:
    """One open video file and the frame that was decoded last."""

    def __init__(self, path: Path, file: Any = None) -> None:
        self._path, self._container = path, open_video(path, file)
        self._stream: VideoStream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1  # threads cost more than they gain in random access
        self._base = float(self._stream.time_base or 0)
        self._step = 1 / float(self._stream.average_rate or 1)
        self._reformatter = VideoReformatter()
        self._frames: Iterator[av.VideoFrame] | None = None
        self._last: av.VideoFrame | None = None

    def close(self) -> None:
        self._container.close()

    def pixels(self, frame: av.VideoFrame, layout: str) -> np.ndarray:
        """A frame in FFmpeg's pixel format `layout`, converted on this thread alone."""
        return self._reformatter.reformat(frame, format=layout, threads=1).to_ndarray()

    def planes(self, frame: av.VideoFrame) -> list[np.ndarray]:
        """The red, green and blue bytes of a frame, each [height, width]: what `pixels` gives as rgb24."""
        if not _planes_are_exact(frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range):
            pixels = self.pixels(frame, "rgb24")
            return [pixels[..., colour] for colour in range(3)]
        planar = self._reformatter.reformat(frame, format="gbrp", threads=1).planes
        return [_bytes_of(planar[place]) for place in (2, 0, 1)]

    def at(self, times: Sequence[float], tolerance_s: float) -> Iterator[av.VideoFrame]:
        """The frame shown at each of `times`, which are ascending."""
        for time in times:
            frame = self._reach(time)
            if frame is None or abs(self._time(frame) - time) > tolerance_s:
                raise DatasetError(
                    "a video has no frame at the time of a frame of the dataset",
                    file=self._path,
                    found="the end of the file" if frame is None else f"a frame at {self._time(frame):.6f} s",
                    expected=f"a frame at {time:.6f} s, within {tolerance_s:g} s",
                    fix="validate the dataset: the video and the episodes table disagree",
                )
            yield frame

    def _reach(self, time: float) -> av.VideoFrame | None:
        if not self._is_ahead(time):
            self._seek(time)
        while self._last is None or self._time(self._last) < time - self._step / 2:
            if not self._advance():
                return None
        return self._last

    def _is_ahead(self, time: float) -> bool:
        """Whether decoding on from the last frame reaches `time` without passing a keyframe that a seek would find."""
        if self._last is None:
            return False
        distance = time - self._time(self._last)
        if distance < -self._step / 2:
            return False
        if distance < 1.5 * self._step:
            return True
        entries = self._stream.index_entries
        here, there = (
            entries.search_timestamp(round(at / self._base), backward=True) for at in (self._time(self._last), time)
        )
        return bool(here == there)

    def _seek(self, time: float) -> None:
        """Decode the keyframe before `time`, or the first frame of the file."""
        back = 0.0
        while True:
            start = max(0.0, time - back)
            self._container.seek(round(start / self._base), stream=self._stream, backward=True)
            self._frames, self._last = self._container.decode(self._stream), None
            if not self._advance() or start == 0.0 or self._time(self._last) < time + self._step / 2:
                return
            back = 2 * back + 1.0  # some files seek by decoding time, which may pass the keyframe

    def _advance(self) -> bool:
        assert self._frames is not None
        try:
            frame = next(self._frames, None)
        except av.FFmpegError as error:
            self._frames = self._last = None
            raise DatasetError(
                "a video of the dataset is damaged",
                file=self._path,
                found=error.strerror or str(error),
                fix="validate the dataset to see which episodes are in it",
            ) from None
        self._last = frame
        return frame is not None

    def _time(self, frame: av.VideoFrame | None) -> float:
        assert frame is not None
        assert frame.pts is not None
        return frame.pts * self._base


def _bytes_of(plane: Any) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


@functools.cache
def _planes_are_exact(pixels: str, width: int, height: int, colorspace: int, color_range: int) -> bool:
    """Whether FFmpeg converts such frames to planes as it does to rgb24, for which it may have other code.

    The code depends on these parameters and not on what is in the picture, so one frame of noise shows it.
    """
    frame = av.VideoFrame(width, height, pixels)
    if any(component.bits != 8 for component in frame.format.components):
        return False  # noise would not be a frame
    noise = np.random.default_rng(0)
    for plane in frame.planes:
        plane.update(noise.bytes(plane.buffer_size))
    frame.colorspace, frame.color_range = colorspace, color_range
    packed = VideoReformatter().reformat(frame, format="rgb24", threads=1).to_ndarray()
    planar = VideoReformatter().reformat(frame, format="gbrp", threads=1).planes
    return all(np.array_equal(packed[..., colour], _bytes_of(planar[place])) for colour, place in enumerate((2, 0, 1)))

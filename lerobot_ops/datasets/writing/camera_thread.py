"""A camera's frames encoded and counted in a thread of their own, while the recording goes on."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from lerobot_ops.datasets.statistics import CameraStats, Histogram
from lerobot_ops.datasets.videos.depth import LEVELS, DepthRange
from lerobot_ops.datasets.videos.video_writer import VideoWriter
from lerobot_ops.datasets.writing.image_spool import ImageSpool
from lerobot_ops.errors import DatasetError, OpsError

_PATIENCE = 0.2
"""Seconds between two looks at whether the thread has failed."""

Sink = VideoWriter | ImageSpool


class CameraThread:
    """Encodes the frames that it is given, in order, into the file that `open_sink` opens; `maxsize` frames may wait.

    `depth` is the range of a depth camera: its frames are counted as levels, and a video gets the levels, too. The file
    is opened in the thread, because some encoders take a tenth of a second to start.
    """

    def __init__(self, name: str, open_sink: Callable[[], Sink], *, depth: DepthRange | None, maxsize: int) -> None:
        self.name = name
        self.sink: Sink | None = None
        self._open_sink, self._depth = open_sink, depth
        self._stats = CameraStats() if depth is None else CameraStats(1, LEVELS)
        self._millimetres = None if depth is None else depth.levels(np.arange(1 << 16), "mm")
        self._room = threading.Semaphore(maxsize)
        self._frames: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._abandoned = self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"encode {name}", daemon=True)
        self._thread.start()

    @property
    def frames(self) -> int:
        """How many frames are in the file."""
        return 0 if self.sink is None else self.sink.frames

    def histogram(self) -> Histogram:
        """The pixels of all frames; call it after `finish`."""
        return self._stats.histogram()

    def take_room(self) -> None:
        """Wait until there is room for one more frame; raises DatasetError when the encoder has failed."""
        self.check()
        while not self._room.acquire(timeout=_PATIENCE):
            self.check()

    def give_room(self) -> None:
        """Give back room that was taken and not used."""
        self._room.release()

    def put(self, frame: np.ndarray) -> None:
        """Hand over a frame for which room was taken: uint8 [height, width, 3], or depth [height, width]."""
        self._frames.put(frame)

    def check(self) -> None:
        """Raise DatasetError, naming the camera, when its encoder has failed."""
        if isinstance(self._error, OpsError):
            raise self._error
        if self._error is not None:
            raise DatasetError(
                "a camera's frames could not be encoded",
                field=self.name,
                found=str(self._error) or repr(self._error),
                fix="discard this episode and record it again",
            ) from self._error

    def finish(self) -> None:
        """Wait until every frame is in the closed file; raises DatasetError when the encoder has failed."""
        self._frames.put(None)
        self._thread.join()
        self.check()

    def abandon(self) -> None:
        """Stop, and leave out what waits to be encoded."""
        self._abandoned = True
        self._frames.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._encode()
        except Exception as error:
            self._error = error
            self._room.release()
            while self._next() is not None:  # whoever waits for room shall hear of the error, not wait for ever
                self._room.release()

    def _next(self) -> np.ndarray | None:
        """The next frame; None at the end, and ever after: closing the file, which comes then, can fail, too."""
        frame = None if self._ended else self._frames.get()
        self._ended = frame is None
        return frame

    def _encode(self) -> None:
        sink = self.sink = self._open_sink()
        try:
            while (frame := self._next()) is not None:
                if not self._abandoned:
                    self._take(frame, sink)
                self._room.release()
        except BaseException:
            with contextlib.suppress(Exception):
                sink.close()
            raise
        sink.close()

    def _take(self, frame: np.ndarray, sink: Sink) -> None:
        levels = self._levels(frame)
        sink.add(levels if isinstance(sink, VideoWriter) else frame)
        self._stats.add(levels if levels.ndim == 3 else levels[..., None])

    def _levels(self, frame: np.ndarray) -> np.ndarray:
        """The levels that are counted: a colour frame's own, and those that stand for a depth frame's distances."""
        if self._depth is None or self._millimetres is None:
            return frame
        if frame.dtype == np.uint16:
            return np.asarray(self._millimetres[frame])
        return self._depth.levels(np.nan_to_num(frame, nan=0.0), "m")  # what was not measured counts as nearest


@contextlib.contextmanager
def rooms(cameras: Mapping[str, CameraThread]) -> Iterator[None]:
    """Wait until every camera has room for one more frame; when this is interrupted, what was taken is given back."""
    taken: list[CameraThread] = []
    try:
        for camera in cameras.values():
            camera.take_room()
            taken.append(camera)
        yield
    except BaseException:
        for camera in taken:
            camera.give_room()
        raise

"""Between the loop, which may never wait, and the dataset, whose encoders and disk may take their time.

No frame is dropped: what cannot be encoded at once waits in memory, and the number of those that wait is reported. If
it grows beyond what was allowed, the episode ends with an error, and the message says what to change.
"""

import contextlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import ArtifactError, DatasetError, OpsError

T = TypeVar("T")


class EpisodeRecorder:
    """Writes frames in a thread of its own, in the order in which they come; `most` may wait.

    `add` raises what went wrong in the thread; after that the episode is to be discarded.
    """

    def __init__(self, writer: DatasetWriter, most: int) -> None:
        self.most_waiting = 0
        """The most frames of this episode that waited at a time."""
        self._writer, self._most = writer, most
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._added = self._written = 0  # each is counted by one thread alone
        self._episode = 0
        self._error: OpsError | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def root(self) -> Path:
        """The dataset."""
        return self._writer.root

    @property
    def waiting(self) -> int:
        """Frames that are not with their encoders yet."""
        return self._added - self._written

    def add(self, make: Callable[[], dict[str, Any]]) -> None:
        """Add the frame that `make` makes, soon; raises DatasetError when too many wait, or one could not be added."""
        self.check()
        self._added += 1
        episode = self._episode
        self._work.put(lambda: self._add(make, episode))
        waiting = self.waiting
        self.most_waiting = max(self.most_waiting, waiting)
        if waiting > self._most:
            raise DatasetError(
                "the cameras cannot be encoded as fast as they come; this episode is not saved",
                found=f"{waiting} frames wait",
                expected=f"{self._most} at most",
                fix="choose a faster encoder (--dataset.video.vcodec=h264 or a hardware one), smaller pictures or a "
                "lower rate; --dataset.backlog_s allows more in memory",
            )

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error

    def save(self, then: Callable[[float], T]) -> "Future[T]":
        """Save the episode when all of its frames are written.

        `then` is called in the thread with the seconds that it took until it was on disk; gives what that returns.
        """
        began = time.perf_counter()

        def saved() -> T:
            self.check()
            try:
                self._writer.save_episode()
            except (OpsError, OSError) as error:
                raise self._explained(error) from error
            return then(time.perf_counter() - began)

        return self._do(saved)

    def take_back(self) -> "Future[None]":
        """Take the episode that was saved last out of the dataset."""
        return self._do(self._writer.take_back_episode)

    def discard(self) -> "Future[None]":
        """Forget the episode in progress, errors included."""
        self._episode += 1  # frames that wait are left out

        def discarded() -> None:
            self._writer.discard_episode()
            self._error = None

        return self._do(discarded)

    def begin(self) -> None:
        """An episode begins."""
        self.most_waiting = 0

    def close(self) -> None:
        """Drop what waits, and end the thread; the writer stays open."""
        self.discard()
        self._work.put(None)
        self._thread.join()

    def _do(self, what: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()

        def done() -> None:
            try:
                future.set_result(what())
            except BaseException as error:
                future.set_exception(error)

        self._work.put(done)
        return future

    def _add(self, make: Callable[[], dict[str, Any]], episode: int) -> None:
        try:
            if self._error is None and episode == self._episode:
                self._writer.add_frame(make())
        except Exception as error:
            self._error = self._explained(error)
        finally:
            self._written += 1

    def _explained(self, error: Exception) -> OpsError:
        """An error of the disk, which may have struck an encoder, or else what the error says itself."""
        cause = error.__cause__ if isinstance(error, OpsError) else error
        if isinstance(cause, OSError):
            return ArtifactError(
                f"the episode could not be written: {cause.strerror or cause}",
                file=cause.filename or self.root,
                fix="make room or mend the disk, then go on with --resume=true; what was saved before is safe",
            )
        if isinstance(error, OpsError):
            return error
        return DatasetError("a frame could not be made", found=repr(error), fix="mend the robot or the processors")

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def rehearse(encoding: VideoEncoding, *, video: bool) -> None:
    """Write a small dataset into a temporary folder, so that nothing is loaded for the first time while a robot moves.

    Raises PrerequisiteError or ConfigError when the encoder cannot be used.
    """
    camera = {"dtype": "video" if video else "image", "shape": [64, 64, 3], "names": ["height", "width", "channels"]}
    vector = {"dtype": "float32", "shape": [2], "names": None}
    features: dict[str, dict[str, Any]] = {"action": vector, "observation.images.camera": camera}
    frame = {
        "action": np.zeros(2, np.float32),
        "observation.images.camera": np.zeros((64, 64, 3), np.uint8),
        "task": "rehearse",
    }
    with tempfile.TemporaryDirectory() as folder:
        writer = DatasetWriter.create(Path(folder, "rehearsal"), fps=30, features=features, video=encoding)
        with contextlib.closing(writer):
            for _ in range(2):
                writer.add_frame(frame)
            writer.save_episode()
            writer.take_back_episode()

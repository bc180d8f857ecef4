"""Encoding camera frames into an mp4."""

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.stream import VideoStream

from lerobot_ops.datasets.videos.encoders import ordinary_priority
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.errors import PrerequisiteError


class VideoWriter:
    """Encodes frames one by one into an mp4 whose frame k is shown at k/fps; the first one is a keyframe."""

    def __init__(
        self,
        path: Path,
        *,
        fps: int,
        height: int,
        width: int,
        encoding: VideoEncoding,
        threads: int | None = None,
    ) -> None:
        os.environ.setdefault("SVT_LOG", "1")  # the encoder's banner would fill stderr; 1 leaves its errors
        encoding = encoding.resolved()
        self.path, self.frames = path, 0
        self._container = av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"})
        try:
            stream = self._container.add_stream(encoding.encoder, fps, options=encoding.options(threads))
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, encoding.pix_fmt
            stream.time_base = stream.codec_context.time_base = Fraction(1, fps)
            with ordinary_priority():
                stream.codec_context.open()
        except (av.FFmpegError, ValueError) as error:
            with contextlib.suppress(av.FFmpegError):
                self._container.close()
            raise PrerequisiteError(
                "the video encoder does not start with these settings",
                field=encoding.encoder,
                found=str(error),
                expected=f"{width}x{height} {encoding.pix_fmt}, {encoding.options(threads)}",
                fix="choose another vcodec, or mend pix_fmt, preset or extra_options",
            ) from None
        self._stream = stream

    def add(self, frame: np.ndarray) -> None:
        """Encode one frame: uint8 [height, width, 3], or 12-bit levels of grey uint16 [height, width]."""
        layout = "rgb24" if frame.ndim == 3 else "gray12le"
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=layout)
        picture.pts, picture.time_base = self.frames, self._stream.codec_context.time_base
        self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def close(self) -> None:
        """Encode what the encoder still holds back and finish the file."""
        if self.frames:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def encode(path: Path, frames: Sequence[np.ndarray] | np.ndarray, fps: int, encoding: VideoEncoding) -> None:
    """Encode uint8 frames [n, height, width, 3] into `path`."""
    height, width = frames[0].shape[:2]
    with VideoWriter(path, fps=fps, height=height, width=width, encoding=encoding) as writer:
        for frame in frames:
            writer.add(frame)

"""Encoding camera frames into an mp4, with the codecs and options of LeRobot, the same bytes for the same frames."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import av
import numpy as np
from av.video.stream import VideoStream
from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.errors import PrerequisiteError

_ENCODERS = {"libsvtav1": "libsvtav1", "h264": "libx264"}


class VideoEncoding(Config):
    """How a camera's frames are encoded; LeRobot's names and defaults (`RGBEncoderConfig`).

    Only codecs that give the same bytes for the same frames: x265 does not, so HEVC is read and moved but not written.
    """

    vcodec: Literal["libsvtav1", "h264"] = "libsvtav1"
    pix_fmt: str = "yuv420p"
    g: int = 2
    """Frames from one keyframe to the next: small makes random access fast."""
    crf: int = 30
    """Quality: lower is better and larger."""
    preset: int | str | None = None
    """Speed of the encoder; unset is 12 for libsvtav1 and x264's own for h264."""
    fast_decode: int = 0
    extra_options: dict[str, Any] = Field(default_factory=dict)
    """More options of the codec; they never override those above."""

    def options(self) -> dict[str, str]:
        """The codec's options; x264 gets one thread and no B-frames, because with them its output varies."""
        options: dict[str, Any] = {"g": self.g, "crf": self.crf}
        preset = 12 if self.preset is None and self.vcodec == "libsvtav1" else self.preset
        if preset is not None:
            options["preset"] = preset
        if self.vcodec == "libsvtav1":
            options["svtav1-params"] = f"fast-decode={self.fast_decode}"
        else:
            options |= {"threads": 1, "bf": 0}
            if self.fast_decode:
                options["tune"] = "fastdecode"
        return {name: str(value) for name, value in {**self.extra_options, **options}.items()}

    def info(self) -> dict[str, Any]:
        """The encoder settings that the feature's `info` block records."""
        preset = 12 if self.preset is None and self.vcodec == "libsvtav1" else self.preset
        return {
            "video.g": self.g,
            "video.crf": self.crf,
            "video.preset": preset,
            "video.fast_decode": self.fast_decode,
            "video.video_backend": "pyav",
            "video.extra_options": self.extra_options,
            "is_depth_map": False,
        }


class VideoWriter:
    """Encodes frames one by one into an mp4 whose frame k is shown at k/fps; the first one is a keyframe."""

    def __init__(self, path: Path, *, fps: int, height: int, width: int, encoding: VideoEncoding) -> None:
        os.environ.setdefault("SVT_LOG", "1")  # the encoder's banner would fill stderr; 1 leaves its errors
        encoder = _ENCODERS[encoding.vcodec]
        if encoder not in av.codecs_available:
            raise PrerequisiteError(
                f"the encoder {encoder} is not in this PyAV",
                fix="choose vcodec libsvtav1 or h264, or install PyAV's wheel: pip install --force-reinstall av",
            )
        self.path, self.frames = path, 0
        self._container = av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"})
        stream = self._container.add_stream(encoder, fps, options=encoding.options())
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, encoding.pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, fps)
        self._stream = stream

    def add(self, frame: np.ndarray) -> None:
        """Encode one frame, uint8 [height, width, 3]."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
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

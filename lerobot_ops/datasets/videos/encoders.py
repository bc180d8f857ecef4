"""The video encoders that this machine has: those in PyAV's FFmpeg, and the hardware ones that really open."""

import contextlib
import functools
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from lerobot_ops.datasets.videos.encoding import HARDWARE
from lerobot_ops.errors import PrerequisiteError

_SOFTWARE = ("libsvtav1", "libx264", "libx265", "libaom-av1")


def check_encoder(encoder: str) -> None:
    """Raise PrerequisiteError, saying what there is, when FFmpeg has no such encoder."""
    if encoder in av.codecs_available:
        return
    there = [name for name in (*_SOFTWARE, *HARDWARE) if name in av.codecs_available]
    raise PrerequisiteError(
        "the video encoder is not in this FFmpeg",
        field="vcodec",
        found=encoder,
        expected=", ".join(there),
        fix="choose one of these, or install PyAV's wheel, which has the usual ones: pip install --force-reinstall av",
    )


def unknown_options(encoder: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that the encoder, which is in this FFmpeg, has no option of; it would ignore them silently."""
    known = option_names(encoder)
    return [name for name in names if name not in known]


@functools.cache
def option_names(encoder: str) -> frozenset[str]:
    """The options of an encoder, its own and those of all."""
    options = av.CodecContext.create(encoder, "w").supported_options
    return frozenset(option.name for option in (*options.generic, *options.private))


def first_that_opens(encoders: Sequence[str]) -> str | None:
    """The first encoder that encodes a frame on this machine: being in FFmpeg is no sign of the hardware."""
    return next((encoder for encoder in encoders if opens(encoder)), None)


@functools.cache
def has_avx512() -> bool:
    """Whether this processor has the AVX-512 instructions, as far as the system says."""
    try:
        return "avx512" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@functools.cache
def opens(encoder: str) -> bool:
    """Whether a small picture can be encoded with it."""
    if encoder not in av.codecs_available:
        return False
    level = av.logging.get_level()
    av.logging.set_level(av.logging.PANIC)
    try:
        with contextlib.closing(av.open(io.BytesIO(), "w", format="mp4")) as container:
            stream = container.add_stream(encoder, 30)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
            stream.codec_context.open()
            picture = av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return True
    except (av.FFmpegError, ValueError):
        return False
    finally:
        av.logging.set_level(level)

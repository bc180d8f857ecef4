"""The video encoders that this machine has: those in PyAV's FFmpeg, and the hardware ones that really open."""

import contextlib
import functools
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from lerobot_ops.datasets.videos.encoding import HARDWARE
from lerobot_ops.errors import PrerequisiteError

_TASKS = Path("/proc/self/task")
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


@contextlib.contextmanager
def ordinary_priority() -> Iterator[None]:
    """An encoder that is opened in this block runs beside other threads, not before all of them.

    SVT-AV1 makes the thread that opens it, and all that it starts, the most urgent ones of the system where that is
    allowed (root): they would hold up a control loop, and whatever this thread starts later would inherit it.
    """
    if not hasattr(os, "sched_getscheduler") or not _TASKS.is_dir():  # no Linux
        yield
        return
    before = _schedule(0)
    most_urgent = os.SCHED_FIFO, os.sched_get_priority_max(os.SCHED_FIFO)
    try:
        yield
    finally:
        if before != most_urgent:  # of all threads: another one may be opening an encoder just now
            for thread in map(int, os.listdir(_TASKS)):
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    if _schedule(thread) == most_urgent:
                        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
            if _schedule(0) != before:
                os.sched_setscheduler(0, before[0], os.sched_param(before[1]))


def _schedule(thread: int) -> tuple[int, int]:
    """Policy and priority of a thread; 0 is this one."""
    return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority


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
            with ordinary_priority():
                stream.codec_context.open()
            picture = av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return True
    except (av.FFmpegError, ValueError):
        return False
    finally:
        av.logging.set_level(level)

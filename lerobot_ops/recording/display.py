"""Observations and actions in Rerun while the loop runs, from a thread of its own."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lerobot_ops.errors import PrerequisiteError
from lerobot_ops.recording.frames import Moment

_JPEG_QUALITY = 80


@contextlib.contextmanager
def displaying(wanted: bool) -> Iterator[Callable[[Moment], None]]:
    """Open the viewer if `wanted`, and yield what takes moments: at once, and only the newest is drawn.

    Raises PrerequisiteError without rerun-sdk.
    """
    if not wanted:
        yield lambda _: None
        return
    try:
        import rerun
    except ImportError:
        raise PrerequisiteError("Rerun is not installed", fix="pip install 'lerobot-ops[viz]'") from None
    stream = rerun.RecordingStream("lerobot-ops")
    stream.spawn()
    newest: list[Moment] = []
    changed, ended = threading.Event(), threading.Event()

    def show(moment: Moment) -> None:
        newest[:] = [moment]
        changed.set()

    def draw() -> None:
        while not ended.is_set():
            changed.wait()
            changed.clear()
            if newest:
                _log(rerun, stream, newest.pop())

    thread = threading.Thread(target=draw, name="rerun", daemon=True)
    thread.start()
    try:
        yield show
    finally:
        ended.set()
        changed.set()
        thread.join(2)


def _log(rr: Any, stream: Any, moment: Moment) -> None:
    stream.set_time("captured", duration=moment.captured.get("state", 0.0))
    for key, value in moment.observation.items():
        if isinstance(value, np.ndarray):
            stream.log(f"observation/{key}", rr.Image(np.ascontiguousarray(value)).compress(jpeg_quality=_JPEG_QUALITY))
        else:
            stream.log(f"observation/{key}", rr.Scalars(float(value)))
    for key, value in moment.sent.items():
        stream.log(f"action/{key}", rr.Scalars(float(value)))

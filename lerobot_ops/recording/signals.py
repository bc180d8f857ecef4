"""Signals that end a session: wherever the loop is, it is left at once, and the torque goes off on the way out."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Besides SIGINT, which Python treats like this by itself."""


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """In this block SIGTERM and SIGHUP raise SystemExit(128 + number), as SIGINT raises KeyboardInterrupt.

    Only in the main thread, which is the one that hears of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)

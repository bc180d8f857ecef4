"""Stopping the evaluations of this process from outside their threads.

Evaluations that run side by side live in threads, and neither Ctrl-C nor SIGTERM reaches a thread: both arrive in the
main one. That one calls `stop_all`; every pool of simulators then ends as it does on an error: its workers are killed,
their containers removed, and finished episodes stay.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from lerobot_ops.errors import OpsError

_lock = threading.RLock()  # a signal may come while its own thread holds it
_listeners: list[Callable[[], object]] = []
_stopping = threading.Event()


class StoppedError(OpsError):
    """An evaluation was stopped before its end; what it had finished is kept."""

    def __init__(self) -> None:
        super().__init__("stopped", fix="run the same again: finished episodes are kept")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Once this block is left, `stop_all` no longer holds back what starts after it."""
    try:
        yield
    finally:
        _stopping.clear()


def stop_all() -> None:
    """Stop what runs in this process, and what starts in it until the block of `stoppable` ends."""
    _stopping.set()
    with _lock:
        for tell in _listeners:
            tell()


def check() -> None:
    """Raise StoppedError after `stop_all`."""
    if _stopping.is_set():
        raise StoppedError


@contextlib.contextmanager
def told_by(tell: Callable[[], object]) -> Iterator[None]:
    """Have `tell` called, from another thread, when everything is stopped; raises StoppedError when it already is."""
    with _lock:
        check()
        _listeners.append(tell)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(tell)

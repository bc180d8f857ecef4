"""Ctrl-C and SIGTERM during a training: it ends after the step it is in, with a checkpoint."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_listeners: list[Callable[[], object]] = []


class Interrupt:
    """Whether, and by what, the training was asked to end."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.before: dict[int, Any] = {}
        """The handlers that these signals have outside of the training."""

    def receive(self, number: int, _: FrameType | None) -> None:
        """The handler: the first signal is noted, a second one ends the process where it is."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        logger.warning("%s: saving a checkpoint; once more to stop without", self.signal.name)
        for tell in _listeners:
            tell()

    def leave(self) -> None:
        """End as the signal would have ended what the training is part of, once everything is saved."""
        handler = self.before.get(self.signal or 0)
        if self.signal is not None and callable(handler):
            handler(self.signal, None)  # Prefect's tells a cancelled flow run from a crashed one
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Note signals in this block; in a thread, which gets none, it only gives an `Interrupt` that never comes."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    interrupt.before = {number: signal.signal(number, interrupt.receive) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in interrupt.before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def told_by(tell: Callable[[], object]) -> Iterator[None]:
    """Have `tell` called, by the signal's handler, when a training is asked to end while this block runs."""
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)

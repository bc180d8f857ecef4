"""Ctrl-C and SIGTERM during a training: it ends after the step it is in, with a checkpoint.

Signals reach the main thread alone. Who trains in another one ends that training through `interrupting_threads`.
"""

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
_in_threads: list["Interrupt"] = []
_told: list[signal.Signals] = []
_lock = threading.RLock()  # a second signal may come while its own thread holds it


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
        logger.warning(
            "%s: saving a checkpoint, which --resume=true goes on from; once more to stop without", self.signal.name
        )
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
    """Note signals in this block; in a thread, which gets none, note what `interrupting_threads` is told."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        with _lock:
            _in_threads.append(interrupt)
            if _told:
                interrupt.receive(_told[0], None)
        try:
            yield interrupt
        finally:
            _in_threads.remove(interrupt)
        return
    interrupt.before = {number: signal.signal(number, interrupt.receive) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in interrupt.before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupting_threads() -> Iterator[Callable[[signal.Signals], None]]:
    """Yield a function that ends the trainings in threads of this process, and what begins until the block ends."""

    def interrupt_threads(number: signal.Signals) -> None:
        with _lock:
            _told.append(number)
            for interrupt in _in_threads:
                interrupt.receive(number, None)

    try:
        yield interrupt_threads
    finally:
        _told.clear()


@contextlib.contextmanager
def told_by(tell: Callable[[], object]) -> Iterator[None]:
    """Have `tell` called, by the signal's handler, when a training is asked to end while this block runs."""
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)

"""Ctrl-C and SIGTERM during a training: it ends after the step it is in, with a checkpoint."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether, and by what, the training was asked to end."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def receive(self, number: int, _: FrameType | None) -> None:
        """The handler: the first signal is noted, a second one ends the process where it is."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        logger.warning("%s: saving a checkpoint; once more to stop without", self.signal.name)

    def leave(self) -> None:
        """End the process as the signal would have, once everything is saved."""
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
    before = {number: signal.signal(number, interrupt.receive) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Ticks at a fixed rate by absolute deadlines, and what they really were: lateness, work, overruns.

A tick's deadline is its number times the period after the first one, so that lateness does not add up. A tick that
begins within a period of its deadline is late; when the loop is further behind, the deadlines that nobody could keep
are skipped and counted: the loop goes on from now.
"""

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lerobot_ops.config import Config

SLICE = 0.02
"""Seconds that are slept at a time, so that those who wait for a sign of life get one."""
SPIN = 0.0004
"""Seconds before a deadline that are not slept: a sleep ends up to so much late."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which another thread gives the interpreter to the loop; Python's own are 5 ms."""

_PRIORITY = 10
"""Above other threads, below the kernel's own."""


class Timing(Config):
    """How punctual a loop was; times in milliseconds."""

    fps: int
    """The rate that was asked for."""
    ticks: int
    seconds: float
    """From the first tick's deadline to the end."""
    rate: float
    """Ticks of a second."""
    jitter_ms_mean: float
    """How long after its deadline a tick began."""
    jitter_ms_p99: float
    jitter_ms_max: float
    work_ms_mean: float
    """How long a tick's work took."""
    work_ms_p99: float
    work_ms_max: float
    overruns: int
    """Ticks whose work was not done at the next deadline."""
    skipped: int
    """Deadlines that were left out because the loop was more than a period behind."""
    cpu: float
    """Seconds of the loop's own thread on a core, of each second."""

    def __str__(self) -> str:
        share = 100 * self.overruns / max(1, self.ticks)
        return (
            f"{self.ticks} ticks at {self.rate:.2f} Hz (asked {self.fps}), late by {self.jitter_ms_p99:.2f} ms (p99; "
            f"greatest {self.jitter_ms_max:.2f}), work {self.work_ms_mean:.2f} ms (p99 {self.work_ms_p99:.2f}), "
            f"{self.overruns} overruns ({share:.2f}%), {self.skipped} skipped, {100 * self.cpu:.0f}% of a core"
        )


@dataclass
class Tick:
    """One turn of the loop; times are seconds of `time.perf_counter`."""

    number: int
    due: float
    began: float

    @property
    def late(self) -> float:
        """How long after its deadline it began, in seconds."""
        return self.began - self.due


class Pace:
    """The ticks of one loop at `fps`; `beat` is called at least every 20 ms while it waits."""

    def __init__(self, fps: int, beat: Callable[[], None] | None = None) -> None:
        self.fps, self.period = fps, 1 / fps
        self._beat = beat or _nothing
        self._late: list[float] = []
        self._work: list[float] = []
        self._overruns = self._skipped = 0
        self._cpu = time.thread_time()
        self._due = self._origin = self._began = self._end = 0.0

    @property
    def began_at(self) -> float:
        """The deadline of the first tick."""
        return self._origin

    @property
    def left(self) -> float:
        """Seconds until the next deadline."""
        return self._due + self.period - time.perf_counter()

    @property
    def overruns(self) -> int:
        return self._overruns

    @property
    def skipped(self) -> int:
        return self._skipped

    def ticks(self, seconds: float | None = None) -> Iterator[Tick]:
        """One tick after another, each at its deadline; the work is what happens until the next one is asked for.

        Ends after round(seconds · fps) ticks, or never.
        """
        most = None if seconds is None else max(1, round(seconds * self.fps))
        self._origin = self._due = time.perf_counter()
        self._cpu = time.thread_time()
        number = 0
        while most is None or number < most:
            self._sleep_until(self._due)
            tick = Tick(number, self._due, time.perf_counter())
            self._began = tick.began
            self._late.append(tick.late)
            yield tick
            self.done(tick)
            self._due = self._following()
            number += 1

    def done(self, tick: Tick) -> None:
        """The work of a tick is done; called by itself, unless the loop is left."""
        if len(self._work) < len(self._late):
            now = self._end = time.perf_counter()
            self._work.append(now - tick.began)
            self._overruns += now > tick.due + self.period

    def recent(self, count: int) -> np.ndarray:
        """Lateness of the last ticks, in seconds."""
        return np.asarray(self._late[-count:])

    def timing(self) -> Timing:
        """The summary of all ticks so far."""
        late, work = _milliseconds(self._late), _milliseconds(self._work)
        ticks = len(self._work)
        seconds = max(self._end - self._origin, 0.0)
        apart = self._began - self._late[0] - self._origin if ticks > 1 else 0.0
        return Timing(
            fps=self.fps,
            ticks=ticks,
            seconds=seconds,
            rate=(ticks - 1) / apart if apart > 0 else 0.0,
            jitter_ms_mean=float(late.mean()),
            jitter_ms_p99=float(np.quantile(late, 0.99)),
            jitter_ms_max=float(late.max()),
            work_ms_mean=float(work.mean()),
            work_ms_p99=float(np.quantile(work, 0.99)),
            work_ms_max=float(work.max()),
            overruns=self._overruns,
            skipped=self._skipped,
            cpu=(time.thread_time() - self._cpu) / seconds if seconds > 0 else 0.0,
        )

    def _following(self) -> float:
        due, now = self._due + self.period, time.perf_counter()
        behind = int((now - due) / self.period)
        if behind < 1:
            return due
        self._skipped += behind
        return due + behind * self.period

    def _sleep_until(self, due: float) -> None:
        self._beat()
        while (left := due - time.perf_counter()) > SPIN:
            time.sleep(min(left - SPIN, SLICE))
            self._beat()
        while time.perf_counter() < due:
            pass


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """What is in memory now needs not be looked at by the garbage collector in this block, whose pauses are short then.

    A collection stops every thread; one of a program with its libraries takes a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """No garbage collection in this block, and other threads give way quickly; all as before afterwards."""
    interval, collecting = sys.getswitchinterval(), gc.isenabled()
    gc.disable()
    sys.setswitchinterval(min(interval, SWITCH_INTERVAL))
    try:
        with urgent():
            yield
    finally:
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """This thread runs before others in this block where the system allows that (rtprio in limits.conf, or root)."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(_PRIORITY))
    except (OSError, AttributeError):  # not allowed, or no Linux
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _milliseconds(values: list[float]) -> np.ndarray:
    return np.asarray(values or [0.0]) * 1000


def _nothing() -> None:
    pass

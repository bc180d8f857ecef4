"""An operator at a terminal: single keys, a line that says what happens, and news above it."""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from lerobot_ops.keys import Keys, listening
from lerobot_ops.recording.operator import Event, Operator, Status

KEYS = {
    "n": Event.NEXT,
    "right": Event.NEXT,
    "r": Event.REDO,
    "left": Event.REDO,
    "q": Event.STOP,
    "esc": Event.STOP,
    "tab": Event.TAKEOVER,
}
EMERGENCY = "space"
_HELP = {
    "recording": "→ n save   ← r redo   q stop   ␣ EMERGENCY",
    "reset": "→ n start   ← r redo the last   q stop   ␣ EMERGENCY",
    "": "q stop   ␣ EMERGENCY",
}
_DRAWN = 0.1
"""Seconds between two looks at whether there is something new to draw."""
_RED, _GREEN, _YELLOW, _BOLD, _DIM, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[2m", "\x1b[0m"
_CLEAR = "\r\x1b[2K"
_COLOURS = {"recording": _RED, "reset": _YELLOW, "replaying": _GREEN, "teleoperating": _GREEN}


class _EventKeys(Keys):
    """Keys of which one stops the robot in the moment in which it is read."""

    def __init__(self, emergency: Callable[[], None]) -> None:
        super().__init__()
        self._emergency = emergency

    def put(self, name: str) -> None:
        if name == EMERGENCY:
            self._emergency()
        super().put(name)


class Terminal(Operator):
    """The terminal of this process; where standard input is none, nobody presses keys.

    What it shows is drawn by a thread of its own: a terminal that is slow, or held by Ctrl-S, holds nobody else.
    """

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stderr
        self._live = self._output.isatty()
        self.terminal = sys.stdin.fileno() if _has_keys() else None
        self._keys: Keys | None = None
        self._news: list[str] = []
        self._status: Status | None = None
        self._changed = threading.Event()
        self._ended = False

    @contextlib.contextmanager
    def session(self, emergency: Callable[[], None]) -> Iterator[None]:
        keys = _EventKeys(emergency)
        self._ended = False
        drawing = threading.Thread(target=self._draw, name="terminal", daemon=True)
        with listening(keys) if _has_keys() else contextlib.nullcontext():
            self._keys = keys
            drawing.start()
            try:
                yield
            finally:
                self._ended = True
                self._changed.set()
                drawing.join(1)

    def phase(self, name: str) -> None:
        if self._keys is not None:
            self._keys.pressed()  # what was meant for the phase before must not end this one

    def event(self) -> Event | None:
        for name in self._keys.pressed() if self._keys is not None else ():
            if name in KEYS:
                return KEYS[name]
        return None

    def show(self, status: Status) -> None:
        self._status = status
        self._changed.set()

    def say(self, message: str) -> None:
        self._news.append(message)
        self._changed.set()

    def _draw(self) -> None:
        shown = False
        while not self._ended:
            self._changed.wait(_DRAWN)
            self._changed.clear()
            shown = self._draw_once(shown)
        self._draw_once(shown)
        if shown:
            self._write(_CLEAR)

    def _draw_once(self, shown: bool) -> bool:
        """Write the news, and the line if there is a new one; whether a line stands there now."""
        news, status = "", self._status
        while self._news:
            news += f"{self._news.pop(0)}\n"
        self._status = None
        line = status_line(status, shutil.get_terminal_size((100, 24)).columns) if self._live and status else ""
        if news or line:
            self._write((_CLEAR if shown else "") + news + line)
            return bool(line) or (shown and not news)
        return shown

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody watches any more
            self._output.write(text)
            self._output.flush()


def status_line(status: Status, columns: int) -> str:
    """What happens now, in one line of at most so many columns."""
    parts = [(_bold(_COLOURS.get(status.phase, ""), status.phase.upper()), len(status.phase))]

    def add(text: str, colour: str = "") -> None:
        parts.append((f"{colour}{text}{_PLAIN}" if colour else text, len(text)))

    if status.dry_run:
        add("DRY RUN", _YELLOW)
    if status.number is not None and status.wanted is not None:
        add(f"{min(status.number, status.wanted)}/{status.wanted}", _BOLD)
    add(f"{status.seconds:.1f}" + (f"/{status.limit_s:g}" if status.limit_s is not None else "") + " s")
    if status.leader:
        add(status.leader, _YELLOW if status.leader == "operator" else "")
    if status.catching_up:
        add("slowly", _YELLOW)
    add(f"{status.rate:.1f} Hz")
    add(f"late {status.late_ms:.1f} ms", _YELLOW if status.late_ms > 5 else "")
    if status.overruns or status.skipped:
        add(f"{status.overruns} overruns, {status.skipped} skipped", _YELLOW)
    for name, age in status.ages_ms.items():
        if name != "state":
            add(f"{name} {age:.0f} ms", _YELLOW if age > 100 else "")
    if status.backlog > 3:
        add(f"{status.backlog} frames wait", _YELLOW)
    if status.hottest is not None:
        add(f"{status.hottest:.0f} °C")
    add(_HELP.get(status.phase, _HELP[""]) + ("   ⇥ take over" if status.leader else ""), _DIM)
    line, left = "", columns - 1
    for text, width in parts:
        gap = 2 if line else 0
        if width + gap > left:
            break
        line, left = line + " " * gap + text, left - width - gap
    return line


def _bold(colour: str, text: str) -> str:
    return f"{_BOLD}{colour}{text}{_PLAIN}"


def _has_keys() -> bool:
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False

"""Single keys from the terminal, for everyone in this process who asks; works over SSH and in tmux, needs no window."""

import atexit
import contextlib
import os
import select
import sys
import termios
import threading
import tty
from collections import deque
from collections.abc import Iterator
from typing import Any

from lerobot_ops.errors import DeviceError

ESCAPES = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}
NAMES = {"\r": "enter", "\n": "enter", "\t": "tab", " ": "space", "\x7f": "backspace", "\x1b": "esc"}
ESCAPE_S = 0.05  # the rest of an arrow's sequence follows its first byte at once; that of the Esc key never does
KEPT = 256


class Keys:
    """Keys pressed since they were last asked for: a letter, or up, down, left, right, enter, space, esc, ...

    A terminal tells presses and, while a key is held, repetitions; it never tells releases.
    """

    def __init__(self) -> None:
        self._pressed: deque[str] = deque(maxlen=KEPT)

    def pressed(self) -> list[str]:
        """What was pressed since the last call, in order."""
        names = []
        while self._pressed:
            names.append(self._pressed.popleft())
        return names

    def put(self, name: str) -> None:
        """As if `name` had been pressed."""
        self._pressed.append(name)


@contextlib.contextmanager
def listening(keys: Keys | None = None) -> Iterator[Keys]:
    """Give `keys` what is pressed in the terminal of this process, until the end; several may listen at a time.

    Ctrl-C still interrupts. Raises DeviceError where standard input is no terminal.
    """
    keys = keys or Keys()
    _TERMINAL.add(keys)
    try:
        yield keys
    finally:
        _TERMINAL.remove(keys)


class _Terminal:
    """The one reader of standard input; it runs while somebody listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Keys] = []
        self._thread: threading.Thread | None = None
        self._before: list[Any] = []
        self._wake = (-1, -1)

    def add(self, keys: Keys) -> None:
        with self._lock:
            if not self._listeners:
                self._start()
            self._listeners.append(keys)

    def remove(self, keys: Keys) -> None:
        with self._lock:
            if keys in self._listeners:
                self._listeners.remove(keys)
                if not self._listeners:
                    self._stop()

    def _start(self) -> None:
        if not sys.stdin.isatty():
            raise DeviceError(
                "there is no keyboard: standard input is no terminal",
                fix="run the command in a terminal (over SSH: ssh -t), or choose another teleoperator",
            )
        file = sys.stdin.fileno()
        if _in_background(file):  # the system would stop this process as soon as it touched the terminal
            raise DeviceError("there is no keyboard: the command runs in the background", fix="run it without &")
        self._before = termios.tcgetattr(file)
        atexit.register(termios.tcsetattr, file, termios.TCSADRAIN, self._before)
        tty.setcbreak(file, termios.TCSANOW)
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._read, args=(file, self._wake[0]), name="keys", daemon=True)
        self._thread.start()

    def _stop(self) -> None:
        os.write(self._wake[1], b".")
        if self._thread is not None:
            self._thread.join()
        for end in self._wake:
            os.close(end)
        atexit.unregister(termios.tcsetattr)
        with contextlib.suppress(termios.error, ValueError):  # the terminal was closed
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)

    def _read(self, file: int, wake: int) -> None:
        held = ""
        while True:
            ready, _, _ = select.select([file, wake], [], [], ESCAPE_S if held else None)
            if wake in ready:
                return
            if file in ready:
                try:
                    data = os.read(file, 1024)
                except OSError:  # the terminal was closed
                    return
                if not data:
                    return
                names, held = parse(held + data.decode(errors="ignore"))
            else:
                names, held = ["esc"], ""
            for name in names:
                for listener in tuple(self._listeners):
                    listener.put(name)


def _in_background(file: int) -> bool:
    try:
        return os.tcgetpgrp(file) != os.getpgrp()
    except OSError:  # not the terminal that controls this process
        return False


def parse(text: str) -> tuple[list[str], str]:
    """The keys in what a terminal sent, and the beginning of a sequence whose rest has not come yet."""
    names: list[str] = []
    while text:
        if text in ("\x1b", "\x1b[", "\x1bO"):
            return names, text
        if text[:2] in ("\x1b[", "\x1bO"):
            end = next((at for at, letter in enumerate(text[2:], 2) if letter.isalpha() or letter == "~"), None)
            if end is None:
                return names, text
            names += [ESCAPES[text[end]]] if text[end] in ESCAPES else []
            text = text[end + 1 :]
            continue
        names.append(NAMES.get(text[0], text[0]))
        text = text[1:]
    return names, ""


_TERMINAL = _Terminal()

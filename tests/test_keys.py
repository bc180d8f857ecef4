"""Keys of a terminal, through a real one."""

import os
import pty
import subprocess
import sys
import termios
import time

import pytest

from lerobot_ops.keys import parse

LISTEN = """
import sys, time
from lerobot_ops.keys import Keys, listening
with listening() as first, listening() as second:
    print("ready", flush=True)
    heard = []
    while "q" not in heard:
        heard += first.pressed()
        time.sleep(0.01)
    print("heard", *heard, "|", *second.pressed(), flush=True)
print("done", flush=True)
"""


@pytest.mark.parametrize(
    ("sent", "names", "rest"),
    [
        ("aZ1", ["a", "Z", "1"], ""),
        ("\x1b[C\x1bOD", ["right", "left"], ""),
        ("\x1b[3~x", ["x"], ""),
        ("x\x1b[", ["x"], "\x1b["),
        ("\x1b", [], "\x1b"),
        ("\x1bq", ["esc", "q"], ""),
        ("\r \t\x7f", ["enter", "space", "tab", "backspace"], ""),
    ],
)
def test_what_a_terminal_sends_becomes_keys(sent: str, names: list[str], rest: str) -> None:
    assert parse(sent) == (names, rest)


def read_until(terminal: int, text: str) -> str:
    seen, end = "", time.monotonic() + 30
    while text not in seen:
        assert time.monotonic() < end, seen
        seen += os.read(terminal, 4096).decode()
    return seen


def test_all_listeners_hear_all_keys_and_the_terminal_is_given_back() -> None:
    terminal, inner = pty.openpty()
    before = termios.tcgetattr(inner)
    with subprocess.Popen([sys.executable, "-c", LISTEN], stdin=inner, stdout=inner, stderr=inner) as process:
        read_until(terminal, "ready")
        for keys in (b"n", b"\x1b", b"\x1b[C"):  # Esc is told from the beginning of an arrow by what follows
            os.write(terminal, keys)
            time.sleep(0.2)
        os.write(terminal, b"q")
        assert "heard n esc right q | n esc right q" in read_until(terminal, "done")
        assert process.wait(30) == 0
    assert termios.tcgetattr(inner) == before


def test_without_a_terminal_it_says_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-c", LISTEN], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert "standard input is no terminal" in done.stderr

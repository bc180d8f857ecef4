"""The watchdog's program: takes the torque off when the process that moves the robot dies, stops or hangs.

It runs as a plain script (`python -I -S releasing.py`) and needs nothing but Python, so that it starts at once and
depends on nothing that could be broken. Standard input: one line of JSON, then a byte at least every `silence_s`; `q`
ends it. The end of the input or silence makes it write every port's packets. It says `ready` once it watches, and
`released REASON` when it acted; it acts once.

JSON: {"silence_s": float, "terminal": int or null, "ports": [{"port": str, "baudrate": int, "packets": hexadecimal}]};
`terminal` is an open file of the operator's terminal, which types again when the process is gone.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import termios
import time

REPEATS = 3
"""How often the packets are written: the first may meet the rest of a packet that the dead process was writing."""
BETWEEN = 0.004
COMES_BACK = 60.0
"""Seconds in which a port that was unplugged may be plugged in again: motors hold on without it."""


class Port:
    """A serial port that is kept open, so that its settings stay and nothing is left to do when it matters."""

    def __init__(self, entry: dict) -> None:
        self.name, self.packets = entry["port"], bytes.fromhex(entry["packets"])
        self.speed = getattr(termios, f"B{entry['baudrate']}", None)
        self.file = self._opened()

    def _opened(self) -> int:
        file = os.open(self.name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        settings = termios.tcgetattr(file)
        if self.speed is not None and settings[4:6] != [self.speed, self.speed]:
            settings[4] = settings[5] = self.speed
            termios.tcsetattr(file, termios.TCSANOW, settings)
        return file

    def release(self) -> bool:
        """Throw away what waits to be sent, and send the packets; False when the port is gone, which is tried again."""
        sent = False
        for repeat in range(REPEATS):
            try:
                self._send()
                sent = True
            except OSError:
                if not sent:
                    return self._release_again()
            if repeat < REPEATS - 1:
                time.sleep(BETWEEN)
        return True

    def _release_again(self) -> bool:
        """The same through a port that has come back, unless another program has taken it by now."""
        try:
            with contextlib.suppress(OSError):
                os.close(self.file)
            self.file = self._opened()
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (OSError, termios.error):
            return False
        return self.release()

    def _send(self) -> None:
        with contextlib.suppress(termios.error):
            termios.tcflush(self.file, termios.TCOFLUSH)
        left = self.packets
        until = time.monotonic() + 0.05
        while left and time.monotonic() < until:
            if select.select([], [self.file], [], 0.005)[1]:
                left = left[os.write(self.file, left) :]


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    settings = json.loads(_line())
    ports = [Port(entry) for entry in settings["ports"]]
    terminal = settings["terminal"]
    _urgent()
    _say("ready")
    reason = _watch(settings["silence_s"])
    if reason is None:
        return
    _release(ports)
    if terminal is not None and reason == "gone":
        with contextlib.suppress(termios.error):
            _give_back(terminal)
    _say(f"released {reason}")
    while (content := os.read(0, 4096)) and b"q" not in content:
        pass


def _release(ports: list[Port]) -> None:
    """Send every port's packets; a port that is gone gets them when it comes back, if that is soon."""
    until = time.monotonic() + COMES_BACK
    while (ports := [port for port in ports if not port.release()]) and time.monotonic() < until:
        time.sleep(0.05)


def _watch(silence: float) -> str | None:
    """Why the torque must go: `gone` or `silent`; None when the other side says that all is done."""
    heard = None  # the clock runs from the first byte on
    while True:
        left = None if heard is None else max(0.0, heard + silence - time.monotonic())
        if not select.select([0], [], [], left)[0]:
            return "silent"
        content = os.read(0, 4096)
        heard = time.monotonic()
        if not content:
            return "gone"
        if b"q" in content:
            return None


def _line() -> bytes:
    content = b""
    while not content.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(0)
        content += byte
    return content


def _give_back(terminal: int) -> None:
    """Let a terminal show what is typed again, line by line."""
    settings = termios.tcgetattr(terminal)
    settings[0] |= termios.ICRNL
    settings[3] |= termios.ECHO | termios.ICANON
    termios.tcsetattr(terminal, termios.TCSANOW, settings)


def _urgent() -> None:
    """Run before others where that is allowed."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    main()

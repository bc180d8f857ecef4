"""A process of its own that takes the torque off when ours is gone, stopped or stuck.

Two things are watched. The process: a thread sends a sign of life every few milliseconds; a kill, a stop signal or a
hang of the interpreter ends them. The loop: while something moves, `beat` must be called often enough; when it is not,
the thread takes the torque off itself and falls silent, so that the other process does so, too.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.release import Release
from lerobot_ops.recording.pace import urgent

_PROGRAM = Path(__file__).with_name("releasing.py")
_SIGNS = 8
"""Signs of life in the time after which their lack is noticed."""
_REASONS = {
    "silent": "this process stood still",
    "gone": "its connection to this process broke",
    "stuck": "the control loop stood still",
    "lost": "the watchdog itself is gone",
}


class Watchdog:
    """Watches from `start` to `close`; `on_trip` is called once, in a thread, when the torque has to go.

    `terminal` is the file of a terminal that shall show again what is typed when this process is killed.
    """

    def __init__(
        self, releases: Sequence[Release], silence_s: float, on_trip: Callable[[], None], terminal: int | None = None
    ) -> None:
        self.silence_s, self._on_trip = silence_s, on_trip
        self._releases, self._terminal = list(releases), terminal
        self._lock = threading.Lock()
        self._progress: float | None = None
        self._reason: str | None = None
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the other process; raises DeviceError when it cannot open a port."""
        command = [sys.executable, "-I", "-S", str(_PROGRAM)]
        terminal = None if self._terminal is None else os.dup(self._terminal)  # standard input is another one there
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us alone
            pass_fds=() if terminal is None else (terminal,),
            bufsize=0,
        )
        if terminal is not None:
            os.close(terminal)
        ports = [{"port": r.port, "baudrate": r.baudrate, "packets": r.packets.hex()} for r in self._releases]
        settings = {"silence_s": self.silence_s, "terminal": terminal, "ports": ports}
        self._write(json.dumps(settings).encode() + b"\n")
        if self._line() != "ready":
            assert self._process.stderr is not None
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            self.close()
            fix = "check that the port may be opened twice, or do without: --safety.watchdog=false"
            found = said[-1] if said else "no answer"
            raise DeviceError("the watchdog, which takes the torque off, did not start", found=found, fix=fix)
        self._write(b".")  # its clock runs from here
        for target in (self._keep, self._listen):
            self._threads.append(threading.Thread(target=target, name=f"watchdog {target.__name__}", daemon=True))
            self._threads[-1].start()

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """In this block something moves: `beat` must be called at least every `silence_s`."""
        self._progress = time.monotonic()
        try:
            yield
        finally:
            self._progress = None

    def beat(self) -> None:
        """The loop is alive; raises DeviceError when it was not for too long, or the torque is off already."""
        self.check()
        now, before = time.monotonic(), self._progress
        if before is not None:
            self._progress = now
            if now - before > self.silence_s:
                self._trip("stuck")
                self.check()

    def check(self) -> None:
        """Raise DeviceError when the torque had to go."""
        if self._reason is not None:
            raise DeviceError(
                f"the watchdog took the torque off: {_REASONS[self._reason]}",
                expected=f"a sign of life every {1000 * self.silence_s:.0f} ms",
                fix="if this machine is merely busy, stop what else runs, or allow more: --safety.watchdog_ms=200",
            )

    def close(self, *, safe: bool = True) -> None:
        """End it; unless the robot is `safe` it takes the torque off once more, if need be when the port comes back.

        May be called twice.
        """
        self._closing.set()
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            if safe:
                process.stdin.write(b"q")
            process.stdin.close()
        if not safe:
            return  # it ends by itself
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()

    def _keep(self) -> None:
        """Send signs of life as long as the loop shows its own."""
        with urgent():
            self._keep_on()

    def _keep_on(self) -> None:
        while not self._closing.wait(self.silence_s / _SIGNS):
            before = self._progress
            if before is not None and time.monotonic() - before > self.silence_s:
                self._trip("stuck")
            if self._reason is not None:
                return
            with contextlib.suppress(OSError, ValueError):  # `_listen` notices that it is gone
                self._write(b".")

    def _listen(self) -> None:
        while line := self._line():
            if line.startswith("released "):
                self._trip(line.removeprefix("released "))
        if not self._closing.is_set():
            self._trip("lost")

    def _trip(self, reason: str) -> None:
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
        self._on_trip()

    def _write(self, content: bytes) -> None:
        process = self._process
        if process is not None:
            assert process.stdin is not None
            os.write(process.stdin.fileno(), content)

    def _line(self) -> str:
        process = self._process
        if process is None:
            return ""
        assert process.stdout is not None
        return process.stdout.readline().decode().strip()

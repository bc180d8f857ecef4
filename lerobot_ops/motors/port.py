"""A serial port that waits in the kernel: the port handler that Feetech's packet handler reads from and writes to.

The SDK's own handler asks the port again and again until a packet is there, which keeps a core busy, and it never
throws away what came too late for an earlier request. This one has the same methods, sleeps in `poll` until bytes come
or the time is up, and empties the line before every request.
"""

import contextlib
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lerobot_ops.errors import DeviceError, PrerequisiteError

if TYPE_CHECKING:
    import serial

DEFAULT_TIMEOUT_MS = 17.0
"""How long a reply may take besides its bytes: USB adapters hold bytes back for 1 to 16 ms, and three tries between two
ticks at 30 Hz are to be over within a tenth of a second."""
_BITS_PER_BYTE = 10
_QUIET_S = 0.003
"""A line that has been silent for so long after a fault has nothing more to say."""
_MOST = 65536


class PortLostError(OSError):
    """The device behind the port is gone."""


class SerialPort:
    """The methods of `scservo_sdk.PortHandler` that its packet handler calls; not safe for threads, the bus is."""

    def __init__(self, name: str, baudrate: int) -> None:
        self.name, self.baudrate, self.timeout_ms = name, baudrate, DEFAULT_TIMEOUT_MS
        self._serial: serial.Serial | None = None
        self._poll: select.poll | None = None
        self._fd = -1
        self._buffer = bytearray()
        self._deadline = 0.0
        self.doubtful = False
        """Whether a late reply may still come; the next request then waits for silence first."""

    @property
    def is_using(self) -> bool:
        """Whether somebody talks, as the packet handler thinks; the chain's lock sees to that."""
        return False

    @is_using.setter
    def is_using(self, value: bool) -> None: ...

    @property
    def is_open(self) -> bool:
        return self._serial is not None

    def open(self) -> None:
        """Open the device for this process alone; DeviceError says why that cannot be."""
        try:
            import serial
        except ImportError:
            raise PrerequisiteError("serial ports need pyserial", fix="pip install 'lerobot-ops[hardware]'") from None
        try:
            self._serial = serial.Serial(self.name, self.baudrate, timeout=0, exclusive=True)
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise _cannot_open(self.name, error) from error
        with contextlib.suppress(OSError, ValueError, NotImplementedError):  # not every adapter has it
            self._serial.set_low_latency_mode(True)
        self._fd = self._serial.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self.doubtful = False
        self.clearPort()

    def close(self) -> None:
        """Close the device; may be called twice."""
        port, self._serial, self._poll, self._fd = self._serial, None, None, -1
        if port is not None:
            port.close()

    def set_baudrate(self, baudrate: int) -> None:
        self.baudrate = baudrate
        if self._serial is not None:
            self._serial.baudrate = baudrate

    def seconds(self, count: int) -> float:
        """How long `count` bytes take."""
        return count * _BITS_PER_BYTE / self.baudrate

    def wait_at_most(self, seconds: float) -> None:
        """Bring the time at which reading gives up to `seconds` from now, unless it is sooner already."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def read_until_silent(self, most_s: float, silence_s: float) -> bytes:
        """Everything that comes within `most_s`, until nothing has come for `silence_s` after the first byte."""
        deadline = time.monotonic() + most_s
        received = bytearray()
        while (left := deadline - time.monotonic()) > 0:
            if not self._wait(min(left, silence_s) if received else left):
                break
            received += self._take()
        return bytes(received)

    # What follows has the SDK's names.

    def clearPort(self) -> None:  # noqa: N802
        """Throw away what was not read: it answered an earlier request."""
        self._buffer.clear()
        until = time.monotonic() + self.timeout_ms / 1000
        while self._wait(_QUIET_S if self.doubtful else 0) and time.monotonic() < until:
            self._take()
        self.doubtful = False

    def writePort(self, packet: list[int]) -> int:  # noqa: N802
        data = memoryview(bytes(packet))
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                if not select.select([], [self._fd], [], self.timeout_ms / 1000)[1]:
                    break  # the packet handler says that it could not be sent
            except OSError as error:
                raise PortLostError(str(error)) from error
        return len(packet) - len(data)

    def readPort(self, length: int) -> bytes:  # noqa: N802
        """At most `length` bytes, waiting for the first of them until the packet's time is up."""
        buffer = self._buffer
        if not buffer and length > 0 and self._wait(max(0.0, self._deadline - time.monotonic())):
            buffer += self._take()
        data = bytes(buffer[: max(0, length)])
        del buffer[: len(data)]
        return data

    def setPacketTimeout(self, packet_length: int) -> None:  # noqa: N802
        self._deadline = time.monotonic() + self.seconds(packet_length) + self.timeout_ms / 1000

    def setPacketTimeoutMillis(self, msec: float) -> None:  # noqa: N802
        self._deadline = time.monotonic() + msec / 1000

    def isPacketTimeout(self) -> bool:  # noqa: N802
        return not self._buffer and time.monotonic() >= self._deadline

    def _wait(self, seconds: float) -> bool:
        """Whether bytes can be taken, within `seconds`."""
        if self._poll is None:
            raise PortLostError("the port is closed")
        return bool(self._poll.poll(-(-seconds * 1000 // 1)))

    def _take(self) -> bytes:
        try:
            data = os.read(self._fd, _MOST)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise PortLostError(str(error)) from error
        if not data:
            raise PortLostError("the device is ready to be read and has nothing: it was unplugged")
        return data


def _cannot_open(name: str, error: Exception) -> DeviceError:
    text = str(error)
    if "No such file" in text:
        fix = "plug the arm's USB cable in, and find its port with `lerobot-ops find-port`"
    elif "Permission denied" in text:
        fix = "sudo usermod -aG dialout $USER, then log out and in again"
    elif "exclusively lock" in text:
        fix = f"end what uses it: {_users(name) or f'`sudo fuser -v {name}` names it'}"
    else:
        fix = "check the port with `lerobot-ops find-port`"
    return DeviceError("the serial port cannot be opened", file=name, found=text, fix=fix)


def _users(name: str) -> str:
    """The processes that have the device open, of those that we may look into."""
    device = os.path.realpath(name)
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry) == device:
                process = entry.parents[1]
                found.add(f"{(process / 'comm').read_text().strip()} (process {process.name})")
    return ", ".join(sorted(found))

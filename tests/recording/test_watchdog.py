"""The process that takes the torque off, on a real pty: what it does when ours is killed, stopped, stuck or well."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from lerobot_ops.errors import DeviceError
from lerobot_ops.recording.watchdog import Watchdog
from lerobot_ops.robots.robot import Release

PACKETS = b"\xff\xff\xfe\x04\x03\x28\x00\xd2"
MOVER = """
import sys, time
from lerobot_ops.recording.watchdog import Watchdog
from lerobot_ops.robots.robot import Release
watchdog = Watchdog([Release(sys.argv[1], 1000000, bytes.fromhex(sys.argv[2]))], float(sys.argv[3]), lambda: None)
watchdog.start()
with watchdog.moving():
    print("moving", flush=True)
    while True:
        watchdog.beat()
        time.sleep(0.01)
"""


class Wire:
    """The motors' side of a serial port."""

    def __init__(self) -> None:
        self.motors, self.slave = pty.openpty()
        tty.setraw(self.slave)
        self.port = os.ttyname(self.slave)

    def received(self, seconds: float) -> bytes:
        """What arrives within so long, until the packets did."""
        content, until = b"", time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and PACKETS not in content:
            if select.select([self.motors], [], [], left)[0]:
                content += os.read(self.motors, 4096)
        return content

    def close(self) -> None:
        os.close(self.motors)
        os.close(self.slave)


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def mover(wire: Wire) -> Iterator[subprocess.Popen[str]]:
    """A process that moves something, with 2 s of patience, so that only what is done to it counts."""
    command = [sys.executable, "-c", MOVER, wire.port, PACKETS.hex(), "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "moving\n"
    yield process
    process.kill()
    process.wait()


def test_a_killed_process_leaves_no_torque(wire: Wire, mover: subprocess.Popen[str]) -> None:
    assert wire.received(0.3) == b""
    os.killpg(mover.pid, signal.SIGKILL)
    assert PACKETS in wire.received(10)


def test_a_stopped_process_leaves_no_torque(wire: Wire, mover: subprocess.Popen[str]) -> None:
    mover.send_signal(signal.SIGSTOP)
    assert PACKETS in wire.received(20)


def test_signals_for_the_operators_process_do_not_end_it(wire: Wire, mover: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{mover.pid}/task/{mover.pid}/children").read_text().split()
    for child in children:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(int(child), number)
    assert wire.received(0.3) == b""
    mover.kill()
    assert PACKETS in wire.received(10)


def test_a_loop_that_hangs_loses_its_torque_though_its_process_lives(wire: Wire) -> None:
    tripped: list[float] = []
    watchdog = Watchdog([Release(wire.port, 1_000_000, PACKETS)], 0.2, lambda: tripped.append(time.monotonic()))
    watchdog.start()
    try:
        with watchdog.moving():
            watchdog.beat()
            assert PACKETS in wire.received(20)
            assert tripped
            with pytest.raises(DeviceError, match="the control loop stood still"):
                watchdog.beat()
    finally:
        watchdog.close()


def test_who_waits_without_moving_keeps_the_torque(wire: Wire) -> None:
    watchdog = Watchdog([Release(wire.port, 1_000_000, PACKETS)], 5, pytest.fail)
    watchdog.start()
    with watchdog.moving():
        watchdog.beat()
    assert wire.received(0.3) == b""
    watchdog.close()
    assert wire.received(0.3) == b""


def test_a_port_that_comes_back_is_still_released(tmp_path: Path) -> None:
    first, link = Wire(), tmp_path / "arm"
    link.symlink_to(first.port)
    watchdog = Watchdog([Release(str(link), 1_000_000, PACKETS)], 5, lambda: None)
    watchdog.start()
    first.close()
    link.unlink()
    watchdog.close(safe=False)
    again = Wire()
    link.symlink_to(again.port)
    assert PACKETS in again.received(20)
    again.close()


def test_a_port_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    watchdog = Watchdog([Release(str(tmp_path / "nothing"), 1_000_000, PACKETS)], 1, lambda: None)
    with pytest.raises(DeviceError, match="the watchdog, which takes the torque off, did not start"):
        watchdog.start()

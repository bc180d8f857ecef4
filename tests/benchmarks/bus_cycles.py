"""Bus cycles of one side, `bus_cycles.py ours|lerobot|bare PORT SECONDS HZ`, as JSON on the last line.

A cycle is a `sync_read` of `Present_Position` and a `sync_write` of `Goal_Position` of six motors, in degrees. At HZ 0
one follows the other; otherwise each starts at its own deadline, and it is missed when it ends after the next one's. A
cycle is stale when it took less time than its bytes take on the wire: its answers were to an earlier question. `lost`
is how long a reading takes that nobody answers, once a line on standard input has said that nobody does.
"""

import contextlib
import json
import os
import select
import sys
import termios
import time
from pathlib import Path
from typing import Any

WIRE_S = 0.0006
"""14 bytes of a question and 48 of six answers take 0.62 ms at 1 Mbaud."""
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


def connected(side: str, port: str) -> Any:
    """The side's bus on the arm."""
    if side == "bare":
        return Bare(port)
    if side == "ours":
        from lerobot_ops.motors.feetech import FeetechMotorsBus
        from lerobot_ops.motors.motor import Motor, MotorCalibration, MotorNormMode
    else:
        from lerobot.motors import Motor, MotorCalibration, MotorNormMode
        from lerobot.motors.feetech import FeetechMotorsBus
    motors = {name: Motor(number, "sts3215", MotorNormMode.DEGREES) for number, name in enumerate(JOINTS, 1)}
    entries = json.loads(Path(f"{port}.json").read_text())
    bus = FeetechMotorsBus(port, motors, {name: MotorCalibration(**entry) for name, entry in entries.items()})
    bus.connect()
    bus.configure_motors()
    return bus


class Bare:
    """The same bytes without a bus."""

    QUESTION = bytes.fromhex("ff ff fe 0a 82 38 02 01 02 03 04 05 06 26")
    GOALS = bytes.fromhex("ff ff fe 16 83 2a 02") + b"".join(bytes((each, 0, 8)) for each in range(1, 7))
    ANSWERS = 48

    def __init__(self, port: str) -> None:
        self._file = os.open(port, os.O_RDWR | os.O_NOCTTY)
        settings = termios.tcgetattr(self._file)
        settings[4] = settings[5] = termios.B1000000
        termios.tcsetattr(self._file, termios.TCSANOW, settings)
        self._goals = self.GOALS + bytes((~sum(self.GOALS[2:]) & 0xFF,))

    def sync_read(self, *_: Any, **__: Any) -> None:
        os.write(self._file, self.QUESTION)
        left = self.ANSWERS
        while left:
            if not select.select([self._file], [], [], 1.0)[0]:
                raise TimeoutError
            left -= len(os.read(self._file, left))

    def sync_write(self, *_: Any) -> None:
        os.write(self._file, self._goals)

    def disconnect(self, **_: Any) -> None:
        os.close(self._file)


def cycles(bus: Any, seconds: float, rate: float) -> dict[str, float]:
    """Cycles per second, their length (ms), CPU (% of a core), and how many were missed."""
    goals = bus.sync_read("Present_Position", num_retry=2)
    taken: list[float] = []
    missed = lost = 0
    begin, cpu = time.perf_counter(), time.process_time()
    deadline = begin
    while (start := time.perf_counter()) < begin + seconds:
        try:
            bus.sync_read("Present_Position")
        except Exception:  # on both sides: an answer did not come
            lost += 1
        bus.sync_write("Goal_Position", goals)
        end = time.perf_counter()
        taken.append(end - start)
        if not rate:
            continue
        deadline += 1 / rate
        if end > deadline:
            missed += 1
            deadline += (end - deadline) // (1 / rate) / rate
        time.sleep(max(0.0, deadline - time.perf_counter()))
    passed = time.perf_counter() - begin
    taken.sort()
    return {
        "cycles_per_s": len(taken) / passed,
        "p50_ms": 1e3 * taken[len(taken) // 2],
        "p99_ms": 1e3 * taken[len(taken) * 99 // 100],
        "cpu_percent": 100 * (time.process_time() - cpu) / passed,
        "cycles": len(taken),
        "stale_percent": 100 * sum(each < WIRE_S for each in taken) / len(taken),
        "missed": missed,
        "lost": lost,
    }


def unanswered(bus: Any) -> dict[str, float]:
    """How long one reading without an answer takes (ms), and the CPU that it takes (% of a core)."""
    begin, cpu = time.perf_counter(), time.process_time()
    with contextlib.suppress(Exception):
        bus.sync_read("Present_Position")
    passed = time.perf_counter() - begin
    return {"unanswered_ms": 1e3 * passed, "unanswered_cpu_percent": 100 * (time.process_time() - cpu) / passed}


def main(side: str, port: str, seconds: str, rate: str) -> None:
    bus = connected(side, port)
    found = unanswered(silenced(bus)) if rate == "lost" else cycles(bus, float(seconds), float(rate))
    with contextlib.suppress(Exception):
        bus.disconnect(disable_torque=False)
    print(json.dumps(found))


def silenced(bus: Any) -> Any:
    """The bus once the arm, told so by whoever started us, answers no more."""
    print("ready", flush=True)
    sys.stdin.readline()
    return bus


if __name__ == "__main__":
    main(*sys.argv[1:])

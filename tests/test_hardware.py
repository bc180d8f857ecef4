"""Setting up hardware through the command line, as an operator does: in a terminal, with a simulated arm."""

import json
import math
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lerobot_ops.motors.calibration import load_calibration, save_calibration
from lerobot_ops.motors.feetech import FeetechMotorsBus
from lerobot_ops.motors.simulator import SimulatedArm, simulate

SOON_S = 60.0
PROGRAM = str(Path(sys.executable).with_name("lerobot-ops"))


class Operator:
    """A command in a terminal of its own, and what somebody types there."""

    def __init__(self, *arguments: object) -> None:
        self.terminal, inner = pty.openpty()
        command = ["setsid", "--ctty", PROGRAM, *map(str, arguments)]  # in the foreground of this terminal
        self.process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner)
        os.close(inner)
        self.shown = ""

    def sees(self, text: str) -> str:
        """Wait until `text` is shown; returns what was shown before it since the last time."""
        end = time.monotonic() + SOON_S
        while text not in self.shown:
            assert time.monotonic() < end, self.shown
            try:
                self.shown += os.read(self.terminal, 4096).decode()
            except OSError:
                raise AssertionError(f"{text!r} was never shown, but {self.shown}") from None
        before, _, self.shown = self.shown.partition(text)
        return before

    def types(self, text: str = "") -> None:
        os.write(self.terminal, f"{text}\n".encode())

    def ends(self) -> int:
        end = time.monotonic() + SOON_S
        while self.process.poll() is None:
            assert time.monotonic() < end, self.shown
            if select.select([self.terminal], [], [], 0.02)[0]:  # a terminal that nobody empties holds the command
                with suppress(OSError):  # it was closed
                    self.shown += os.read(self.terminal, 4096).decode(errors="replace")
        return self.process.returncode


@contextmanager
def operator(*arguments: object) -> Iterator[Operator]:
    at_work = Operator(*arguments)
    try:
        yield at_work
    finally:
        at_work.process.kill()
        at_work.process.wait()
        os.close(at_work.terminal)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=SOON_S)


def swing(seconds: float) -> dict[str, float]:
    """A hand that moves every joint but the wrist's roll, up and down."""
    names = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "gripper")
    return dict.fromkeys(names, 50 * math.sin(6 * seconds))


def device(role: str, arm: SimulatedArm, folder: Path) -> list[str]:
    kind = {"robot": "so101_follower", "teleop": "so101_leader"}[role]
    place = f"--{role}.calibration_dir={folder}"
    return [f"--{role}.type={kind}", f"--{role}.port={arm.port}", f"--{role}.id=blue", place]


@pytest.mark.parametrize("role", ["robot", "teleop"])
def test_an_arm_is_calibrated_by_hand(tmp_path: Path, role: str) -> None:
    with simulate("so101", calibrated=False, timing=False) as arm:
        arm.pose(dict.fromkeys(arm.angles, 0.0))
        with operator("calibrate", *device(role, arm, tmp_path)) as person:
            person.sees("middle of its range, then press ENTER")
            person.types()
            person.sees("from one end to the other, then press ENTER")
            arm.hand(swing)
            person.sees("highest")
            time.sleep(1.5)  # a whole swing
            person.types()
            person.sees("The calibration is in")
            assert person.ends() == 0
        calibration = load_calibration(tmp_path / "blue.json")
        assert list(calibration) == list(arm.angles)
        assert (calibration["wrist_roll"].range_min, calibration["wrist_roll"].range_max) == (0, 4095)
        pan = calibration["shoulder_pan"]
        assert 300 < pan.range_max - 2047 <= 50 * 4096 / 360 + 20  # somewhere on a swing of 50 degrees
        assert arm.servo("shoulder_pan").get("Max_Position_Limit") == pan.range_max
        assert not any(arm.torques.values())


def test_a_known_calibration_is_written_into_new_motors_or_measured_again(tmp_path: Path) -> None:
    with simulate("so101", calibrated=False, timing=False) as arm:
        save_calibration(tmp_path / "blue.json", arm.calibration)
        with operator("calibrate", *device("robot", arm, tmp_path)) as person:
            person.sees("c and ENTER calibrates anew:")
            person.types()
            assert person.ends() == 0
        offsets = {name: arm.servo(name).get("Homing_Offset") for name in arm.angles}
        assert offsets == {name: entry.homing_offset for name, entry in arm.calibration.items()}
        with operator("calibrate", *device("robot", arm, tmp_path)) as person:
            person.sees("c and ENTER calibrates anew:")
            person.types("c")
            person.sees("middle of its range")
        assert load_calibration(tmp_path / "blue.json") == arm.calibration  # an unfinished one stores nothing


def test_joints_that_were_not_moved_are_named(tmp_path: Path) -> None:
    with simulate("so101", calibrated=False, timing=False) as arm:
        with operator("calibrate", *device("robot", arm, tmp_path)) as person:
            person.sees("middle of its range")
            person.types()
            person.sees("highest")
            person.types()
            person.sees("some motors did not move: shoulder_pan")
            assert person.ends() == 1
        assert not (tmp_path / "blue.json").exists()


def test_without_a_terminal_a_calibration_says_what_it_needs(tmp_path: Path) -> None:
    with simulate("so101", calibrated=False, timing=False) as arm:
        done = run("calibrate", *device("robot", arm, tmp_path))
    assert done.returncode == 1
    assert "there is no terminal" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one device is set up at a time"),
        (["--robot.type=so101_follower", "--robot.port=/dev/none"], "find-port"),
        (["--teleop.type=keyboard"], "no motors"),
        (["--robot.type=so101_folower", "--robot.port=x"], "did you mean 'so101_follower'"),
    ],
)
def test_what_cannot_be_set_up_is_said(arguments: list[str], message: str) -> None:
    done = run("setup-motors" if "keyboard" in str(arguments) else "calibrate", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_port_is_the_one_whose_cable_was_pulled(tmp_path: Path) -> None:
    ports = f"--ports={[str(tmp_path / '*')]}"
    one, two = (SimulatedArm("so101", name=name, directory=tmp_path, timing=False) for name in ("one", "two"))
    try:
        with operator("find-port", ports) as person:
            person.sees(two.port)
            person.sees("pull the USB cable")
            two.unplug()
            person.types()
            person.sees(f"The arm is on {two.port}")
            assert person.ends() == 0
        two.plug_in()
        with operator("find-port", ports) as person:
            person.sees("pull the USB cable")
            person.types()
            person.sees("no port disappeared")
            assert person.ends() == 1
        listed = json.loads(run("find-port", ports, "--scan", "--as_json").stdout)
        assert [each["port"] for each in listed] == [one.port, two.port]
        assert listed[0]["motors"] == {"1000000": [f"id {number} sts3215" for number in range(1, 7)]}
    finally:
        one.close()
        two.close()


def test_the_motors_of_a_new_arm_get_their_ids(tmp_path: Path) -> None:
    with simulate("so101", timing=False) as arm:
        for name in arm.angles:  # as from the factory
            arm.servo(name).set("ID", 1, save=True)
        with operator("setup-motors", *device("robot", arm, tmp_path)) as person:
            for name in reversed(arm.angles):
                person.sees(f"the motor '{name}' alone")
                arm.on_chain([name])
                person.types()
                person.sees(f"{name}: id")
            assert person.ends() == 0
        arm.on_chain(None)
        assert FeetechMotorsBus.scan_port(arm.port, baudrates=[1_000_000]) == {1_000_000: [1, 2, 3, 4, 5, 6]}


def test_an_arm_is_moved_by_the_keys_of_a_terminal(tmp_path: Path) -> None:
    patience = ["--safety.watchdog=false", "--robot.num_read_retries=50"]  # other work may hold this machine
    with simulate("so101", timing=False) as arm:
        save_calibration(tmp_path / "blue.json", arm.calibration)
        with operator("teleoperate", *device("robot", arm, tmp_path), "--teleop.type=keyboard", *patience) as person:
            end = time.monotonic() + SOON_S
            while arm.angles["shoulder_pan"] < 8 or arm.angles["gripper"] < 5:
                assert time.monotonic() < end, person.shown
                os.write(person.terminal, b"do")
                time.sleep(0.1)
            os.write(person.terminal, b"q")
            assert person.ends() == 0
        assert not any(arm.torques.values())
        assert abs(arm.angles["wrist_flex"]) < 3


def test_no_camera_is_no_error(tmp_path: Path) -> None:
    done = run("find-cameras", "opencv", f"--output_dir={tmp_path}")
    assert done.returncode == 0
    assert done.stdout

"""The six motors of an SO-100 or SO-101 arm, as follower and leader share them: ids, units, calibration, setting up.

Calibrations are kept where LeRobot keeps them, so that both use the same files.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors import tables
from lerobot_ops.motors.calibration import calibration_json, load_calibration, save_calibration
from lerobot_ops.motors.feetech import FeetechMotorsBus, OperatingMode
from lerobot_ops.motors.motor import Motor, MotorCalibration, MotorNormMode
from lerobot_ops.motors.normalization import normalize
from lerobot_ops.motors.release import Release

V = TypeVar("V")

MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""From the base to the tip; their ids are 1 to 6."""
FULL_TURN = "wrist_roll"
"""This joint has no ends: its range is the whole turn."""
MODEL, RESOLUTION = "sts3215", 4096
SETUP_RETRIES = 2
PATIENCE_MS = 200.0
SIDES = ("left", "right")


class SOArm:
    """One arm on one port. `folder` and `kind` are LeRobot's names of where its calibration is kept."""

    def __init__(
        self,
        port: str,
        *,
        folder: str,
        kind: str,
        id: str | None,  # noqa: A002 - LeRobot's name
        calibration_dir: Path | None = None,
        use_degrees: bool = True,
        retries: int = SETUP_RETRIES,
    ) -> None:
        self.title = f"{kind} {id}" if id else kind
        self.retries = retries
        self.calibration_file = (calibration_dir or calibration_home() / folder / kind) / f"{id}.json"
        body = MotorNormMode.DEGREES if use_degrees else MotorNormMode.RANGE_M100_100
        motors = {
            name: Motor(number, MODEL, MotorNormMode.RANGE_0_100 if name == "gripper" else body)
            for number, name in enumerate(MOTORS, 1)
        }
        calibration = load_calibration(self.calibration_file) if self.calibration_file.exists() else {}
        self._check_motors(calibration)
        self.bus = FeetechMotorsBus(port, motors, calibration)

    @property
    def keys(self) -> tuple[str, ...]:
        """What observations and actions call the joints."""
        return tuple(f"{name}.pos" for name in MOTORS)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Per key the ends of the calibrated range, in the joint's unit; empty without a calibration."""
        limits = {}
        for name, entry in self.bus.calibration.items():
            mode = self.bus.motors[name].norm_mode
            ends = [normalize(end, mode, entry, RESOLUTION) for end in (entry.range_min, entry.range_max)]
            limits[f"{name}.pos"] = (min(ends), max(ends))
        return limits

    @property
    def calibration_digest(self) -> str | None:
        """The SHA-256 of the calibration's file; none without one."""
        calibration = self.bus.calibration
        return hashlib.sha256(calibration_json(calibration).encode()).hexdigest() if calibration else None

    @property
    def release(self) -> Release:
        """What takes the torque off."""
        return Release(self.bus.port, tables.DEFAULT_BAUDRATE, self.bus.release_packets())

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """In this block motors may take longer to answer: no loop waits for them."""
        self.bus.set_timeout(PATIENCE_MS)
        try:
            yield
        finally:
            self.bus.set_timeout(None)

    def connect(self, calibrate: bool) -> None:
        """Open the port and check the motors; with `calibrate`, ask the operator where they are not calibrated."""
        with self.patient():
            self._connect(calibrate)

    def _connect(self, calibrate: bool) -> None:
        self.bus.connect()
        if calibrate and not self.bus.is_calibrated:
            try:
                self._calibrate()
            except BaseException:
                self.bus.disconnect()
                raise

    def positions(self) -> dict[str, float]:
        """Where the joints are, by key."""
        read = self.bus.sync_read("Present_Position", num_retry=self.retries)
        return {f"{name}.pos": value for name, value in read.items()}

    def status(self) -> dict[str, float]:
        """Temperature (°C), voltage (V), load (%) and current (mA) of every motor, as `Robot.status` says."""
        found: dict[str, float] = {}
        for name, motor in self.bus.status(num_retry=self.retries).items():
            found |= {f"{name}.temperature": float(motor.temperature), f"{name}.voltage": motor.voltage}
            found[f"{name}.load"] = motor.load
            if motor.current is not None:
                found[f"{name}.current"] = motor.current
        return found

    def set(self, data_name: str, values: Mapping[str, int]) -> None:
        """Make a register of some motors hold `values`, writing only where it does not: the EEPROM wears out."""
        held = self.bus.sync_read(data_name, list(values), normalize=False, num_retry=self.retries)
        for name, value in values.items():
            if held[name] != value:
                self.bus.write(data_name, name, value, normalize=False, num_retry=SETUP_RETRIES)

    def calibrate(self) -> None:
        """Ask the operator: use the file's calibration, or move the joints and write a new one into motors and file."""
        with self.patient():
            self._calibrate()

    def _calibrate(self) -> None:
        known = load_calibration(self.calibration_file) if self.calibration_file.exists() else {}
        if known and not ask(
            f"{self.title}: ENTER writes the calibration of {self.calibration_file} into the motors, "
            "c and ENTER calibrates anew: "
        ).lower().startswith("c"):
            self.bus.write_calibration(known)
            return
        self.bus.disable_torque(num_retry=SETUP_RETRIES)
        self.set("Operating_Mode", dict.fromkeys(MOTORS, int(OperatingMode.POSITION)))
        ask(f"{self.title}: move every joint to the middle of its range, then press ENTER ")
        offsets = self.bus.set_half_turn_homings()
        print(f"Move every joint but {FULL_TURN} from one end to the other, then press ENTER.")
        lowest, highest = self.bus.record_ranges_of_motion([name for name in MOTORS if name != FULL_TURN])
        lowest[FULL_TURN], highest[FULL_TURN] = 0, RESOLUTION - 1
        calibration = {
            name: MotorCalibration(self.bus.motors[name].id, 0, offsets[name], lowest[name], highest[name])
            for name in MOTORS
        }
        self.bus.write_calibration(calibration)
        save_calibration(self.calibration_file, calibration)
        print(f"The calibration is in {self.calibration_file}")

    def setup_motors(self) -> None:
        """Give each motor its id and the bus's rate, one at a time, from the tip to the base as they are assembled."""
        with self.patient():
            try:
                for name in reversed(MOTORS):
                    ask(f"{self.title}: connect the controller board to the motor {name!r} alone, then press ENTER ")
                    self.bus.setup_motor(name)
                    print(f"{name}: id {self.bus.motors[name].id}")
            finally:
                self.bus.disconnect(disable_torque=False)  # the other motors are not there to be told

    def identity(self) -> dict[str, Any]:
        """What tells this arm, calibrated as it is, from others."""
        return {"calibration": self.calibration_digest, "motors": dict.fromkeys(MOTORS, MODEL)}

    def _check_motors(self, calibration: Mapping[str, MotorCalibration]) -> None:
        if calibration and set(calibration) != set(MOTORS):
            raise DeviceError(
                "the calibration is of another arm",
                file=self.calibration_file,
                found=", ".join(calibration),
                expected=", ".join(MOTORS),
                fix="give this arm another id, or delete the file and calibrate it",
            )


def with_side(side: str, values: Mapping[str, V]) -> dict[str, V]:
    """What the arm on one `side` of a pair says, as the pair says it."""
    return {f"{side}_{key}": value for key, value in values.items()}


def of_side(side: str, values: Mapping[str, V]) -> dict[str, V]:
    """What is said to a pair, as the arm on one `side` of it is told."""
    return {key.removeprefix(f"{side}_"): value for key, value in values.items() if key.startswith(f"{side}_")}


def calibration_home() -> Path:
    """The directory of all calibrations: $HF_LEROBOT_CALIBRATION, else LeRobot's own."""
    from lerobot_ops.datasets.remote import lerobot_home

    named = os.environ.get("HF_LEROBOT_CALIBRATION")
    return Path(named).expanduser() if named else lerobot_home() / "calibration"


def ask(question: str) -> str:
    """What the operator answers; raises DeviceError where nobody can."""
    if not sys.stdin.isatty():
        raise DeviceError(
            "the operator must be asked, and there is no terminal",
            expected="an arm whose motors hold the calibration of its file",
            fix="run `lerobot-ops calibrate` in a terminal, with the same type, id and port",
        )
    try:
        return input(question).strip()
    except EOFError:
        raise DeviceError("the operator closed the terminal", fix="start again; nothing was stored") from None

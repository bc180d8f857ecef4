"""LeRobot's own Feetech bus: `peer_motors.py CALL PORT`, which prints what it saw as JSON on the last line.

`without_arm` takes a folder in its place.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import draccus
from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.motors.feetech import FeetechMotorsBus, tables

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


def so_arm(port: str) -> FeetechMotorsBus:
    modes = {"gripper": MotorNormMode.RANGE_0_100}
    motors = {
        name: Motor(number, "sts3215", modes.get(name, MotorNormMode.DEGREES)) for number, name in enumerate(JOINTS, 1)
    }
    return FeetechMotorsBus(port, motors)


def calibrate(port: str) -> Any:
    """As an operator does it: homings in the middle, ranges by moving, written into the motors and to a file."""
    bus = so_arm(port)
    bus.connect()
    bus.disable_torque()
    offsets = bus.set_half_turn_homings()
    middle = bus.sync_read("Present_Position", normalize=False)
    calibration = {
        name: MotorCalibration(motor.id, 0, offsets[name], 2047 - 700 - motor.id, 2047 + 700 + motor.id)
        for name, motor in bus.motors.items()
    }
    bus.write_calibration(calibration)
    seen = {
        "middle": middle,
        "calibrated": bus.is_calibrated,
        "held": {k: asdict(v) for k, v in bus.read_calibration().items()},
    }
    seen["pings"] = [bus.ping(name) for name in JOINTS]
    seen["broadcast"] = bus.broadcast_ping()
    bus.configure_motors()
    bus.enable_torque()
    bus.sync_write("Goal_Position", {"shoulder_pan": 20.0, "gripper": 75.0})
    bus.write("P_Coefficient", "elbow_flex", 16)
    seen["p"] = bus.read("P_Coefficient", "elbow_flex")
    seen["positions"] = bus.sync_read("Present_Position")
    bus.disconnect()
    return seen


def without_arm(folder: str) -> Any:
    """Everything that needs no port, on the files in `folder`."""
    here = Path(folder)
    return {"files": files(here), "normalised": normalise(here / "cases.json"), "known": known()}


def files(folder: Path) -> Any:
    """Reads `ours.json` as LeRobot's robots load a calibration, and writes it to `theirs.json` as they save one."""
    with draccus.config_type("json"):
        with open(folder / "ours.json") as file:
            calibration = draccus.load(dict[str, MotorCalibration], file)
        with open(folder / "theirs.json", "w") as file:
            draccus.dump(calibration, file, indent=4)
    return {name: asdict(entry) for name, entry in calibration.items()}


def normalise(path: Path) -> Any:
    """Each case, [mode, drive mode, low, high, value], normalised and the other way round."""
    found = []
    for mode, drive_mode, low, high, value in json.loads(path.read_text()):
        bus = FeetechMotorsBus(
            "", {"m": Motor(1, "sts3215", MotorNormMode(mode))}, {"m": MotorCalibration(1, drive_mode, 0, low, high)}
        )
        found.append([bus._normalize({1: int(value)})[1], bus._unnormalize({1: value})[1]])
    return found


def known() -> Any:
    """Tables of registers, models and signs."""
    return {
        "registers": {"0": tables.STS_SMS_SERIES_CONTROL_TABLE, "1": tables.SCS_SERIES_CONTROL_TABLE},
        "models": {
            name: [tables.MODEL_NUMBER_TABLE[name], tables.MODEL_RESOLUTION[name], tables.MODEL_PROTOCOL[name]]
            for name in tables.MODEL_NUMBER_TABLE
        },
        "signs": tables.STS_SMS_SERIES_ENCODINGS_TABLE,
        "baudrates": tables.STS_SMS_SERIES_BAUDRATE_TABLE,
    }


def retry(port: str) -> Any:
    """Positions, asked for once more when an answer is lost."""
    bus = so_arm(port)
    bus.connect(handshake=False)
    found = bus.sync_read("Present_Position", normalize=False, num_retry=2)
    bus.disconnect()
    return found


def set_up(port: str) -> Any:
    """A new motor becomes the gripper."""
    bus = so_arm(port)
    bus.setup_motor("gripper")
    return {"ping": bus.ping("gripper")}


if __name__ == "__main__":
    calls = (calibrate, retry, set_up, without_arm)
    print(json.dumps({each.__name__: each for each in calls}[sys.argv[1]](sys.argv[2])))

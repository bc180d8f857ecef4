"""Calibrations as the JSON files that LeRobot reads and writes: a motor's name to the fields of `MotorCalibration`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.errors import DeviceError, did_you_mean
from lerobot_ops.motors.motor import MotorCalibration

FIELDS = tuple(field.name for field in fields(MotorCalibration))
_AGAIN = "calibrate the arm again with `lerobot-ops calibrate`"


def load_calibration(path: Path) -> dict[str, MotorCalibration]:
    """The calibration in a file; DeviceError when there is none or when it cannot be one."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DeviceError("there is no such calibration", file=path, fix=_AGAIN) from None
    except (OSError, ValueError) as error:
        raise DeviceError("the calibration cannot be read", file=path, found=str(error), fix=_AGAIN) from error
    if not isinstance(content, dict) or not content:
        raise DeviceError(
            "the file is no calibration", file=path, found=type(content).__name__, expected="motors by name", fix=_AGAIN
        )
    calibration = {name: _motor(path, name, entry) for name, entry in content.items()}
    check_calibration(calibration, path)
    return calibration


def save_calibration(path: Path, calibration: Mapping[str, MotorCalibration]) -> None:
    """Write a calibration, whole or not at all, in LeRobot's layout."""
    check_calibration(calibration, path)
    write_bytes(path, calibration_json(calibration).encode())


def calibration_json(calibration: Mapping[str, MotorCalibration]) -> str:
    """The text of a calibration's file: the same for the same calibration, so its digest names it."""
    return json.dumps({name: asdict(entry) for name, entry in calibration.items()}, indent=4)


def check_calibration(calibration: Mapping[str, MotorCalibration], path: Path | None = None) -> None:
    """Raise DeviceError where two motors share an id, or where a range is empty."""
    seen: dict[int, str] = {}
    for name, entry in calibration.items():
        if entry.id in seen:
            raise DeviceError(
                "two motors of a calibration have the same id",
                file=path, field=f"{name}.id", found=entry.id, expected=f"another than {seen[entry.id]}'s", fix=_AGAIN,
            )  # fmt: skip
        seen[entry.id] = name
        if entry.range_min >= entry.range_max:
            raise DeviceError(
                f"the range of motor {name!r} is empty",
                file=path, field=f"{name}.range_min, {name}.range_max", found=f"{entry.range_min}, {entry.range_max}",
                expected="a minimum below the maximum",
                fix="move every joint through its whole range while calibrating",
            )  # fmt: skip


def _motor(path: Path, name: str, entry: Any) -> MotorCalibration:
    if not isinstance(entry, dict):
        raise DeviceError("a motor's calibration is no object", file=path, field=name, found=entry, fix=_AGAIN)
    for key in entry.keys() - set(FIELDS):
        raise DeviceError(
            "a calibration has an unknown field", file=path, field=f"{name}.{key}", fix=did_you_mean(key, FIELDS)
        )
    for key in FIELDS:
        value = entry.get(key)
        if type(value) is not int:
            found = "nothing" if key not in entry else repr(value)
            raise DeviceError(
                "a calibration misses a number",
                file=path, field=f"{name}.{key}", found=found, expected="an integer", fix=_AGAIN,
            )  # fmt: skip
    return MotorCalibration(**entry)

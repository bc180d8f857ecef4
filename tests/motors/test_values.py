"""Values: bytes of registers, units of positions, files of calibrations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.calibration import load_calibration, save_calibration
from lerobot_ops.motors.encoding import decode, encode, limits
from lerobot_ops.motors.motor import MotorCalibration, MotorNormMode
from lerobot_ops.motors.normalization import normalize, unnormalize
from lerobot_ops.motors.tables import TABLES, Register, alarms

REGISTERS = st.sampled_from([(protocol, register) for protocol, table in TABLES.items() for register in table.values()])
CALIBRATIONS = st.tuples(st.integers(0, 1), st.integers(0, 2000), st.integers(2001, 4095)).map(
    lambda parts: MotorCalibration(1, parts[0], 0, parts[1], parts[2])
)
MODES = st.sampled_from(MotorNormMode)


@given(REGISTERS, st.data())
def test_a_register_holds_what_was_written(which: tuple[int, Register], data: st.DataObject) -> None:
    protocol, register = which
    value = data.draw(st.integers(*limits(register)))
    held = encode(value, register, protocol)
    assert len(held) == register.size
    assert decode(held, register, protocol) == value


@given(REGISTERS, st.booleans())
def test_a_register_takes_nothing_that_it_has_no_room_for(which: tuple[int, Register], above: bool) -> None:
    protocol, register = which
    lowest, highest = limits(register)
    with pytest.raises(ValueError, match="is not in"):
        encode(highest + 1 if above else lowest - 1, register, protocol)


def test_bytes_are_in_the_order_of_each_protocol() -> None:
    assert encode(0x0802, TABLES[0]["Goal_Position"], 0) == b"\x02\x08"
    assert encode(0x0202, TABLES[1]["Goal_Position"], 1) == b"\x02\x02"
    assert encode(0x0102, TABLES[1]["Goal_Position"], 1) == b"\x01\x02"
    assert encode(-5, TABLES[0]["Homing_Offset"], 0) == (5 | 1 << 11).to_bytes(2, "little")
    assert alarms(0b100101) == ("voltage", "overheated", "overload")


@given(MODES, CALIBRATIONS, st.integers(0, 4095))
def test_a_position_comes_back_from_its_unit(mode: MotorNormMode, entry: MotorCalibration, position: int) -> None:
    inside = min(entry.range_max, max(entry.range_min, position))
    expected = position if mode is MotorNormMode.DEGREES else inside
    back = unnormalize(normalize(position, mode, entry, 4096), mode, entry, 4096)
    assert abs(back - expected) <= 1  # it is cut, not rounded


@given(MODES, CALIBRATIONS, st.floats(-1e4, 1e4))
def test_units_keep_to_the_calibrated_range(mode: MotorNormMode, entry: MotorCalibration, value: float) -> None:
    position = unnormalize(value, mode, entry, 4096)
    if mode is not MotorNormMode.DEGREES:
        assert entry.range_min <= position <= entry.range_max
    low, high = {MotorNormMode.RANGE_0_100: (0, 100), MotorNormMode.RANGE_M100_100: (-100, 100)}.get(mode, (-1e9, 1e9))
    assert low <= normalize(position, mode, entry, 4096) <= high


@given(st.sampled_from([MotorNormMode.RANGE_0_100, MotorNormMode.RANGE_M100_100]), CALIBRATIONS, st.integers(0, 4095))
def test_a_drive_mode_turns_percentages_round(mode: MotorNormMode, entry: MotorCalibration, position: int) -> None:
    forward = normalize(position, mode, replace(entry, drive_mode=0), 4096)
    backward = normalize(position, mode, replace(entry, drive_mode=1), 4096)
    assert forward + backward == pytest.approx(100 if mode is MotorNormMode.RANGE_0_100 else 0)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(st.integers(0, 1), st.integers(-2047, 2047), st.integers(0, 2000), st.integers(2001, 4095)),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_a_calibration_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, tuple[int, int, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("calibration") / "arm.json"
    calibration = {name: MotorCalibration(number, *each) for number, (name, each) in enumerate(parts.items())}
    save_calibration(path, calibration)
    assert load_calibration(path) == calibration
    assert list(json.loads(path.read_text())) == list(calibration)


GOOD = {"id": 1, "drive_mode": 0, "homing_offset": -3, "range_min": 10, "range_max": 4000}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no calibration"),
        ("{}", "no calibration"),
        ('{"a": 3}', "a motor's calibration is no object"),
        (json.dumps({"a": {**GOOD, "homing": 3}}), r"(?s)unknown field.*a\.homing.*did you mean 'homing_offset'"),
        (json.dumps({"a": {**GOOD, "range_max": 4000.5}}), r"(?s)a\.range_max.*4000\.5.*an integer"),
        (json.dumps({"a": {**GOOD, "id": True}}), r"(?s)a\.id.*True"),
        (json.dumps({"a": {key: GOOD[key] for key in list(GOOD)[1:]}}), r"(?s)a\.id.*nothing"),
        (json.dumps({"a": GOOD, "b": GOOD}), r"(?s)same id.*b\.id.*another than a's"),
        (json.dumps({"a": {**GOOD, "range_min": 4000}}), r"(?s)range of motor 'a' is empty"),
    ],
)
def test_a_file_that_is_no_calibration(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "arm.json"
    path.write_text(content)
    with pytest.raises(DeviceError, match=message) as caught:
        load_calibration(path)
    assert caught.value.file == path


def test_no_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"(?s)no such calibration.*lerobot-ops calibrate"):
        load_calibration(tmp_path / "arm.json")


def test_a_bad_calibration_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "arm.json"
    save_calibration(path, {"a": MotorCalibration(1, 0, 0, 0, 9)})
    before = path.read_bytes()
    with pytest.raises(DeviceError, match="is empty"):
        save_calibration(path, {"a": MotorCalibration(1, 0, 0, 9, 9)})
    assert path.read_bytes() == before

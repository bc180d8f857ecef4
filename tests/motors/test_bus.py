"""A Feetech bus on an arm: what it reads and writes is what the arm does."""

import math
import os
import threading
import time
from collections.abc import Iterator

import pytest

from lerobot_ops.errors import ConfigError, DeviceError
from lerobot_ops.motors.feetech import FeetechMotorsBus, OperatingMode
from lerobot_ops.motors.motor import Motor, MotorCalibration, MotorNormMode
from lerobot_ops.motors.simulator import SimulatedArm, kinds, simulate

MOTORS = kinds.motors("so101")


@pytest.fixture
def arm() -> Iterator[SimulatedArm]:
    with simulate("so101") as arm:
        yield arm


@pytest.fixture
def bus(arm: SimulatedArm) -> Iterator[FeetechMotorsBus]:
    bus = FeetechMotorsBus(arm.port, MOTORS, arm.calibration)
    bus.set_timeout(500)  # other work may hold this machine
    with bus:
        yield bus


def settled(bus: FeetechMotorsBus) -> dict[str, float]:
    """The positions once nothing moves any more."""
    deadline = time.monotonic() + 20
    while any(bus.sync_read("Moving").values()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return bus.sync_read("Present_Position")


def test_an_arm_goes_where_it_is_sent(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    bus.enable_torque()
    bus.sync_write("Goal_Position", {"shoulder_pan": 25.0, "wrist_roll": -40.0, "gripper": 80.0})
    time.sleep(0.05)
    positions = settled(bus)
    assert positions["shoulder_pan"] == pytest.approx(25, abs=0.2)
    assert positions["wrist_roll"] == pytest.approx(-40, abs=0.2)
    assert positions["gripper"] == pytest.approx(80, abs=0.5)
    assert arm.angles["shoulder_pan"] == pytest.approx(25, abs=0.2)


def test_the_torque_is_off_after_the_bus_is_gone(arm: SimulatedArm) -> None:
    with FeetechMotorsBus(arm.port, MOTORS) as bus:
        bus.enable_torque()
        assert all(arm.torques.values())
    assert not any(arm.torques.values())


def test_the_torque_is_off_for_a_block(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    bus.enable_torque()
    with bus.torque_disabled(["gripper", "elbow_flex"]):
        assert {name for name, on in arm.torques.items() if not on} == {"gripper", "elbow_flex"}
    assert all(arm.torques.values())


def test_registers_are_read_and_written(bus: FeetechMotorsBus) -> None:
    bus.write("Operating_Mode", "gripper", OperatingMode.VELOCITY)
    bus.write("P_Coefficient", "gripper", 16)
    bus.write("Goal_Velocity", "gripper", -300)
    bus.write("Max_Torque_Limit", "gripper", 500)
    assert bus.read("Operating_Mode", "gripper") == 1
    assert bus.sync_read("P_Coefficient")["gripper"] == 16
    assert bus.read("Goal_Velocity", "gripper") == -300
    bus.sync_write("Acceleration", 40)
    assert set(bus.sync_read("Acceleration").values()) == {40}


def test_values_are_in_the_units_of_each_motor(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    arm.pose({"shoulder_pan": 45, "gripper": math.degrees(0.35)})
    plain, units = bus.sync_read("Present_Position", normalize=False), bus.sync_read("Present_Position")
    assert plain["shoulder_pan"] == 2047 + 512
    assert units["shoulder_pan"] == pytest.approx(45, abs=0.1)
    entry = arm.calibration["gripper"]
    part = (plain["gripper"] - entry.range_min) / (entry.range_max - entry.range_min)
    assert units["gripper"] == pytest.approx(100 * part)


def test_all_of_a_bus_and_its_status(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    assert bus.ping("elbow_flex") == 777
    assert bus.broadcast_ping() == dict.fromkeys(range(1, 7), 777)
    bus.enable_torque()
    time.sleep(0.02)
    status = bus.status()["shoulder_lift"]
    assert status.load == 24.0  # it holds the arm up
    assert status.current == pytest.approx(582, abs=6.5)
    assert (status.voltage, status.temperature) == (7.4, 25)
    assert bus.alarms == {}


def test_an_operator_calibrates(arm: SimulatedArm) -> None:
    bus = FeetechMotorsBus(arm.port, MOTORS)
    bus.set_timeout(500)
    with bus:
        bus.reset_calibration()
        assert not bus.is_calibrated
        offsets = bus.set_half_turn_homings()
        assert set(bus.sync_read("Present_Position", normalize=False).values()) == {2047}
        assert offsets == {name: entry.homing_offset for name, entry in arm.calibration.items()}

        start = time.monotonic()
        arm.hand(lambda now: dict.fromkeys(MOTORS, 30 * math.sin(20 * now)))
        lowest, highest = bus.record_ranges_of_motion(until=lambda: time.monotonic() > start + 2)
        assert all(2047 - 345 <= lowest[name] < 2047 < highest[name] <= 2047 + 345 for name in MOTORS)
        calibration = {
            name: MotorCalibration(MOTORS[name].id, 0, offsets[name], lowest[name], highest[name]) for name in MOTORS
        }
        bus.write_calibration(calibration)
        assert bus.is_calibrated
        assert bus.read_calibration() == calibration
    arm.power_cycle()
    with FeetechMotorsBus(arm.port, MOTORS, calibration) as bus:
        assert bus.is_calibrated  # it was in the EEPROM


def test_a_joint_that_was_not_moved_is_named(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    with pytest.raises(DeviceError, match="some motors did not move: gripper"):
        bus.record_ranges_of_motion("gripper", display_values=False, until=lambda: True)


def test_new_motors_get_their_ids_one_by_one() -> None:
    with simulate("so101", calibrated=False) as arm:
        for name in MOTORS:
            arm.servo(name).set("ID", 1, save=True)
        arm.servo("gripper").set("Baud_Rate", 4, save=True)
        bus = FeetechMotorsBus(arm.port, MOTORS)
        bus.set_timeout(100)
        for name in reversed(MOTORS):
            arm.on_chain([name])
            bus.setup_motor(name, initial_baudrate=115_200 if name == "gripper" else 1_000_000, initial_id=1)
        bus.disconnect(disable_torque=False)
        arm.on_chain(None)
        arm.power_cycle()
        with bus:
            assert bus.broadcast_ping() == dict.fromkeys(range(1, 7), 777)


def test_a_motor_is_found_at_any_rate_and_only_alone() -> None:
    with simulate("so101", timing=False) as arm:
        for name in ("gripper", "wrist_roll"):
            arm.servo(name).set("Baud_Rate", 1)
        arm.on_chain(["gripper", "wrist_roll"])
        assert FeetechMotorsBus.scan_port(arm.port, baudrates=(1_000_000, 500_000)) == {500_000: [5, 6]}
        bus = FeetechMotorsBus(arm.port, MOTORS)
        with pytest.raises(DeviceError, match="several motors are plugged in"):
            bus.setup_motor("gripper", initial_baudrate=500_000)
        arm.on_chain(["gripper"])
        bus.setup_motor("gripper", initial_baudrate=500_000)
        assert bus.ping("gripper") == 777
        bus.disconnect(disable_torque=False)


def test_motors_of_protocol_1_are_read_one_by_one() -> None:
    with simulate("scs_hand") as arm:
        bus = FeetechMotorsBus(arm.port, kinds.motors("scs_hand"), arm.calibration, protocol_version=1)
        bus.set_timeout(500)
        with bus:
            assert bus.is_calibrated
            assert bus.sync_read("Present_Position", normalize=False) == dict.fromkeys(bus.motors, 512)
            bus.sync_write("Goal_Position", {"finger_1": 100.0, "finger_4": 0.0})
            time.sleep(0.05)
            positions = settled(bus)
            assert positions["finger_1"] == pytest.approx(100, abs=0.5)
            assert positions["finger_4"] == pytest.approx(0, abs=0.5)
            assert bus.status()["finger_1"].current is None
            with pytest.raises(ConfigError, match="no such register"):
                bus.set_half_turn_homings()


def test_threads_share_a_bus(bus: FeetechMotorsBus) -> None:
    problems: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(50):
                assert all(7 < status.voltage < 8 for status in bus.status(num_retry=2).values())
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(100):
        bus.sync_write("Goal_Position", {"gripper": 50 + step % 10})
        assert set(bus.sync_read("Present_Position", num_retry=2)) == set(MOTORS)
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_release_takes_the_torque_off_without_the_bus(arm: SimulatedArm) -> None:
    bus = FeetechMotorsBus(arm.port, MOTORS)
    release = bus.release_packets()
    with bus:
        bus.enable_torque()
        bus.disconnect(disable_torque=False)
    assert all(arm.torques.values())
    with open(arm.port, "wb", buffering=0) as port:
        port.write(b"\xff\xff\x03\x20\x03\x2a" + release)  # after a packet that a dead process left unfinished
        deadline = time.monotonic() + 20
        while any(arm.torques.values()):
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert {arm.servo(name).get("Lock") for name in MOTORS} == {1}


def test_an_arm_is_configured_without_wearing_its_memory(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    arm.servo("gripper").set("Phase", 0x1C)
    bus.configure_motors()
    assert arm.servo("gripper").get("Phase") == 0x0C
    assert {arm.servo(name).get("Return_Delay_Time") for name in MOTORS} == {0}
    before = arm.requests
    bus.configure_motors()
    assert arm.requests - before == 4  # it only looked


@pytest.mark.parametrize(
    ("motors", "message"),
    [
        ({"a": Motor(1, "sts3216", MotorNormMode.DEGREES)}, "did you mean 'sts3215'"),
        ({"a": Motor(1, "scs0009", MotorNormMode.DEGREES)}, "speaks another protocol"),
        ({"a": Motor(253, "sts3215", MotorNormMode.DEGREES)}, "id is out of range"),
        ({name: Motor(1, "sts3215", MotorNormMode.DEGREES) for name in "ab"}, "the same id"),
    ],
)
def test_motors_that_cannot_be(motors: dict[str, Motor], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FeetechMotorsBus("/dev/null", motors)


def test_wrong_uses_say_what_is_right(bus: FeetechMotorsBus) -> None:
    with pytest.raises(ConfigError, match="did you mean 'Goal_Position'"):
        bus.write("Goal_Positon", "gripper", 1)
    with pytest.raises(ConfigError, match="did you mean 'gripper'"):
        bus.read("ID", "griper")
    with pytest.raises(DeviceError, match=r"(?s)does not fit its register.*40000 is not in"):
        bus.write("Goal_Position", "gripper", 40_000, normalize=False)
    with pytest.raises(DeviceError, match="is no number"):
        bus.sync_write("Goal_Position", {"gripper": math.nan})
    with pytest.raises(DeviceError, match="connected already"):
        bus.connect()
    bus.calibration = {}
    with pytest.raises(DeviceError, match=r"(?s)not calibrated.*lerobot-ops calibrate"):
        bus.sync_read("Present_Position")
    bus.disconnect()
    bus.disconnect()
    with pytest.raises(DeviceError, match="not connected"):
        bus.sync_read("Present_Position", normalize=False)


def test_a_port_that_is_not_there_or_taken(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    with pytest.raises(DeviceError, match=r"(?s)cannot be opened.*find-port"):
        FeetechMotorsBus("/dev/no-such-arm", MOTORS).connect()
    with pytest.raises(DeviceError, match=rf"(?s)cannot be opened.*end what uses it: .*\(process {os.getpid()}\)"):
        FeetechMotorsBus(arm.port, MOTORS).connect()

"""What goes wrong on a bus is overcome, or said with what to check; and it never takes longer than a loop can bear."""

import time
from collections.abc import Iterator

import pytest

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.feetech import FeetechMotorsBus
from lerobot_ops.motors.simulator import Fault, SimulatedArm, kinds, simulate

MOTORS = kinds.motors("so101")
OF_REPLIES = ["no_reply", "corrupt_checksum", "wrong_length", "late_reply"]


@pytest.fixture
def arm() -> Iterator[SimulatedArm]:
    with simulate("so101") as arm:
        yield arm


@pytest.fixture
def bus(arm: SimulatedArm) -> Iterator[FeetechMotorsBus]:
    bus = FeetechMotorsBus(arm.port, MOTORS, arm.calibration)
    bus.connect()
    bus.set_timeout(60)
    yield bus
    arm.clear_faults()
    bus.disconnect(disable_torque=False)


@pytest.mark.parametrize("kind", OF_REPLIES)
def test_a_spoiled_reply_is_asked_for_again(arm: SimulatedArm, bus: FeetechMotorsBus, kind: str) -> None:
    arm.fault(Fault(kind, motors=("elbow_flex",), count=1, delay_s=0.1))
    assert set(bus.sync_read("Present_Position", num_retry=2)) == set(MOTORS)
    arm.fault(Fault(kind, motors=("elbow_flex",), count=1, delay_s=0.1))
    assert bus.read("ID", "elbow_flex", num_retry=2) == 3
    arm.fault(Fault(kind, motors=("elbow_flex",), count=1, delay_s=0.1))
    bus.write("P_Coefficient", "elbow_flex", 20, num_retry=2)
    assert arm.servo("elbow_flex").get("P_Coefficient") == 20


@pytest.mark.parametrize("kind", OF_REPLIES)
def test_a_motor_that_stays_spoiled_is_named(arm: SimulatedArm, bus: FeetechMotorsBus, kind: str) -> None:
    arm.fault(Fault(kind, motors=("elbow_flex",), delay_s=1.0))
    with pytest.raises(DeviceError) as caught:
        bus.sync_read("Present_Position", num_retry=1)
    assert caught.value.problem == "no answer from 'elbow_flex' (id 3)"
    assert (caught.value.file, caught.value.field) == (arm.port, "Present_Position")
    assert "2 tries" in str(caught.value.found)
    assert "cable into motor 3" in str(caught.value.fix)
    with pytest.raises(DeviceError, match=r"no answer from 'elbow_flex' \(id 3\)"):
        bus.write("P_Coefficient", "elbow_flex", 20)
    assert bus.read("ID", "gripper", num_retry=2) == 6  # the others are as before


def test_a_dead_bus_says_power(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    arm.fault("no_reply")
    with pytest.raises(DeviceError, match=r"(?s)no answer from 'shoulder_pan'.*power supply is on"):
        bus.sync_read("Present_Position")


def test_a_lost_packet_costs_milliseconds(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    bus.set_timeout(None)
    arm.fault("no_reply")
    start = time.monotonic()
    with pytest.raises(DeviceError):
        bus.sync_read("Present_Position", num_retry=2)
    assert time.monotonic() - start < 1.0  # 0.06 s; a packet of LeRobot's waits for 1 s


def test_replies_that_come_too_late_are_not_taken_for_later_ones(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    bus.set_timeout(20)
    arm.servo("gripper").set("P_Coefficient", 77)
    arm.fault(Fault("late_reply", motors=("gripper",), count=1, delay_s=0.3))
    with pytest.raises(DeviceError):
        bus.read("P_Coefficient", "gripper")
    bus.set_timeout(500)
    time.sleep(0.5)
    assert bus.read("D_Coefficient", "gripper") == 32


def test_half_of_the_replies_lost_is_no_reason_to_stop(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    arm.fault(Fault("corrupt_checksum", probability=0.3))
    for _ in range(20):
        assert set(bus.sync_read("Present_Position", num_retry=20)) == set(MOTORS)


def test_an_overload_is_an_alarm_and_takes_no_control_away(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    bus.enable_torque()
    arm.fault(Fault("overload", motors=("elbow_flex",)))
    bus.sync_read("Present_Position", num_retry=2)
    assert bus.alarms == {"elbow_flex": ("overload",)}
    bus.disable_torque(num_retry=2)
    assert not any(arm.torques.values())


def test_pushing_against_a_stop_overloads(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    arm.servo("gripper").set("Protection_Time", 10)
    arm.servo("gripper").set("Max_Position_Limit", 4095)
    bus.write("Goal_Position", "gripper", 4000, normalize=False, num_retry=2)
    deadline = time.monotonic() + 30
    while "overload" not in bus.alarms.get("gripper", ()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        status = bus.status("gripper", num_retry=2)["gripper"]
    assert abs(status.load) > 80 or abs(status.load) <= 20  # the greatest, and then the protective torque
    bus.disable_torque("gripper", num_retry=2)
    bus.read("ID", "gripper", num_retry=2)
    assert bus.alarms == {}


def test_a_weak_supply_is_seen(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    arm.fault(Fault("voltage_drop", volts=4.0))
    assert bus.status("gripper", num_retry=2)["gripper"].voltage == 3.4
    assert bus.alarms["gripper"] == ("voltage",)


def test_torque_goes_off_everywhere_though_one_motor_is_silent(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    bus.enable_torque(num_retry=2)
    arm.fault(Fault("no_reply", motors=("shoulder_pan",)))
    with pytest.raises(DeviceError, match="shoulder_pan"):
        bus.disable_torque()
    assert not any(arm.torques.values())  # the silent one heard it, too


def test_unplugged_and_plugged_in_again(arm: SimulatedArm, bus: FeetechMotorsBus) -> None:
    bus.enable_torque()
    arm.unplug()
    with pytest.raises(DeviceError, match=r"(?s)the serial port is gone.*plug the arm's USB cable in"):
        bus.sync_read("Present_Position", num_retry=2)
    assert not bus.is_connected
    assert all(arm.torques.values())  # the motors have their power still
    with pytest.raises(DeviceError, match="cannot be opened"):
        bus.connect()
    arm.plug_in()
    bus.connect()
    assert set(bus.sync_read("Present_Position", num_retry=2)) == set(MOTORS)


@pytest.mark.parametrize("missing", [["gripper"], list(MOTORS)])
def test_connecting_says_who_is_missing(arm: SimulatedArm, missing: list[str]) -> None:
    arm.fault(Fault("no_reply", motors=tuple(missing)))
    bus = FeetechMotorsBus(arm.port, MOTORS)
    with pytest.raises(DeviceError) as caught:
        bus.connect()
    assert all(f"{name} (id {MOTORS[name].id})" in caught.value.problem for name in missing)
    assert ("power supply" in str(caught.value.fix)) == (len(missing) == 6)
    assert not bus.is_connected


def test_connecting_to_another_arm(arm: SimulatedArm) -> None:
    arm.servo("gripper").set("Model_Number", 2825)
    bus = FeetechMotorsBus(arm.port, MOTORS)
    with pytest.raises(DeviceError, match=r"(?s)another model.*gripper \(id 6\): sts3250"):
        bus.connect()


def test_connecting_to_mixed_firmware(arm: SimulatedArm) -> None:
    arm.servo("gripper").set("Firmware_Minor_Version", 9)
    bus = FeetechMotorsBus(arm.port, MOTORS)
    with pytest.raises(DeviceError, match=r"(?s)different firmware.*gripper: 3.9"):
        bus.connect()


def test_two_motors_with_one_id_are_as_none(arm: SimulatedArm) -> None:
    arm.servo("wrist_roll").set("ID", 6)
    arm.pose({"gripper": 40})
    bus = FeetechMotorsBus(arm.port, MOTORS)
    with pytest.raises(DeviceError, match=r"wrist_roll \(id 5\)"):
        bus.connect()

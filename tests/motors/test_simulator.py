"""The simulated servos behave as Feetech's manual says, so that what works with them works with an arm."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.calibration import load_calibration
from lerobot_ops.motors.feetech import FeetechMotorsBus
from lerobot_ops.motors.simulator import SimulatedArm, kinds, simulate
from lerobot_ops.motors.simulator.chain import SimulatedChain
from lerobot_ops.motors.simulator.control import act
from lerobot_ops.motors.simulator.packets import Request, request_packet, status_packet
from lerobot_ops.motors.simulator.servo import Joint, Servo, Supply

TORQUE, GOAL, POSITION, LOCK, ID = 40, 42, 56, 55, 5


def servo(**joint: float) -> Servo:
    return Servo(1, Joint("joint", **joint), Supply(), 0.0)


def after(servo: Servo, seconds: float) -> Servo:
    """The servo so much later, by a clock of its own."""
    servo.advance(servo._time + seconds)
    return servo


def goal(servo: Servo, steps: int) -> None:
    servo.write(GOAL, steps.to_bytes(2, "little"))


# Memory


def test_only_what_is_written_unlocked_outlives_the_supply() -> None:
    one = servo()
    one.write(ID, b"\x07")
    assert one.id == 7  # at once, but it is locked
    one.power_cycle()
    assert one.id == 1
    one.write(LOCK, b"\x00")
    one.write(ID, b"\x07")
    one.power_cycle()
    assert (one.id, one.get("Lock")) == (7, 1)


def test_some_registers_cannot_be_written() -> None:
    one = servo()
    one.write(POSITION, b"\x00\x00")
    one.write(3, b"\x00\x00")
    assert (one.read(POSITION, 2), one.get("Model_Number")) == (b"\x00\x08", 777)


def test_128_makes_here_the_middle() -> None:
    one = servo(middle=1000)
    one.write(TORQUE, b"\x80")
    assert int.from_bytes(one.read(POSITION, 2), "little") == 2048
    assert not one.torque


def test_a_reset_leaves_only_the_id() -> None:
    one = servo()
    one.write(LOCK, b"\x00")
    one.write(ID, b"\x09")
    one.write(21, b"\x01")
    one.reset()
    assert (one.id, one.get("P_Coefficient")) == (9, 32)


# Motion


def test_a_goal_switches_the_torque_on_and_is_kept_to_the_limits() -> None:
    one = servo()
    one.set("Max_Position_Limit", 2500)
    goal(one, 3000)
    assert one.torque
    assert after(one, 3).position == pytest.approx(2500, abs=1)


def test_without_torque_it_stays_and_switched_on_it_holds() -> None:
    one = servo()
    goal(one, 2600)
    after(one, 0.1).write(TORQUE, b"\x00")
    here = one.position
    assert 2048 < here < 2600
    assert after(one, 3).position == here
    one.write(TORQUE, b"\x01")
    assert after(one, 3).position == here


def test_velocity_and_acceleration_are_limited() -> None:
    one = servo(reach=None)
    one.set("Goal_Velocity", 500)
    one.write(41, b"\x0a")  # 1000 steps/s²
    goal(one, 3500)
    after(one, 0.25)
    assert one.velocity == pytest.approx(250, rel=0.05)
    after(one, 0.75)
    assert one.velocity == pytest.approx(500, rel=0.01)
    assert after(one, 5).position == pytest.approx(3500, abs=1)


def test_motion_does_not_depend_on_how_often_one_looks() -> None:
    often, seldom = servo(), servo()
    for each in (often, seldom):
        goal(each, 2700)
    for _ in range(50):
        after(often, 0.008)
    assert after(seldom, 0.4).position == pytest.approx(often.position, abs=1)


def test_gravity_pulls_and_integral_gain_holds_against_it() -> None:
    one = servo(gravity=24)
    one.set("P_Coefficient", 16)
    goal(one, 2048)
    sagged = after(one, 3).position
    assert sagged == pytest.approx(2048 - 12, abs=1.5)
    assert one.load == pytest.approx(24, abs=0.1)
    one.set("I_Coefficient", 1)
    assert after(one, 3).position == pytest.approx(2048, abs=1)
    one.write(TORQUE, b"\x00")
    one.place(60)
    one.write(TORQUE, b"\x01")
    assert after(one, 1).load == pytest.approx(12, abs=0.5)  # half the lever


def test_a_stop_strains_it_until_it_protects_itself() -> None:
    one = servo(reach=300)
    goal(one, 3000)
    assert after(one, 1).position == 2348
    assert abs(one.load) > 80
    assert one.current > 2000
    assert not one.error
    after(one, 2.5)
    assert one.error == 32
    assert abs(after(one, 0.1).load) <= 20
    one.write(TORQUE, b"\x00")
    assert not one.error


def test_it_warms_up_while_it_strains_and_cools_down() -> None:
    one = servo(gravity=70)
    one.write(TORQUE, b"\x01")
    for _ in range(120):
        after(one, 10)
    assert one.temperature > 70
    assert one.error == 4
    for _ in range(240):
        one.write(TORQUE, b"\x00")
        after(one, 10)
    assert one.temperature < 30


def test_wheels_turn() -> None:
    one = servo(reach=None)
    one.set("Operating_Mode", 1)
    one.write(46, (800 | 1 << 15).to_bytes(2, "little"))
    one.write(TORQUE, b"\x01")
    start = one.position
    after(one, 1)
    assert one.position - start == pytest.approx(-800, rel=0.05)
    assert one.get("Present_Velocity") == 0  # nobody has looked
    one.read(58, 2)
    assert one.get("Present_Velocity") == -800


@given(st.lists(st.tuples(st.integers(0, 4095), st.floats(0.001, 1.0)), min_size=1, max_size=8))
def test_no_joint_leaves_its_stops_or_its_speed(moves: list[tuple[int, float]]) -> None:
    one = servo(reach=800, gravity=30)
    for steps, seconds in moves:
        goal(one, steps)
        after(one, seconds)
        assert abs(one.position - 2048) <= 800
        assert abs(one.velocity) <= 3600
        assert 0 <= int.from_bytes(one.read(POSITION, 2), "little") <= 4095


# The wire


@pytest.fixture
def chain() -> SimulatedChain:
    supply = Supply()
    return SimulatedChain([Servo(number, Joint(f"joint_{number}"), supply, 0.0) for number in (1, 2, 3)], supply)


def ask(chain: SimulatedChain, motor_id: int, instruction: int, *parameters: int, baudrate: int = 1_000_000) -> bytes:
    request = Request(motor_id, instruction, bytes(parameters))
    return b"".join(reply.data for reply in chain.handle(request, 0.0, baudrate))


def test_each_instruction_is_answered_as_the_protocol_says(chain: SimulatedChain) -> None:
    everyone = b"".join(status_packet(each, 0) for each in (1, 2, 3))
    assert ask(chain, 0xFE, 1) == everyone
    assert ask(chain, 2, 1) == status_packet(2, 0)
    assert ask(chain, 2, 2, 5, 2) == status_packet(2, 0, b"\x02\x00")
    assert ask(chain, 2, 3, 41, 9) == status_packet(2, 0)
    assert ask(chain, 0xFE, 3, 41, 8) == b""
    assert ask(chain, 0xFE, 0x82, 41, 1, 3, 1, 9) == status_packet(3, 0, b"\x08") + status_packet(1, 0, b"\x08")
    assert ask(chain, 0xFE, 0x83, 41, 1, 1, 5, 3, 6) == b""
    assert [each.memory[41] for each in chain.servos] == [5, 8, 6]
    assert ask(chain, 9, 1) == b""
    assert ask(chain, 1, 1, baudrate=500_000) == b""
    assert ask(chain, 1, 77) == b""


def test_a_registered_writing_waits_for_its_action(chain: SimulatedChain) -> None:
    assert ask(chain, 1, 4, 41, 5) == status_packet(1, 0)
    assert chain.servos[0].memory[41] == 0
    assert ask(chain, 0xFE, 5) == b""
    assert chain.servos[0].memory[41] == 5


def test_a_servo_may_be_told_to_answer_only_to_questions(chain: SimulatedChain) -> None:
    ask(chain, 1, 3, 8, 0)
    assert ask(chain, 1, 3, 41, 5) == b""
    assert ask(chain, 1, 2, 41, 1) == status_packet(1, 0, b"\x05")


def test_servos_of_one_id_garble_each_other(chain: SimulatedChain) -> None:
    chain.servos[1].set("ID", 1)
    chain.servos[1].place(33)
    answer = ask(chain, 1, 2, POSITION, 2)
    assert answer not in [status_packet(1, 0, bytes(each.read(POSITION, 2))) for each in chain.servos]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40)), max_size=20))
def test_nothing_that_is_asked_breaks_a_servo(asked: list[tuple[int, int, bytes]]) -> None:
    supply = Supply()
    chain = SimulatedChain([Servo(number, Joint(f"joint_{number}"), supply, 0.0) for number in (1, 2)], supply)
    for number, (motor_id, instruction, parameters) in enumerate(asked):
        for reply in chain.handle(Request(motor_id, instruction, parameters), number * 0.01, 1_000_000):
            assert reply.data.startswith(b"\xff\xff")


@settings(deadline=None, max_examples=30)
@given(noise=st.binary(min_size=1, max_size=300))
def test_noise_on_the_port_breaks_no_arm(shared: SimulatedArm, noise: bytes) -> None:
    with open(shared.port, "r+b", buffering=0) as port:
        port.write(noise)
        time.sleep(0.015)
    bus = FeetechMotorsBus(shared.port, {})
    bus.connect(handshake=False)
    try:
        assert bus._chain.ping(0xFD, 0) is None
    finally:
        bus.disconnect()
    assert shared._thread.is_alive()


@pytest.fixture(scope="module")
def shared() -> Iterator[SimulatedArm]:
    with simulate("so101", timing=False) as arm:
        yield arm


# Arms


def test_a_follower_goes_where_a_hand_moves_the_leader() -> None:
    motors = kinds.motors("so101")
    with simulate("so101", name="leader") as leader, simulate("so101", name="follower") as follower:
        leader.hand(lambda now: {"shoulder_pan": 20 * math.sin(now), "gripper": -10})
        buses = [FeetechMotorsBus(arm.port, motors, arm.calibration) for arm in (leader, follower)]
        for bus in buses:
            bus.set_timeout(500)
            bus.connect()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            buses[1].sync_write("Goal_Position", buses[0].sync_read("Present_Position"))
            time.sleep(0.02)
        leader.hand(None)
        buses[1].sync_write("Goal_Position", buses[0].sync_read("Present_Position"))
        time.sleep(0.5)
        assert follower.angles["shoulder_pan"] == pytest.approx(leader.angles["shoulder_pan"], abs=0.3)
        assert leader.angles["gripper"] == pytest.approx(-10)
        assert follower.angles["gripper"] == pytest.approx(-10, abs=0.3)
        for bus in buses:
            bus.disconnect()


def test_a_port_is_a_link_that_outlives_the_cable(tmp_path: Path) -> None:
    with simulate("so101", name="arm", directory=tmp_path) as arm:
        assert arm.port == str(tmp_path / "arm")
        arm.unplug()
        assert not os.path.lexists(arm.port)
        arm.plug_in()
        assert os.path.realpath(arm.port).startswith("/dev/pts/")
    assert not os.path.lexists(arm.port)


def test_a_cable_may_be_pulled_as_often_as_one_likes() -> None:
    with simulate("so101") as arm:
        for _ in range(300):
            arm.unplug()
            arm.plug_in()
        with FeetechMotorsBus(arm.port, kinds.motors("so101")) as bus:
            assert bus.ping("gripper") == 777


def test_a_hand_that_fails_is_not_silent() -> None:
    arm = SimulatedArm("so101")
    arm.hand(lambda now: {"gripper": 1 / 0})
    with pytest.raises(DeviceError):
        FeetechMotorsBus(arm.port, kinds.motors("so101")).connect()
    with pytest.raises(ZeroDivisionError):
        arm.close()


def test_a_hand_may_be_quicker_than_registers_can_say() -> None:
    one = servo()
    one.hand = lambda now: 3000.0
    after(one, 1e-6)
    assert int.from_bytes(one.read(58, 2), "little") == 0x7FFF


def test_an_arm_obeys_words() -> None:
    with simulate("so101", name="one") as one, simulate("so101", name="two") as two:
        arms = {"one": one, "two": two}
        assert act(arms, "one: fault no_reply motors=gripper,elbow_flex count=2") != ""
        assert (one.faults[0].motors, one.faults[0].count, two.faults) == (("gripper", "elbow_flex"), 2, ())
        act(arms, "clear")
        assert one.faults == ()
        act(arms, "two: unplug")
        assert (one.plugged_in, two.plugged_in) == (True, False)
        act(arms, "pose gripper=12.5")
        assert two.angles["gripper"] == pytest.approx(12.5)
        assert "gripper 12.5°" in act(arms, "one: status")
        assert "did you mean 'no_reply'" in act(arms, "fault noreply")
        assert "choose one of one, two" in act(arms, "three: clear")
        assert "fault KIND" in act(arms, "dance")
        assert "error" in act(arms, "pose gripper=much")
        assert "error" in act(arms, "pose gripper")
        assert "did you mean 'count'" in act(arms, "fault no_reply cont=1")


def test_arms_in_a_process_of_their_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from lerobot_ops.cli import main; main()", "simulate-arm"]
    command += ["--names=[leader, follower]", f"--directory={tmp_path}", "--waved=[leader]"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"leader: port {tmp_path}/leader, calibration {tmp_path}/leader.json\n"
        process.stdout.readline()
        bus = FeetechMotorsBus(
            str(tmp_path / "leader"), kinds.motors("so101"), load_calibration(tmp_path / "leader.json")
        )
        bus.set_timeout(500)
        with bus:
            assert bus.is_calibrated
            first = bus.sync_read("Present_Position")
            time.sleep(0.3)
            assert bus.sync_read("Present_Position") != first
        process.stdin.write("follower: fault no_reply\n")
        process.stdin.flush()
        assert process.stdout.readline() == "follower: fault no_reply\n"
        process.stdin.close()  # no more words: the arms stay
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert not os.path.lexists(tmp_path / "leader")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_leaves_a_host_is_what_a_servo_reads() -> None:
    assert request_packet(1, 2, b"\x38\x02") == bytes.fromhex("ff ff 01 04 02 38 02 be")  # Feetech's manual, reading

"""Teleoperators: scripted ones, the keyboard, a gamepad, and leader arms on a simulated bus."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.calibration import save_calibration
from lerobot_ops.motors.simulator import SimulatedArm, simulate
from lerobot_ops.motors.so_arm import MOTORS
from lerobot_ops.teleoperators import gamepad as pads
from lerobot_ops.teleoperators.keyboard import Keyboard, KeyboardEE
from lerobot_ops.teleoperators.registry import AnyTeleoperatorConfig, make_teleoperator
from lerobot_ops.teleoperators.scripted import Wave
from lerobot_ops.teleoperators.so_leader import SOLeader

KEYS = tuple(f"{name}.pos" for name in MOTORS)
HOME = dict.fromkeys(KEYS, 0.0)


def teleoperator(**settings: object) -> Any:
    return make_teleoperator(TypeAdapter(AnyTeleoperatorConfig).validate_python(settings))


# Scripted


def test_the_same_calls_give_the_same_actions() -> None:
    with teleoperator(type="scripted") as first, teleoperator(type="scripted") as second:
        actions = [first.get_action() for _ in range(50)]
        time.sleep(0.05)  # a late call changes nothing
        assert actions == [second.get_action() for _ in range(50)]
        assert tuple(actions[0]) == KEYS == tuple(first.action_features)
        first.connect()
        assert first.get_action() == actions[0]
    with pytest.raises(DeviceError, match="not connected"):
        first.get_action()


def test_waves_are_what_is_asked_for() -> None:
    wave = Wave(centre=10, amplitude=5, period_s=2, phase=0.25)
    assert wave.at(0) == 15
    assert wave.at(1) == pytest.approx(5)
    with teleoperator(type="scripted", fps=10, waves={"x.pos": wave, "y.pos": {}}) as scripted:
        for call in range(5):
            assert scripted.get_action() == {"x.pos": wave.at(call / 10), "y.pos": Wave().at(call / 10)}


def test_a_recorded_episode_is_given_at_its_own_rate(tmp_path: Path) -> None:
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": ["a.pos", "b.pos"]},
        "action": {"dtype": "float32", "shape": [2], "names": ["a.pos", "b.pos"]},
    }
    with DatasetWriter.create(tmp_path / "data", fps=10, features=features, robot_type="arm") as writer:
        for episode in range(2):
            for frame in range(5):
                row = np.array([frame, 10 * episode], np.float32)
                writer.add_frame({"observation.state": row, "action": row, "task": "move"})
            writer.save_episode()
    with teleoperator(type="scripted", fps=20, dataset=tmp_path / "data", episode=1) as scripted:
        assert list(scripted.action_features) == ["a.pos", "b.pos"]
        given = [scripted.get_action() for _ in range(12)]
    assert [action["a.pos"] for action in given[::2]] == [0, 1, 2, 3, 4, 4]  # the last one is held
    assert {action["b.pos"] for action in given} == {10}


def test_interventions_are_scripted_by_calls() -> None:
    with teleoperator(type="scripted", interventions=[(2, 4), (6, 7)]) as scripted:
        leads = []
        for _ in range(8):
            scripted.get_action()
            leads.append(scripted.get_teleop_events().is_intervention)
    assert leads == [False, False, True, True, False, False, True, False]


# Keyboard


def test_keys_move_joints_from_where_the_robot_is_and_no_farther_than_it_may() -> None:
    keyboard = Keyboard(TypeAdapter(AnyTeleoperatorConfig).validate_python({"type": "keyboard"}))
    with pytest.raises(DeviceError, match="not connected"):
        keyboard.get_action()
    keyboard._listening = ExitStack()  # as if a terminal were there: test_keys.py has one
    with pytest.raises(DeviceError, match="where the robot is"):
        keyboard.get_action()
    keyboard.begin(HOME | {"shoulder_pan.pos": 7.0, "gripper.pos": 98.0}, {"gripper.pos": (0, 100)})
    assert keyboard.get_action() == HOME | {"shoulder_pan.pos": 7.0, "gripper.pos": 98.0}
    assert not keyboard.get_teleop_events().is_intervention
    for key in ("d", "d", "a", "o", "o", "n", "w"):
        keyboard.keys.put(key)
    moved = {"shoulder_pan.pos": 9.0, "gripper.pos": 100.0, "shoulder_lift.pos": 2.0}
    assert keyboard.get_action() == HOME | moved
    assert keyboard.get_teleop_events().is_intervention
    keyboard.begin(HOME, {})
    assert keyboard.get_action() == HOME
    with pytest.raises(DeviceError, match="does not have the joints"):
        keyboard.begin({"left_shoulder_pan.pos": 0.0}, {})
    keyboard.disconnect()
    assert not keyboard.is_connected


def test_two_joints_do_not_share_a_key() -> None:
    with pytest.raises(ValidationError, match="used more than once: a"):
        teleoperator(type="keyboard", joints={"x.pos": {"less": "a", "more": "b"}, "y.pos": {"less": "c", "more": "a"}})


def test_held_keys_are_end_effector_deltas() -> None:
    keyboard = KeyboardEE(TypeAdapter(AnyTeleoperatorConfig).validate_python({"type": "keyboard_ee"}))
    assert list(keyboard.action_features) == ["delta_x", "delta_y", "delta_z", "gripper"]
    keyboard._listening = ExitStack()
    still = {"delta_x": 0.0, "delta_y": 0.0, "delta_z": 0.0, "gripper": 1.0}
    assert keyboard.get_action() == still
    for key in ("w", "a", "o"):
        keyboard.keys.put(key)
    assert keyboard.get_action() == {"delta_x": 1.0, "delta_y": -1.0, "delta_z": 0.0, "gripper": 2.0}
    assert keyboard.get_teleop_events().is_intervention
    end = time.monotonic() + 10
    while keyboard.get_action() != still:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not keyboard.get_teleop_events().is_intervention
    assert "gripper" not in teleoperator(type="keyboard_ee", use_gripper=False).action_features


# Gamepad


@pytest.fixture
def pygame() -> Iterator[Any]:
    module, controller = pads._pygame()
    module.display.init()
    controller.init()
    yield module
    controller.quit()
    module.display.quit()


def plugged_in(pygame: Any, **settings: object) -> pads.Gamepad:
    """A gamepad whose events the test posts: nothing here makes a device of its own."""
    made = teleoperator(type="gamepad", **settings)
    made._pygame = pygame
    return made


def push(pygame: Any, axis: int, deflection: float) -> None:
    value = round(deflection * pads.FULL)
    pygame.event.post(pygame.event.Event(pygame.CONTROLLERAXISMOTION, axis=axis, value=value, instance_id=0))


def press(pygame: Any, button: int, kind: str = "CONTROLLERBUTTONDOWN") -> None:
    pygame.event.post(pygame.event.Event(getattr(pygame, kind), button=button, instance_id=0))


def test_without_a_gamepad_it_says_what_to_do() -> None:
    with pytest.raises(DeviceError, match="there is no such gamepad"):
        teleoperator(type="gamepad").connect()


def test_sticks_and_triggers_are_end_effector_deltas(pygame: Any) -> None:
    pad = plugged_in(pygame)
    assert list(pad.action_features) == ["delta_x", "delta_y", "delta_z", "gripper"]
    assert pad.get_action() == {"delta_x": 0, "delta_y": 0, "delta_z": 0, "gripper": 1}
    push(pygame, pads.LEFT_Y, -1.0)  # forwards
    push(pygame, pads.LEFT_X, 0.5)
    push(pygame, pads.RIGHT_Y, 0.05)  # within the dead zone
    push(pygame, pads.RIGHT_TRIGGER, 1.0)
    action = pad.get_action()
    assert action == {"delta_x": 1.0, "delta_y": pytest.approx(-0.5, abs=1e-3), "delta_z": 0.0, "gripper": 0.0}
    push(pygame, pads.RIGHT_TRIGGER, 0.0)
    push(pygame, pads.LEFT_TRIGGER, 1.0)
    assert pad.get_action()["gripper"] == 2.0


def test_buttons_are_what_lerobot_makes_of_them(pygame: Any) -> None:
    pad = plugged_in(pygame)
    press(pygame, pads.RIGHT_SHOULDER)
    press(pygame, pads.Y)
    events = pad.get_teleop_events()
    assert (events.is_intervention, events.success, events.terminate_episode) == (True, True, False)
    assert pad.get_teleop_events().success is False  # told once
    press(pygame, pads.RIGHT_SHOULDER, "CONTROLLERBUTTONUP")
    press(pygame, pads.X)
    events = pad.get_teleop_events()
    assert (events.is_intervention, events.rerecord_episode, events.terminate_episode) == (False, True, True)


def test_sticks_move_joints_from_where_the_robot_is(pygame: Any) -> None:
    pad = plugged_in(pygame, mode="joints")
    assert tuple(pad.action_features) == KEYS
    pad.begin(HOME, {"shoulder_pan.pos": (-1.0, 1.0)})
    push(pygame, pads.LEFT_X, 1.0)
    push(pygame, pads.LEFT_Y, -1.0)
    press(pygame, pads.DOWN)
    assert pad.get_action() == HOME  # no time has passed
    end = time.monotonic() + 10
    while (action := pad.get_action())["shoulder_pan.pos"] < 1.0:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert action["shoulder_pan.pos"] == 1.0
    assert action["shoulder_lift.pos"] > 0 > action["wrist_flex.pos"]
    assert action["gripper.pos"] == 0


def test_sticks_push_the_end_effector_of_an_arm_that_takes_joint_targets(pygame: Any) -> None:
    arm = Path(__file__).parents[1] / "data/arm.urdf"
    pad = plugged_in(pygame, end_effector={"urdf_path": arm}, use_gripper=False)
    assert tuple(pad.action_features) == KEYS[:5]
    pad.begin(HOME, {})
    push(pygame, pads.LEFT_X, -1.0)  # to the left: only the shoulder turns at first
    pad.get_action()
    end = time.monotonic() + 10
    while (action := pad.get_action())["shoulder_pan.pos"] > -1.0:  # its axis points down
        assert time.monotonic() < end
        time.sleep(0.01)
    assert all(abs(action[key]) < 1.0 for key in KEYS[1:4])


def test_an_unplugged_gamepad_stops_everything(pygame: Any) -> None:
    pad = plugged_in(pygame)
    push(pygame, pads.LEFT_Y, -1.0)
    pygame.event.post(pygame.event.Event(pygame.CONTROLLERDEVICEREMOVED, instance_id=0))
    with pytest.raises(DeviceError, match="gone"):
        pad.get_action()


# Leader arms


@pytest.fixture
def arm() -> Iterator[SimulatedArm]:
    with simulate("so101", timing=False) as simulated:
        yield simulated


def leader(arm: SimulatedArm, folder: Path, **settings: object) -> SOLeader:
    save_calibration(folder / "mine.json", arm.calibration)
    settings = {"num_read_retries": 20} | settings  # other work may hold this machine
    return teleoperator(type="so101_leader", port=arm.port, id="mine", calibration_dir=folder, **settings)


def test_a_leader_is_limp_and_says_where_a_hand_moves_it(arm: SimulatedArm, tmp_path: Path) -> None:
    with leader(arm, tmp_path) as teleop:
        assert tuple(teleop.action_features) == KEYS == tuple(teleop.feedback_features)
        arm.pose({"shoulder_pan": 33.0})
        assert teleop.get_action()["shoulder_pan.pos"] == pytest.approx(33, abs=0.2)
        arm.hand(lambda seconds: {"shoulder_pan": 33.0 + 10 * math.sin(seconds)})
        assert not any(arm.torques.values())
    with leader(arm, tmp_path, use_degrees=False) as teleop:
        assert -100 <= teleop.get_action()["shoulder_pan.pos"] <= 100


def test_a_leader_follows_the_follower_until_the_operator_takes_over(arm: SimulatedArm, tmp_path: Path) -> None:
    with leader(arm, tmp_path) as teleop:
        goal = {"wrist_flex.pos": 20.0}
        end = time.monotonic() + 20
        while abs(arm.angles["wrist_flex"] - 20) > 3:
            assert time.monotonic() < end
            teleop.send_feedback(goal)
            time.sleep(0.02)
        assert all(arm.torques.values())
        teleop.get_action()
        assert all(arm.torques.values())
        teleop.begin(goal, {})
        assert not any(arm.torques.values())
        teleop.send_feedback(goal)
        (release,) = teleop.releases()
        release.send()  # as a watchdog does
        end = time.monotonic() + 5
        while any(arm.torques.values()) and time.monotonic() < end:
            time.sleep(0.01)
        assert not any(arm.torques.values())
        teleop.begin(goal, {})
        teleop.send_feedback(goal)
        assert all(arm.torques.values())
        with pytest.raises(DeviceError, match="nothing that a leader arm can feel"):
            teleop.send_feedback({"left_wrist_flex.pos": 1.0})
    assert not any(arm.torques.values())


def test_two_leaders_are_one_teleoperator(tmp_path: Path) -> None:
    with simulate("so101", timing=False) as left, simulate("so101", timing=False) as right:
        for side, each in (("left", left), ("right", right)):
            save_calibration(tmp_path / f"pair_{side}.json", each.calibration)
        left.pose({"elbow_flex": 11.0})
        right.pose({"elbow_flex": -12.0})
        ports = {"left_arm_config": {"port": left.port}, "right_arm_config": {"port": right.port}}
        with teleoperator(type="bi_so_leader", id="pair", calibration_dir=tmp_path, **ports) as teleop:
            action = teleop.get_action()
            assert list(action) == [f"{side}_{key}" for side in ("left", "right") for key in KEYS]
            assert action["left_elbow_flex.pos"] == pytest.approx(11, abs=0.2)
            assert action["right_elbow_flex.pos"] == pytest.approx(-12, abs=0.2)
            teleop.send_feedback(action)
            assert all([*left.torques.values(), *right.torques.values()])
            teleop.begin(action, {})
            assert not any([*left.torques.values(), *right.torques.values()])

"""An arm whose end effector is pushed about: its kinematics, how it moves, and the keyboard that moves it."""

import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from lerobot_ops.errors import ConfigError, DeviceError
from lerobot_ops.teleoperators.end_effector import JOINT_SPEED, EndEffectorConfig, EndEffectorJog
from lerobot_ops.teleoperators.keyboard import KeyboardEE
from lerobot_ops.teleoperators.kinematics import Kinematics
from lerobot_ops.teleoperators.registry import AnyTeleoperatorConfig

URDF = Path(__file__).parents[1] / "data/arm.urdf"
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
LIMITS = {name: (-100.0 - number, 100.0 + number) for number, name in enumerate(JOINTS)}
BENT = dict.fromkeys(JOINTS, 0.0) | {"shoulder_lift": -30.0, "elbow_flex": 40.0, "wrist_flex": 30.0}
TICK = 1 / 30


@pytest.fixture(scope="module")
def arm() -> Kinematics:
    return Kinematics(URDF, "gripper_frame_link")


def keyed(joints: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}.pos": value for name, value in joints.items()}


def jog(**settings: Any) -> EndEffectorJog:
    made = EndEffectorJog(EndEffectorConfig(urdf_path=URDF, **settings), gripper=True)
    made.begin(keyed(BENT | {"gripper": 20.0}), keyed(LIMITS | {"gripper": (0.0, 100.0)}))
    return made


def pose(arm: Kinematics, made: EndEffectorJog) -> np.ndarray:
    targets = made.targets()
    return arm.forward([targets[f"{name}.pos"] for name in JOINTS])


def test_the_chain_is_that_of_the_link_whatever_its_meshes_and_masses_are(arm: Kinematics) -> None:
    assert arm.joint_names == JOINTS  # not the gripper, which moves a jaw
    assert Kinematics(URDF, "lower_arm").joint_names == JOINTS[:3]
    assert arm.front() == pytest.approx([1, 0, 0])
    # Added up by hand from the file.
    reach, height = 0.039 + 0.030 + 0.028 + 0.1349 + 0.0611 + 0.0981, 0.062 + 0.054 + 0.1126 + 0.0052
    assert arm.forward([0] * 5)[:3, 3] == pytest.approx([reach, 0, height])
    turned = arm.forward([-90, 0, 0, 0, 0])  # its axis points down
    assert turned[:3, 3] == pytest.approx([0.039, reach - 0.039, height])
    assert arm.forward([0, 0, 0, 0, 35])[:3, 3] == pytest.approx([reach, 0, height])


def test_joints_are_found_for_every_pose_that_there_is(arm: Kinematics) -> None:
    chance, limits = np.random.default_rng(0), list(LIMITS.values())
    for _ in range(300):
        there = chance.uniform(-95, 95, 5)
        wanted = arm.forward(there)
        found = arm.inverse(np.clip(there + chance.normal(0, 4, 5), -100, 100), wanted, limits)
        assert np.abs(arm.forward(found)[:3, 3] - wanted[:3, 3]).max() < 1e-6
        assert np.abs(arm.forward(found)[:3, :3] - wanted[:3, :3]).max() < 2e-3
        assert all(low <= value <= high for value, (low, high) in zip(found, limits, strict=True))


def test_a_joint_at_its_limit_stays_there_and_the_others_make_up_for_it(arm: Kinematics) -> None:
    limits = [*LIMITS.values()]
    limits[1] = (-31.0, 31.0)
    start = list(BENT.values())
    wanted = arm.forward(start)
    wanted[:3, 3] += [-0.06, 0.0, 0.02]
    assert arm.inverse(start, wanted, list(LIMITS.values()))[1] < -35
    found = arm.inverse(start, wanted, limits)
    assert found[1] == pytest.approx(-31.0)
    assert np.abs(arm.forward(found)[:3, 3] - wanted[:3, 3]).max() < 1e-6


def test_it_moves_straight_as_fast_as_it_is_told_and_keeps_its_orientation(arm: Kinematics) -> None:
    made = jog(speed=0.09)
    before = pose(arm, made)
    directions = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0), (0, 0, -1)]
    corner = before[:3, 3]
    for direction in directions:
        for tick in range(1, 16):
            made.move(*direction, 0, TICK)
            wanted = corner + np.array(direction) * 0.003 * tick
            assert np.abs(pose(arm, made)[:3, 3] - wanted).max() < 1e-5
        corner = wanted
    after = pose(arm, made)
    assert np.abs(after - before).max() < 1e-3
    made = jog()
    for _ in range(20):
        made.move(1, 0, -1, 0, TICK)
    assert np.abs(pose(arm, made)[:3, :3] - before[:3, :3]).max() < 1e-3


def test_it_stays_where_nothing_pushes(arm: Kinematics) -> None:
    made = jog()
    before = made.targets()
    made.move(0, 0, 0, 0, TICK)
    assert made.targets() == before
    made.move(0, 0, 0, 1, 0.5)
    assert made.targets() == before | {"gripper.pos": 70.0}
    made.move(0, 0, 0, 1, 0.5)
    assert made.targets() == before | {"gripper.pos": 100.0}


def test_beyond_its_reach_it_stops_and_comes_back_at_once(arm: Kinematics) -> None:
    made = jog()
    line = pose(arm, made)[1:3, 3]
    for _ in range(300):
        before = made.targets()
        made.move(1, 0, 0, 0, TICK)
        after = made.targets()
        assert max(abs(after[key] - before[key]) for key in after) <= JOINT_SPEED * TICK + 1e-9
        assert all(LIMITS[name][0] <= after[f"{name}.pos"] <= LIMITS[name][1] for name in JOINTS)
        assert np.abs(pose(arm, made)[1:3, 3] - line).max() < 2e-4  # it does not slip aside
    end = pose(arm, made)[:3, 3]
    stretched = math.hypot(0.028, 0.1126) + math.hypot(0.1349, 0.0052) + 0.0611 + 0.0981
    assert np.linalg.norm(end - [0.069, 0.0, 0.116]) == pytest.approx(stretched, abs=2e-3)
    for _ in range(30):
        made.move(-1, 0, 0, 0, TICK)
    assert pose(arm, made)[0, 3] < end[0] - 0.04


def test_it_stays_within_bounds_and_may_come_back_from_outside(arm: Kinematics) -> None:
    made = jog()
    height = pose(arm, made)[2, 3]
    made = jog(bounds={"z": (height - 0.02, height + 0.5)})
    for _ in range(30):
        made.move(0, 0, -1, 0, TICK)
    assert pose(arm, made)[2, 3] == pytest.approx(height - 0.02, abs=1e-5)
    made = jog(bounds={"z": (height + 0.01, height + 0.5)})
    made.move(0, 0, -1, 0, TICK)
    assert pose(arm, made)[2, 3] == pytest.approx(height, abs=1e-5)
    made.move(0, 0, 1, 0, TICK)
    assert pose(arm, made)[2, 3] == pytest.approx(height + 0.1 * TICK, abs=1e-5)


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Kinematics(tmp_path / "missing.urdf", "gripper_frame_link")
    (tmp_path / "broken.urdf").write_text("<robot>")
    with pytest.raises(ConfigError, match="cannot be read"):
        Kinematics(tmp_path / "broken.urdf", "gripper_frame_link")
    with pytest.raises(ConfigError, match="gripper_frame_link"):
        Kinematics(URDF, "gripper_frame")
    with pytest.raises(ConfigError, match="not moved by joints that turn"):
        Kinematics(URDF, "base_link")
    (tmp_path / "sliding.urdf").write_text(URDF.read_text().replace('"revolute"', '"prismatic"'))
    with pytest.raises(ConfigError, match="not moved by joints that turn"):
        Kinematics(tmp_path / "sliding.urdf", "gripper_frame_link")
    with pytest.raises(ValidationError, match="lowest, then the highest: z"):
        EndEffectorConfig(urdf_path=URDF, bounds={"z": (0.2, 0.1)})


def test_a_robot_that_does_not_fit_is_told_so() -> None:
    made = EndEffectorJog(EndEffectorConfig(urdf_path=URDF), gripper=True)
    with pytest.raises(DeviceError, match="where the robot is"):
        made.targets()
    with pytest.raises(DeviceError, match="does not have the joints"):
        made.begin({"joint.pos": 0.0}, {})
    with pytest.raises(DeviceError, match="use_degrees"):
        made.begin(keyed(BENT | {"gripper": 0.0}), keyed(dict.fromkeys(JOINTS, (-100.0, 100.0))))


def test_held_keys_move_an_arm_that_takes_joint_targets() -> None:
    made = TypeAdapter(AnyTeleoperatorConfig).validate_python(
        {"type": "keyboard_ee", "end_effector": {"urdf_path": URDF, "speed": 0.1}}
    )
    keyboard = KeyboardEE(made)
    assert list(keyboard.action_features) == [*keyed(BENT), "gripper.pos"]
    keyboard._listening = ExitStack()  # as if a terminal were there: test_keys.py has one
    keyboard.begin(keyed(BENT | {"gripper": 20.0}), keyed(LIMITS))
    assert keyboard.get_action() == keyed(BENT | {"gripper": 20.0})
    arm = Kinematics(URDF, "gripper_frame_link")
    start = arm.forward([*BENT.values()])[:3, 3]
    for key, axis, direction in (("w", 0, 1), ("s", 0, -1), ("a", 1, 1), ("d", 1, -1), ("i", 2, 1), ("k", 2, -1)):
        keyboard.begin(keyed(BENT | {"gripper": 20.0}), keyed(LIMITS))
        keyboard.keys.put(key)
        keyboard.get_action()
        time.sleep(0.05)
        keyboard.keys.put(key)  # still held, however long that took
        action = keyboard.get_action()
        moved = arm.forward([action[key] for key in keyed(BENT)])[:3, 3] - start
        assert 0.0045 < moved[axis] * direction <= 0.0101  # 0.05 s, or as long as a busy machine took
        assert np.abs(np.delete(moved, axis)).max() < 1e-5
        keyboard._pressed_at.clear()

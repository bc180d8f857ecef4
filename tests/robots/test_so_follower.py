"""A follower arm on a simulated bus: features, calibration, limits of what is sent, and the torque."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lerobot_ops.cameras.pattern import pattern_number
from lerobot_ops.errors import ConfigError, DeviceError
from lerobot_ops.motors.calibration import save_calibration
from lerobot_ops.motors.simulator import Fault, SimulatedArm, simulate
from lerobot_ops.motors.so_arm import MOTORS, calibration_home
from lerobot_ops.robots.registry import make_robot
from lerobot_ops.robots.so_follower import SOFollower
from lerobot_ops.robots.so_follower_config import BiSOFollowerConfig, SO101FollowerConfig, SOArmConfig

HOME = dict.fromkeys((f"{name}.pos" for name in MOTORS), 0.0) | {"gripper.pos": 50.0}
PATTERN = {"type": "pattern", "width": 64, "height": 48}


@pytest.fixture
def arm() -> Iterator[SimulatedArm]:
    with simulate("so101", timing=False) as simulated:
        yield simulated


def follower(arm: SimulatedArm, folder: Path, **settings: object) -> SOFollower:
    save_calibration(folder / "mine.json", arm.calibration)
    settings = {"num_read_retries": 20} | settings  # other work may hold this machine
    robot = make_robot(SO101FollowerConfig(port=arm.port, id="mine", calibration_dir=folder, **settings))
    assert isinstance(robot, SOFollower)
    return robot


def limp(arm: SimulatedArm) -> bool:
    """Whether the torque goes off: packets that nobody answers take a moment."""
    until = time.monotonic() + 10
    while any(arm.torques.values()) and time.monotonic() < until:
        time.sleep(0.005)
    return not any(arm.torques.values())


def reach(robot: SOFollower, goal: dict[str, float], within: float = 3.0) -> dict[str, float]:
    """Ask for `goal` until the robot is there; returns what it says of itself then."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        seen = robot.get_observation()
        if all(abs(seen[key] - value) < within for key, value in goal.items()):
            return seen
        robot.send_action(goal)
        time.sleep(0.01)
    raise AssertionError(f"the arm is at { {key: seen[key] for key in goal} }")


def test_features_and_limits_are_known_before_it_is_connected(arm: SimulatedArm, tmp_path: Path) -> None:
    robot = follower(arm, tmp_path, cameras={"front": PATTERN}, joint_limits={"gripper": (10, 90)})
    assert list(robot.observation_features) == [*HOME, "front"]
    assert robot.observation_features["front"] == (48, 64, 3)
    assert robot.action_features == dict.fromkeys(HOME, float)
    assert robot.limits["gripper.pos"] == (10, 90)
    low, high = robot.limits["shoulder_pan.pos"]
    assert low == -high == pytest.approx(-1280 * 360 / 4095)


def test_it_goes_where_it_is_sent_and_sees_what_its_camera_sees(arm: SimulatedArm, tmp_path: Path) -> None:
    goal = HOME | {"shoulder_pan.pos": 30.0, "gripper.pos": 80.0}
    with follower(arm, tmp_path, cameras={"front": PATTERN}) as robot:
        seen = reach(robot, goal)
        assert arm.angles["shoulder_pan"] == pytest.approx(30, abs=3)
        assert seen["front"].shape == (48, 64, 3)
        assert pattern_number(seen["front"]) >= 0
        now = time.perf_counter()
        assert set(robot.observed_at) == {"state", "front"}
        assert all(0 <= now - at < 5 for at in robot.observed_at.values())
    assert not any(arm.torques.values())


def test_the_torque_comes_with_the_first_action_without_a_leap(arm: SimulatedArm, tmp_path: Path) -> None:
    arm.pose({"elbow_flex": 40.0})
    with follower(arm, tmp_path) as robot:
        robot.get_observation()
        assert not any(arm.torques.values())
        sent = robot.send_action({"shoulder_pan.pos": 1.0})
        assert sent == {"shoulder_pan.pos": pytest.approx(1.0, abs=0.1)}
        assert all(arm.torques.values())
        time.sleep(0.1)
        assert arm.angles["elbow_flex"] == pytest.approx(40, abs=1)  # it holds where it was found


@pytest.mark.parametrize("limit", [5, 5.0, {"shoulder_pan": 5}])
def test_a_goal_is_brought_near_to_where_the_joint_is(arm: SimulatedArm, tmp_path: Path, limit: object) -> None:
    with follower(arm, tmp_path, max_relative_target=limit, max_velocity=None) as robot:
        assert robot.send_action({"shoulder_pan.pos": 60.0})["shoulder_pan.pos"] == pytest.approx(5, abs=0.2)


def test_limits_of_distance_and_speed_are_on_by_default_and_can_be_taken_off(arm: SimulatedArm, tmp_path: Path) -> None:
    with follower(arm, tmp_path) as robot:
        first = robot.send_action({"shoulder_pan.pos": 100.0})["shoulder_pan.pos"]
        assert first == pytest.approx(200 / 30, abs=0.2)
    with follower(arm, tmp_path, max_velocity=None) as robot:
        assert robot.send_action({"shoulder_pan.pos": 100.0})["shoulder_pan.pos"] < 60
    with follower(arm, tmp_path, max_velocity=None, max_relative_target=None) as robot:
        assert robot.send_action({"shoulder_pan.pos": 100.0})["shoulder_pan.pos"] == 100


def test_a_goal_moves_no_faster_than_allowed(arm: SimulatedArm, tmp_path: Path) -> None:
    with follower(arm, tmp_path, max_velocity={"shoulder_pan": 20.0}, max_relative_target=None) as robot:
        begin, before = time.perf_counter(), 0.0
        for _ in range(20):
            now = robot.send_action({"shoulder_pan.pos": 90.0})["shoulder_pan.pos"]
            assert now >= before
            before = now
            time.sleep(0.01)
        assert 0 < before <= 20 * (time.perf_counter() - begin + 1 / 30) + 0.2


def test_joints_stay_in_their_calibrated_range(arm: SimulatedArm, tmp_path: Path) -> None:
    unlimited = {"max_velocity": None, "max_relative_target": None, "joint_limits": {"elbow_flex": (-20, 20)}}
    with follower(arm, tmp_path, **unlimited) as robot:
        sent = robot.send_action({"shoulder_pan.pos": 500.0, "elbow_flex.pos": -90.0, "gripper.pos": -3.0})
        end = robot.limits["shoulder_pan.pos"][1]
        assert sent == {"shoulder_pan.pos": end, "elbow_flex.pos": -20, "gripper.pos": 0}


def test_an_action_that_makes_no_sense_is_not_sent(arm: SimulatedArm, tmp_path: Path) -> None:
    with follower(arm, tmp_path) as robot:
        with pytest.raises(DeviceError, match="not a number"):
            robot.send_action({"shoulder_pan.pos": math.nan})
        with pytest.raises(ConfigError, match="shoulder_pan"):
            robot.send_action({"shoulder_pam.pos": 1.0})
        assert not any(arm.torques.values())


def test_stopped_from_another_thread_it_takes_no_more_actions(arm: SimulatedArm, tmp_path: Path) -> None:
    with follower(arm, tmp_path) as robot:
        robot.send_action(HOME)
        assert all(arm.torques.values())
        thread = threading.Thread(target=robot.stop)
        thread.start()
        thread.join()
        robot.stop()
        assert limp(arm)
        with pytest.raises(DeviceError, match="stopped"):
            robot.send_action(HOME)
        assert not any(arm.torques.values())
        robot.disconnect()
        robot.connect()
        robot.send_action(HOME)
        assert all(arm.torques.values())


def test_a_stop_is_not_undone_by_an_action_that_was_on_its_way(arm: SimulatedArm, tmp_path: Path) -> None:
    with follower(arm, tmp_path, num_read_retries=200) as robot:
        arm.fault(Fault("no_reply", motors=("gripper",)))
        refused: list[DeviceError] = []

        def act() -> None:
            try:
                robot.send_action(HOME)  # waits for the gripper
            except DeviceError as error:
                refused.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        time.sleep(0.1)
        robot.stop()
        arm.clear_faults()
        thread.join(30)
        assert "stopped" in str(refused[0])
        assert limp(arm)


def test_it_can_be_plugged_in_again(arm: SimulatedArm, tmp_path: Path) -> None:
    robot = follower(arm, tmp_path, cameras={"front": PATTERN})
    robot.connect()
    with pytest.raises(DeviceError, match="connected already"):
        robot.connect()
    robot.send_action(HOME)  # which was not disturbed
    arm.unplug()
    with pytest.raises(DeviceError):
        robot.get_observation()
    assert not robot.is_connected
    robot.stop()
    arm.plug_in()
    robot.connect()
    assert len(robot.get_observation()) == 7
    robot.disconnect()
    assert not any(arm.torques.values())


def test_limits_that_leave_nothing_are_refused(arm: SimulatedArm, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"joint_limits.elbow_flex"):
        _ = follower(arm, tmp_path, joint_limits={"elbow_flex": (170, 180)}).limits


def test_it_is_stopped_although_its_motors_do_not_answer(arm: SimulatedArm, tmp_path: Path) -> None:
    robot = follower(arm, tmp_path, num_read_retries=2)
    robot.connect()
    robot.send_action(HOME)
    arm.fault("no_reply")
    with pytest.raises(DeviceError, match="Present_Position"):
        robot.get_observation()
    robot.stop()
    assert limp(arm)
    with pytest.raises(DeviceError):
        robot.disconnect()  # no motor confirms
    assert not robot.is_connected


def test_the_packets_for_a_watchdog_take_the_torque_off(arm: SimulatedArm, tmp_path: Path) -> None:
    with follower(arm, tmp_path) as robot:
        robot.send_action(HOME)
        (release,) = robot.releases()
        release.send()
        assert limp(arm)


def test_it_may_stay_stiff_when_it_is_disconnected_but_not_when_it_was_stopped(
    arm: SimulatedArm, tmp_path: Path
) -> None:
    with follower(arm, tmp_path, disable_torque_on_disconnect=False) as robot:
        robot.send_action(HOME)
    assert all(arm.torques.values())
    with follower(arm, tmp_path, disable_torque_on_disconnect=False) as robot:
        robot.send_action(HOME)
        robot.stop()
    assert not any(arm.torques.values())


def test_its_motors_are_configured_and_say_how_they_are(arm: SimulatedArm, tmp_path: Path) -> None:
    with follower(arm, tmp_path, position_p_coefficient=12) as robot:
        assert robot.bus.sync_read("P_Coefficient") == dict.fromkeys(MOTORS, 12)
        assert robot.bus.sync_read("D_Coefficient") == dict.fromkeys(MOTORS, 32)
        assert robot.bus.sync_read("Return_Delay_Time") == dict.fromkeys(MOTORS, 0)
        assert robot.bus.read("Max_Torque_Limit", "gripper") == 500
        assert robot.bus.read("Overload_Torque", "gripper") == 25
        status = robot.status()
        assert status["gripper.voltage"] == pytest.approx(7.4, abs=0.2)
        assert 10 < status["elbow_flex.temperature"] < 60
        assert {key.rpartition(".")[2] for key in status} == {"voltage", "temperature", "load", "current"}


def test_an_arm_that_is_not_calibrated_asks_for_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", (tmp_path / "nobody").open("w+"))
    with simulate("so101", calibrated=False, timing=False) as arm:
        robot = follower(arm, tmp_path)
        with pytest.raises(DeviceError, match="lerobot-ops calibrate"):
            robot.connect()
        robot.connect(calibrate=False)
        assert not robot.is_calibrated
        robot.disconnect()


def test_its_identity_changes_with_its_calibration(arm: SimulatedArm, tmp_path: Path) -> None:
    before = follower(arm, tmp_path, cameras={"front": PATTERN}).identity()
    assert before["type"] == "so101_follower"
    assert before["cameras"]["front"]["fps"] == 30
    text = (tmp_path / "mine.json").read_text()
    (tmp_path / "mine.json").write_text(text.replace('"drive_mode": 0', '"drive_mode": 1', 1))
    after = make_robot(SO101FollowerConfig(port=arm.port, id="mine", calibration_dir=tmp_path)).identity()
    assert after["calibration"] != before["calibration"]


def test_calibrations_are_where_lerobot_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_LEROBOT_CALIBRATION", "HF_LEROBOT_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert calibration_home() == Path("/cache/huggingface/lerobot/calibration")
    monkeypatch.setenv("HF_LEROBOT_HOME", "/robots")
    assert calibration_home() == Path("/robots/calibration")
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", "/calibrations")
    assert calibration_home() == Path("/calibrations")


def test_a_pair_is_one_robot_with_two_of_everything(tmp_path: Path) -> None:
    with simulate("so101", timing=False) as left, simulate("so101", timing=False) as right:
        for side, arm in (("left", left), ("right", right)):
            save_calibration(tmp_path / f"pair_{side}.json", arm.calibration)
        config = BiSOFollowerConfig(
            id="pair",
            calibration_dir=tmp_path,
            left_arm_config=SOArmConfig(port=left.port, cameras={"wrist": PATTERN}, max_velocity=None),
            right_arm_config=SOArmConfig(
                port=right.port, cameras={"wrist": PATTERN}, joint_limits={"gripper": (0, 40)}
            ),
            cameras={"top": PATTERN},
        )
        with make_robot(config) as robot:
            keys = [f"{side}_{key}" for side in ("left", "right") for key in HOME]
            assert list(robot.observation_features) == [*keys, "left_wrist", "top", "right_wrist"]
            assert list(robot.get_observation()) == list(robot.observation_features)
            assert set(robot.observed_at) == {"state", "left_wrist", "top", "right_wrist"}
            assert robot.limits["right_gripper.pos"] == (0, 40)
            assert len(robot.releases()) == 2
            sent = robot.send_action({"left_shoulder_pan.pos": 10.0, "right_shoulder_pan.pos": -4.0})
            assert sent["left_shoulder_pan.pos"] == pytest.approx(10)
            assert sent["right_shoulder_pan.pos"] == pytest.approx(-4)
            assert "right_gripper.temperature" in robot.status()
            robot.stop()
            assert limp(left)
            assert limp(right)
        with pytest.raises(ValueError, match="left_wrist"):
            config.model_validate(config.model_dump() | {"cameras": {"left_wrist": PATTERN}})


def test_pictures_of_the_observation_are_the_cameras_own(arm: SimulatedArm, tmp_path: Path) -> None:
    with follower(arm, tmp_path, cameras={"front": PATTERN, "side": PATTERN | {"seed": 1}}) as robot:
        seen = robot.get_observation()
        assert not np.array_equal(seen["front"], seen["side"])
        assert not seen["front"].flags.writeable

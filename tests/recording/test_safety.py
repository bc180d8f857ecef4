"""What a guarded robot does and refuses, with a robot of somebody else's that is only a few lines."""

import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lerobot_ops.errors import ConfigError, DeviceError, PrerequisiteError
from lerobot_ops.flags import build
from lerobot_ops.recording.config import TeleoperateConfig
from lerobot_ops.recording.frames import Processors
from lerobot_ops.recording.limits import Limiter
from lerobot_ops.recording.loop import Loop
from lerobot_ops.recording.operator import Operator
from lerobot_ops.recording.safety import GuardedRobot
from lerobot_ops.recording.safety_config import SafetyConfig
from lerobot_ops.recording.session import at_rest
from lerobot_ops.recording.sources import Rows
from lerobot_ops.recording.teleoperate import teleoperate
from lerobot_ops.robots.robot import Action, Observation, Release, Robot, RobotConfig
from tests.recording.arms import PATIENT, Arms

QUIET = {"watchdog": False}


class Slider(Robot):
    """One joint that goes where it is sent, without a bus."""

    name = "slider"
    cameras: Mapping[str, Any] = {}

    def __init__(self) -> None:
        super().__init__(RobotConfig(type="slider"))
        self.position, self.torque, self.sent = 0.0, False, list[float]()
        self.well = {"x.temperature": 30.0, "x.current": 100.0, "x.voltage": 7.4}

    observation_features = {"x.pos": float}
    action_features = {"x.pos": float}
    limits = {"x.pos": (-50.0, 50.0)}
    is_connected = is_calibrated = True

    def connect(self, calibrate: bool = True) -> None: ...
    def calibrate(self) -> None: ...
    def configure(self) -> None: ...

    def get_observation(self) -> Observation:
        return {"x.pos": self.position}

    @property
    def observed_at(self) -> dict[str, float]:
        return {"state": time.perf_counter()}

    def send_action(self, action: Action) -> Action:
        self.torque, self.position = True, action["x.pos"]
        self.sent.append(self.position)
        return dict(action)

    def status(self) -> dict[str, float]:
        return dict(self.well)

    def stop(self) -> None:
        self.torque = False

    def releases(self) -> Sequence[Release]:
        return []

    def identity(self) -> dict[str, Any]:
        return {"type": "slider"}

    def disconnect(self) -> None:
        self.torque = False


def loop(arm: GuardedRobot, fps: int = 100) -> Loop:
    return Loop(arm, Operator(), fps, Processors())


def test_a_robot_catches_up_slowly() -> None:
    slider = Slider()
    with GuardedRobot(slider, SafetyConfig(**QUIET, start_velocity=100)) as arm:
        loop(arm).run(Rows(np.full((60, 1), 20.0), ["x.pos"]), "replaying")
        steps = np.diff([0.0, *slider.sent])
        assert steps.max() <= 100 * 2 / 100 + 1e-9
        assert slider.position == 20
        loop(arm).run(Rows(np.array([[20.0], [40.0]]), ["x.pos"]), "replaying")
        assert slider.position == 40


def test_joint_limits_and_actions_that_are_no_number() -> None:
    slider = Slider()
    with GuardedRobot(slider, SafetyConfig(**QUIET, start_velocity=None)) as arm:
        loop(arm).run(Rows(np.array([[400.0]]), ["x.pos"]), "replaying")
        assert slider.position == 50
        assert arm.limited["x.pos"] == 1


def test_an_action_that_is_no_number() -> None:
    slider = Slider()
    with (
        GuardedRobot(slider, SafetyConfig(**QUIET)) as arm,
        pytest.raises(DeviceError, match=r"an action is not a number"),
    ):
        loop(arm).run(Rows(np.array([[1.0], [math.nan]]), ["x.pos"]), "replaying")
    assert len(slider.sent) == 1
    assert not slider.torque


SICK = {"x.temperature": 61.0, "x.current": 1900.0, "x.voltage": 4.4}


@pytest.mark.parametrize("what", SICK)
def test_motors_that_are_not_well(what: str) -> None:
    slider = Slider()
    with GuardedRobot(slider, SafetyConfig(**QUIET, status_interval_s=0.01)) as arm:
        slider.well[what] = SICK[what]
        with pytest.raises(DeviceError, match=what):
            loop(arm).run(Rows(np.zeros((40, 1)), ["x.pos"]), "replaying")
        assert not slider.torque


def test_every_guard_can_be_switched_off_by_its_name() -> None:
    slider = Slider()
    slider.well |= SICK
    off = {"max_temperature": None, "max_current": None, "min_voltage": None, "status_interval_s": 0.01}
    with GuardedRobot(slider, SafetyConfig(**QUIET, **off)) as arm:
        loop(arm).run(Rows(np.zeros((10, 1)), ["x.pos"]), "replaying")
        assert slider.torque


def test_motors_are_watched_while_an_operator_is_waited_for() -> None:
    slider = Slider()
    with GuardedRobot(slider, SafetyConfig(**QUIET, status_interval_s=0.01)) as arm:
        loop(arm).run(Rows(np.zeros((2, 1)), ["x.pos"]), "replaying")
        slider.well["x.temperature"] = 90
        with pytest.raises(DeviceError, match="90 °C"):
            _wait_until_limp(arm, slider)
        assert not slider.torque


def _wait_until_limp(arm: GuardedRobot, slider: Slider) -> None:
    until = time.monotonic() + 20
    with arm.holding():
        while slider.torque and time.monotonic() < until:
            time.sleep(0.005)


def test_after_a_stop_nothing_is_sent() -> None:
    slider = Slider()
    with GuardedRobot(slider, SafetyConfig(**QUIET)) as arm:
        arm.emergency()
        with pytest.raises(DeviceError, match="emergency stop"):
            loop(arm).run(Rows(np.zeros((2, 1)), ["x.pos"]), "replaying")
    assert not slider.sent


def test_the_rest_pose_is_taken_slowly(arms: Arms) -> None:
    arms.follower.pose({"elbow_flex": 30.0})
    values = {"robot": arms.robot(cameras={}), "teleop": {"type": "scripted"}, "teleop_time_s": 0.1}
    teleop = {f"{name}.pos": {"amplitude": 0, "centre": angle} for name, angle in arms.follower.angles.items()}
    values["teleop"] = {"type": "scripted", "waves": {**teleop, "gripper.pos": {"amplitude": 0, "centre": 50}}}
    rest = {**PATIENT, "rest": {"elbow_flex.pos": 10.0}}
    teleoperate(build(TeleoperateConfig, {**values, "safety": rest}, source="a test"))
    assert arms.limp


def test_a_rest_pose_of_another_robot_is_refused() -> None:
    with (
        GuardedRobot(Slider(), SafetyConfig(**QUIET, rest={"y.pos": 3.0})) as arm,
        pytest.raises(ConfigError, match=r"y\.pos"),
    ):
        at_rest(loop(arm))


def test_the_rest_pose_is_reached() -> None:
    slider = Slider()
    with GuardedRobot(slider, SafetyConfig(**QUIET, rest={"x.pos": 12.0})) as arm:
        at_rest(loop(arm))
        assert slider.position == pytest.approx(12, abs=3.1)
        assert np.abs(np.diff(slider.sent)).max() <= 45 * 2 / 100 + 1e-9


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(-50, 50), st.floats(0.001, 0.1))
def test_goals_are_within_limits_and_begin_slowly(wanted: list[float], present: float, seconds: float) -> None:
    limiter = Limiter(SafetyConfig(), {"x.pos": (-50.0, 50.0)})
    before = present
    for value in wanted:
        slow = limiter.catching_up
        goal = limiter.limit({"x.pos": value}, {"x.pos": present}, seconds)["x.pos"]
        assert -50 <= goal <= 50
        assert not slow or abs(goal - before) <= 45 * seconds + 1e-9
        before = goal


def test_a_display_that_is_not_installed_is_told_before_anything_moves(arms: Arms) -> None:
    if importlib.util.find_spec("rerun"):
        pytest.skip("Rerun is installed here")
    values = {"robot": arms.robot(cameras={}), "teleop": arms.teleop(), "teleop_time_s": 0.1, "display_data": True}
    with pytest.raises(PrerequisiteError, match="Rerun is not installed"):
        teleoperate(build(TeleoperateConfig, values, source="a test"))
    assert arms.limp

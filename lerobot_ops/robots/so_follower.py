"""The SO-100 and SO-101 follower arms: limited goals, measured positions, and a torque that anybody can take off."""

import contextlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lerobot_ops.cameras.camera import Camera
from lerobot_ops.cameras.registry import make_camera
from lerobot_ops.errors import ConfigError, DeviceError, did_you_mean
from lerobot_ops.motors.feetech import OperatingMode
from lerobot_ops.motors.release import Release
from lerobot_ops.motors.so_arm import MOTORS, SOArm
from lerobot_ops.robots.robot import Action, Observation, Robot
from lerobot_ops.robots.so_follower_config import (
    DEFAULT_MAX_RELATIVE_TARGET,
    DEFAULT_MAX_VELOCITY,
    PerMotor,
    SOFollowerConfig,
)

FRESH_S = 0.05
"""So long an observation tells where the joints are when an action is limited."""
PAUSE_S = 0.5
"""After such a pause goals begin again where the joints are, not where they were last sent."""
FIRST_STEP_S = 1 / 30
"""What a goal may move in at first, when nothing was sent before it."""
STOP_WAITS_S = 0.03
"""So long a stop waits for an action that is just being sent."""
GRIPPER_PROTECTION = {"Max_Torque_Limit": 500, "Protection_Current": 250, "Overload_Torque": 25}
"""Half of its torque and current, and a quarter when overloaded: a gripper that holds on burns out otherwise."""


class SOFollower(Robot):
    """One follower arm with its cameras. Gains, protection and limits are LeRobot's, plus a limit of velocity."""

    name = "so_follower"
    config: SOFollowerConfig

    def __init__(self, config: SOFollowerConfig) -> None:
        super().__init__(config)
        self._arm = SOArm(
            config.port,
            folder="robots",
            kind=self.name,
            id=config.id,
            calibration_dir=config.calibration_dir,
            use_degrees=config.use_degrees,
            retries=config.num_read_retries,
        )
        self.bus = self._arm.bus
        self.cameras: dict[str, Camera] = {name: make_camera(each, name) for name, each in config.cameras.items()}
        self._relative = _per_motor("max_relative_target", config.max_relative_target, DEFAULT_MAX_RELATIVE_TARGET)
        self._velocity = _per_motor("max_velocity", config.max_velocity, DEFAULT_MAX_VELOCITY)
        _check_names("joint_limits", config.joint_limits)
        self._sending = threading.Lock()
        self._stopped = self._holds = False
        self._present: tuple[float, dict[str, float]] | None = None
        self._sent: tuple[float, dict[str, float]] | None = None
        self._observed_at: dict[str, float] = {}

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self._arm.keys, float)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        limits = self._arm.limits
        for name, (low, high) in self.config.joint_limits.items():
            lowest, highest = limits.get(f"{name}.pos", (low, high))
            limits[f"{name}.pos"] = (max(low, lowest), min(high, highest))
            if max(low, lowest) >= min(high, highest):
                raise ConfigError(
                    "the joint's limits leave nothing of its calibrated range",
                    field=f"joint_limits.{name}",
                    found=f"{low:g} to {high:g}",
                    expected=f"a part of {lowest:.1f} to {highest:.1f}",
                )
        return limits

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected and all(camera.is_connected for camera in self.cameras.values())

    def connect(self, calibrate: bool = True) -> None:
        if self.bus.is_connected:
            raise DeviceError("the arm is connected already", file=self.config.port)
        self._stopped = self._holds = False
        self._present = self._sent = None
        try:
            self._arm.connect(calibrate)
            for camera in self.cameras.values():
                camera.disconnect()  # they may have outlived a cable that was pulled
                camera.connect()
            self.configure()
        except BaseException:
            with contextlib.suppress(DeviceError):  # what went wrong first is what to say
                self.disconnect()
            raise

    @property
    def is_calibrated(self) -> bool:
        return self.bus.is_calibrated

    def calibrate(self) -> None:
        self._arm.calibrate()

    def setup_motors(self) -> None:
        self._arm.setup_motors()

    def configure(self) -> None:
        with self._arm.patient():
            self._configure()

    def _configure(self) -> None:
        self.bus.disable_torque(num_retry=self._arm.retries)
        self.bus.configure_motors()
        config = self.config
        wanted = {
            "Operating_Mode": int(OperatingMode.POSITION),
            "P_Coefficient": config.position_p_coefficient,
            "I_Coefficient": config.position_i_coefficient,
            "D_Coefficient": config.position_d_coefficient,
        }
        for data_name, value in wanted.items():
            self._arm.set(data_name, dict.fromkeys(MOTORS, value))
        for data_name, value in GRIPPER_PROTECTION.items():
            self._arm.set(data_name, {"gripper": value})

    def get_observation(self) -> Observation:
        positions = self._read_positions()
        observation: Observation = dict(positions)
        assert self._present is not None
        observed_at = {"state": self._present[0]}
        for name, camera in self.cameras.items():
            frame = camera.latest()
            observation[name], observed_at[name] = frame.image, frame.captured_at
        self._observed_at = observed_at
        return observation

    @property
    def observed_at(self) -> dict[str, float]:
        return self._observed_at

    def send_action(self, action: Action) -> Action:
        """Joints that are not named stay where they are sent to; raises DeviceError, sending nothing, at a NaN."""
        self._check(action)
        self._check_stopped()
        with self._sending:
            try:
                return self._send(action)
            finally:
                if self._stopped:  # by somebody who could not wait: what was sent after that is taken back
                    self._release()

    def status(self) -> dict[str, float]:
        return self._arm.status()

    @property
    def alarms(self) -> Mapping[str, tuple[str, ...]]:
        return self.bus.alarms

    def stop(self) -> None:
        # Bytes that need no answer, past the bus's lock: somebody may wait there for a motor that does not answer. An
        # action that is just being sent is waited for, but not long. `disconnect` asks every motor to confirm.
        self._stopped = True
        held = self._sending.acquire(timeout=STOP_WAITS_S)
        try:
            self._release()
        finally:
            if held:
                self._sending.release()

    def releases(self) -> Sequence[Release]:
        return [self._arm.release]

    def identity(self) -> dict[str, Any]:
        return {
            "type": self.config.type,
            "id": self.config.id,
            **self._arm.identity(),
            "cameras": {name: camera.settings() for name, camera in self.cameras.items()},
        }

    def disconnect(self) -> None:
        with contextlib.ExitStack() as each:  # whatever fails, the others are closed
            for camera in self.cameras.values():
                each.callback(camera.disconnect)
            if self.bus.is_connected:
                each.callback(self.bus.disconnect, self.config.disable_torque_on_disconnect or self._stopped)

    def _send(self, action: Action) -> Action:
        now = time.perf_counter()
        present = self._fresh_positions(now) if self._holds else self._read_positions()
        goals = self._limited(action, present, now)
        if not self._holds:  # an old goal in the motors must not make the arm leap
            self._write(present)
            self.bus.enable_torque(num_retry=self._arm.retries)
            self._holds = True
        self._write(goals)
        self._sent = now, {**(self._sent[1] if self._sent else {}), **goals}
        return goals

    def _release(self) -> None:
        with contextlib.suppress(Exception):  # the port may be gone
            self._arm.release.send()
        self._holds = False

    def _read_positions(self) -> dict[str, float]:
        asked = time.perf_counter()
        positions = self._arm.positions()
        self._present = (asked + time.perf_counter()) / 2, positions
        return positions

    def _fresh_positions(self, now: float) -> dict[str, float]:
        if self._present is not None and now - self._present[0] < FRESH_S:
            return self._present[1]
        return self._read_positions()

    def _check(self, action: Mapping[str, float]) -> None:
        known = self.action_features
        for key, value in action.items():
            if key not in known:
                raise ConfigError("the arm has no such joint", field=key, fix=did_you_mean(key, known))
            if not math.isfinite(value):
                raise DeviceError("a goal is not a number", field=key, found=value, fix="look at who sends the actions")

    def _check_stopped(self) -> None:
        if self._stopped:
            raise DeviceError("the arm was stopped: its torque is off", fix="connect it again")

    def _limited(self, action: Mapping[str, float], present: Mapping[str, float], now: float) -> Action:
        """`action` within the joint's range, then as fast as allowed, then near enough to where the joint is."""
        before, seconds = present, FIRST_STEP_S
        if self._sent is not None and now - self._sent[0] < PAUSE_S:
            seconds, before = now - self._sent[0], {**present, **self._sent[1]}
        limits = self.limits
        goals: Action = {}
        for key, value in action.items():
            goal = _within(float(value), *limits.get(key, (-math.inf, math.inf)))
            goal = _near(goal, before[key], self._velocity[key] * seconds)
            goals[key] = _near(goal, present[key], self._relative[key])
        return goals

    def _write(self, goals: Mapping[str, float]) -> None:
        self._check_stopped()  # again, just before: a goal switches the torque on, whoever has taken it off meanwhile
        self.bus.sync_write("Goal_Position", {key.removesuffix(".pos"): value for key, value in goals.items()})


def _per_motor(field: str, setting: PerMotor, default: float) -> dict[str, float]:
    """By action key; infinite where there is no limit."""
    if isinstance(setting, dict):
        _check_names(field, setting)
        return {f"{name}.pos": setting.get(name, default) for name in MOTORS}
    return dict.fromkeys((f"{name}.pos" for name in MOTORS), math.inf if setting is None else setting)


def _check_names(field: str, setting: Mapping[str, object]) -> None:
    for name in setting:
        if name not in MOTORS:
            raise ConfigError("the arm has no such motor", field=field, found=name, fix=did_you_mean(name, MOTORS))


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _near(value: float, place: float, distance: float) -> float:
    return _within(value, place - distance, place + distance)

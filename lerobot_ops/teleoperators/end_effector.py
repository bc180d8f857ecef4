"""An end effector that keys and sticks push about: the joints follow it."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from lerobot_ops.config import Config
from lerobot_ops.errors import DeviceError
from lerobot_ops.teleoperators.jogging import Jog
from lerobot_ops.teleoperators.kinematics import Kinematics

GRIPPER = "gripper.pos"
JOINT_SPEED = 90.0
"""Degrees per second of the fastest joint: near the base a short way is a large swing."""
PARTS = (1.0, 0.25)
"""Of a way, where all of it is too far for the joints."""
REACHED = 1e-4
"""Metres: farther than that from where it should be, the end effector cannot go there."""
ANYWHERE = (-float("inf"), float("inf"))


class EndEffectorConfig(Config):
    """The arm whose end effector is moved. The names are LeRobot's."""

    urdf_path: Path
    """Its description, in which the joints have the motors' names; files of meshes are not needed."""
    target_frame_name: str = "gripper_frame_link"
    """The link that is moved."""
    speed: float = Field(default=0.1, gt=0, le=1)
    """Metres per second at full deflection."""
    bounds: dict[Literal["x", "y", "z"], tuple[float, float]] = Field(default_factory=dict)
    """Where it may go, in metres in the frame of the arm's base; what is not named is not bounded."""
    gripper_speed: float = Field(default=100.0, gt=0)
    """Per second, in the units of its actions."""

    @field_validator("bounds")
    @classmethod
    def _leave_room(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if nowhere := [axis for axis, (low, high) in value.items() if not low < high]:
            raise ValueError(f"the lowest, then the highest: {', '.join(nowhere)}")
        return value


class EndEffectorJog:
    """Joint targets whose end effector moves straight, and keeps its orientation as far as the joints allow."""

    def __init__(self, config: EndEffectorConfig, *, gripper: bool) -> None:
        """Raises ConfigError when the description cannot be used, PrerequisiteError without MuJoCo."""
        self._config = config
        self._kinematics = Kinematics(config.urdf_path, config.target_frame_name)
        self._joints = tuple(f"{name}.pos" for name in self._kinematics.joint_names)
        self.keys = (*self._joints, GRIPPER) if gripper else self._joints
        self._jog = Jog(self.keys)
        front = self._kinematics.front()
        up = np.array([0.0, 0.0, 1.0])
        self._axes = np.stack([front, np.cross(up, front), up], axis=1)
        self._limits: list[tuple[float, float]] = []
        self._pose = np.eye(4)

    def begin(self, position: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> None:
        """Start at `position`; raises DeviceError if the robot has other joints, or does not tell them in degrees."""
        self._limits = [limits.get(key, ANYWHERE) for key in self._joints]
        if set(self._limits) == {(-100.0, 100.0)}:
            raise DeviceError(
                "the robot tells its joints as parts of their range, not in degrees",
                found="-100 to 100",
                fix="--robot.use_degrees=true",
            )
        self._jog.begin(position, limits)
        self._pose = self._kinematics.forward([position[key] for key in self._joints])

    def move(self, forward: float, left: float, up: float, grip: float, seconds: float) -> None:
        """Push it for so long; each of -1 to 1.

        It never leaves its line: where it cannot keep its orientation it takes another, where it cannot go it stays.
        """
        if GRIPPER in self.keys:
            self._jog.move(GRIPPER, grip * self._config.gripper_speed * seconds)
        if not seconds or not (forward or left or up):
            return
        way = self._axes @ (forward, left, up) * self._config.speed * seconds
        for orientation, part in itertools.product((True, False), PARTS):
            if self._go(part * way, JOINT_SPEED * seconds, orientation):
                break

    def targets(self) -> dict[str, float]:
        """Where everything should go; raises DeviceError before `begin`."""
        return self._jog.targets()

    def _go(self, way: np.ndarray, farthest: float, orientation: bool) -> bool:
        """Go along `way` (3,), no joint farther than `farthest`; False, staying, where that is not possible."""
        targets = self.targets()
        now = np.array([targets[key] for key in self._joints])
        pose = self._pose.copy()
        pose[:3, 3] = self._within_bounds(pose[:3, 3] + way)
        joints = self._kinematics.inverse(now, pose, self._limits, orientation=orientation)
        there = self._kinematics.forward(joints)
        if np.linalg.norm(there[:3, 3] - pose[:3, 3]) > REACHED or np.abs(joints - now).max() > farthest:
            return False
        if not orientation:
            pose[:3, :3] = there[:3, :3]
        for key, amount in zip(self._joints, joints - now, strict=True):
            self._jog.move(key, float(amount))
        self._pose = pose
        return True

    def _within_bounds(self, position: np.ndarray) -> np.ndarray:
        for axis, (low, high) in self._config.bounds.items():
            number = "xyz".index(axis)
            before = self._pose[number, 3]  # from outside it may come back
            position[number] = np.clip(position[number], min(low, before), max(high, before))
        return position

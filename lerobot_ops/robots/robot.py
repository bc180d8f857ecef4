"""What a robot is: features known before it is connected, observations, actions within limits, and a way to stop."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from lerobot_ops.cameras.camera import Camera
from lerobot_ops.cameras.registry import AnyCameraConfig
from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError
from lerobot_ops.motors.release import Release

Observation = dict[str, Any]
"""`"<motor>.pos"` to a float, `"<camera>"` to a (height, width, 3) uint8 array."""
Action = dict[str, float]
"""`"<motor>.pos"` to a float, in the units of the robot's normalisation."""


class RobotConfig(Config):
    """A robot's settings; every kind of robot adds its own. The names are LeRobot's."""

    type: str
    """Name of the kind of robot."""
    id: str | None = Field(default=None, coerce_numbers_to_str=True)
    """Which of them: names its calibration file."""
    calibration_dir: Path | None = None
    """Where calibrations are; by default LeRobot's own directory, so that both use the same."""
    cameras: dict[str, AnyCameraConfig] = Field(default_factory=dict)
    """Its cameras by name."""

    def make(self) -> "Robot":
        """The robot of this configuration, not yet connected."""
        raise NotImplementedError(f"{type(self).__name__} does not say which class is made of it")

    def without_cameras(self) -> Self:
        """The same robot, blind."""
        return self.model_copy(update={"cameras": {}})


class Robot(ABC):
    """One robot. Every method raises DeviceError naming motor, id, register and what to check."""

    name: str
    """LeRobot's name of this kind of robot: the folder of its calibrations, and a dataset's `robot_type`."""
    cameras: Mapping[str, Camera]

    def __init__(self, config: RobotConfig) -> None:
        self.config = config

    @property
    def observation_features(self) -> dict[str, type | tuple[int, int, int]]:
        """Key to `float`, or to a camera's (height, width, 3); known before the robot is connected.

        By default what can be moved is also what is measured.
        """
        sizes = {name: (camera.config.height, camera.config.width, 3) for name, camera in self.cameras.items()}
        return {**self.action_features, **sizes}

    @property
    @abstractmethod
    def action_features(self) -> dict[str, type]:
        """Key to `float`; known before the robot is connected."""

    @property
    @abstractmethod
    def limits(self) -> dict[str, tuple[float, float]]:
        """Per action key the lowest and the highest value, in its units, that calibration and settings allow."""

    @property
    @abstractmethod
    def is_connected(self) -> bool: ...

    @abstractmethod
    def connect(self, calibrate: bool = True) -> None:
        """Open port and cameras, check that the motors are the expected ones, and configure them.

        Torque is off until the first action.
        """

    @property
    @abstractmethod
    def is_calibrated(self) -> bool:
        """Whether the motors hold the calibration of the file."""

    @abstractmethod
    def calibrate(self) -> None:
        """Ask the operator to move the joints, write the calibration into the motors and to the file."""

    def setup_motors(self) -> None:
        """Give each motor its id, asking the operator to plug in one at a time; ConfigError where there are none."""
        raise ConfigError("this robot has no motors that could be set up", field="robot.type", found=self.name)

    @abstractmethod
    def configure(self) -> None:
        """Write modes, gains and limits into the motors."""

    @abstractmethod
    def get_observation(self) -> Observation:
        """What joints and cameras say now; `observed_at` then says when each part of it was taken."""

    @property
    @abstractmethod
    def observed_at(self) -> dict[str, float]:
        """For "state" and every camera, when its part of the last observation was taken (`time.perf_counter`, s)."""

    @abstractmethod
    def send_action(self, action: Action) -> Action:
        """Move towards `action`, within `limits` and the allowed relative motion; returns what was really sent."""

    @abstractmethod
    def status(self) -> dict[str, float]:
        """`"<motor>.temperature"` (°C), `.voltage` (V), `.current` (mA), `.load` (% of the greatest); if known."""

    @property
    def alarms(self) -> Mapping[str, tuple[str, ...]]:
        """What motors complained about with their last answers, by motor: `overload`, ...; empty if all is well."""
        return {}

    @abstractmethod
    def stop(self) -> None:
        """Take the torque off, now. Never raises, may be called from any thread and more than once.

        Actions are refused until the robot is connected again.
        """

    @abstractmethod
    def releases(self) -> Sequence[Release]:
        """What a watchdog sends when this process is gone."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Type, id, digest of the calibration, and settings of the cameras, as JSON: a dataset's provenance."""

    @abstractmethod
    def disconnect(self) -> None:
        """Take the torque off (unless the settings say otherwise) and close everything; may be called twice."""

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.disconnect()

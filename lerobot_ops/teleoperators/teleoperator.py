"""What a teleoperator is: something that says what a robot should do, as fast as the robot's loop asks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError
from lerobot_ops.motors.release import Release


class TeleoperatorConfig(Config):
    """A teleoperator's settings; every kind adds its own. The names are LeRobot's."""

    type: str
    """Name of the kind of teleoperator."""
    id: str | None = Field(default=None, coerce_numbers_to_str=True)
    """Which of them: names its calibration file."""
    calibration_dir: Path | None = None
    """Where calibrations are; by default LeRobot's own directory."""

    def make(self) -> "Teleoperator":
        """The teleoperator of this configuration, not yet connected."""
        raise NotImplementedError(f"{type(self).__name__} does not say which class is made of it")


@dataclass(frozen=True)
class TeleopEvents:
    """What the operator says with the device itself; LeRobot's names."""

    is_intervention: bool = False
    """The operator, not the policy, leads now."""
    terminate_episode: bool = False
    success: bool = False
    rerecord_episode: bool = False


class Teleoperator(ABC):
    """One teleoperator. Every method raises DeviceError saying what to check."""

    name: str
    """LeRobot's name of this kind: the folder of its calibrations."""

    def __init__(self, config: TeleoperatorConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def action_features(self) -> dict[str, type]:
        """Key to `float`; known before it is connected."""

    @property
    def feedback_features(self) -> dict[str, type]:
        """What `send_feedback` takes."""
        return {}

    @property
    @abstractmethod
    def is_connected(self) -> bool: ...

    @abstractmethod
    def connect(self, calibrate: bool = True) -> None: ...

    @property
    def is_calibrated(self) -> bool:
        """Whether it can be used as it is."""
        return True

    def calibrate(self) -> None:  # noqa: B027 - many have nothing to calibrate
        """Ask the operator to move the joints, and keep what they say; nothing where there is nothing to calibrate."""

    def setup_motors(self) -> None:
        """Give each motor its id, asking the operator to plug in one at a time; ConfigError where there are none."""
        raise ConfigError("this teleoperator has no motors that could be set up", field="teleop.type", found=self.name)

    def configure(self) -> None:  # noqa: B027
        """Write modes into the device."""

    def begin(  # noqa: B027 - most say where, not how much farther
        self, position: Mapping[str, float], limits: Mapping[str, tuple[float, float]]
    ) -> None:
        """Learn where the robot is and may go, in the units of actions: one that only says "farther" starts from there.

        Called before the first action, and whenever the operator takes over from a policy.
        """

    @abstractmethod
    def get_action(self) -> dict[str, float]:
        """What the operator wants now."""

    def send_feedback(self, feedback: dict[str, float]) -> None:
        """Let the operator feel something; also moves a leader arm to where the follower is."""
        raise NotImplementedError(f"{self.name} has no feedback")

    def get_teleop_events(self) -> TeleopEvents:
        """What the operator says with the device itself."""
        return TeleopEvents()

    def releases(self) -> Sequence[Release]:
        """What a watchdog sends when this process is gone: a leader that was moved holds its torque."""
        return ()

    @abstractmethod
    def disconnect(self) -> None:
        """Close the device; may be called twice."""

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.disconnect()

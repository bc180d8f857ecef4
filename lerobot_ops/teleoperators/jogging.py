"""Joint targets that keys and sticks push about: they begin where the robot is, and stay where it may go."""

import time
from collections.abc import Mapping

from lerobot_ops.config import Config
from lerobot_ops.errors import DeviceError


class Jog:
    """The targets of some action keys, moved by amounts."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self._targets: dict[str, float] | None = None
        self._limits: Mapping[str, tuple[float, float]] = {}

    def begin(self, position: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> None:
        """Start at `position`; raises DeviceError if the robot has other joints."""
        missing = [key for key in self.keys if key not in position]
        if missing:
            raise DeviceError(
                "the robot does not have the joints that are to be moved",
                found=", ".join(position),
                expected=", ".join(self.keys),
                fix="name the robot's joints in the teleoperator's settings",
            )
        self._limits = limits
        self._targets = {key: float(position[key]) for key in self.keys}

    def move(self, key: str, amount: float) -> None:
        """Push the target of `key`, as far as its limit."""
        low, high = self._limits.get(key, (float("-inf"), float("inf")))
        self._targets = self.targets() | {key: min(max(self.targets()[key] + amount, low), high)}

    def targets(self) -> dict[str, float]:
        """Where everything should go; raises DeviceError before `begin`."""
        if self._targets is None:
            raise DeviceError(
                "nobody said where the robot is, so it cannot be moved from there",
                fix="call begin() first",
            )
        return dict(self._targets)


class Clock:
    """How long it is since it was last asked: what is held moves on for so long."""

    longest = 0.1
    """Seconds: nothing leaps after a pause of the loop."""

    def __init__(self) -> None:
        self._asked_at: float | None = None

    def begin(self) -> None:
        """What comes next is the first time."""
        self._asked_at = None

    def elapsed(self) -> float:
        """Seconds; none the first time."""
        before, self._asked_at = self._asked_at, time.perf_counter()
        return 0.0 if before is None else min(self._asked_at - before, self.longest)


class Joint(Config):
    """How one joint is moved by keys."""

    less: str
    """A key, as `lerobot_ops.keys` names it."""
    more: str
    step: float = 2.0
    """Per press, and per repetition while the key is held, in the units of the robot's actions."""


def so_arm_joints() -> dict[str, Joint]:
    """Keys for the six motors of an SO arm; those that a session uses (n, r, q, arrows, space, esc) are left free."""
    return {
        "shoulder_pan.pos": Joint(less="a", more="d"),
        "shoulder_lift.pos": Joint(less="s", more="w"),
        "elbow_flex.pos": Joint(less="g", more="t"),
        "wrist_flex.pos": Joint(less="h", more="y"),
        "wrist_roll.pos": Joint(less="j", more="l"),
        "gripper.pos": Joint(less="c", more="o", step=4.0),
    }

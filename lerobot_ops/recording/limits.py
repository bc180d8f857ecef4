"""What is asked of a robot: finite, within joint limits, and slow until the robot has caught up with who leads it."""

import math
from collections.abc import Mapping

from lerobot_ops.errors import DeviceError
from lerobot_ops.recording.safety_config import SafetyConfig
from lerobot_ops.robots.robot import Action

POSITION = ".pos"
"""What the key of a joint's position ends with; only positions can be far away."""


class Limiter:
    """Brings actions within limits, one after another.

    After `slow_start` goals move slowly until they have caught up with what is wanted.
    """

    def __init__(self, config: SafetyConfig, limits: Mapping[str, tuple[float, float]]) -> None:
        self._config, self._limits = config, dict(limits)
        self._goal: dict[str, float] = {}
        self.catching_up = config.start_velocity is not None

    def slow_start(self) -> None:
        """What comes next may be far from where the robot is: begin from there, slowly."""
        self.catching_up = self._config.start_velocity is not None
        self._goal.clear()

    def limit(self, wanted: Mapping[str, float], present: Mapping[str, float], seconds: float) -> Action:
        """The action to send, `seconds` after the one before; raises DeviceError if something is not finite."""
        action: Action = {}
        near = True
        for key, value in wanted.items():
            if not math.isfinite(value):
                fix = "look at who makes the actions: the teleoperator, the policy, or a processor"
                raise DeviceError("an action is not a number", field=key, found=value, fix=fix)
            lowest, highest = self._limits.get(key, (-math.inf, math.inf))
            goal = min(max(float(value), lowest), highest)
            if self.catching_up and key.endswith(POSITION) and key in present:
                slow = self._slowly(key, goal, present[key], seconds)
                near = near and abs(slow - goal) <= self._config.caught_up_within
                goal = slow
            action[key] = goal
        self._goal = action
        self.catching_up = self.catching_up and not near
        return action

    def _slowly(self, key: str, goal: float, present: float, seconds: float) -> float:
        before, step = self._goal.get(key, present), (self._config.start_velocity or math.inf) * seconds
        return min(max(goal, before - step), before + step)

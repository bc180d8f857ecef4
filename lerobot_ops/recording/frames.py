"""What a recorded frame holds: the robot's features as LeRobot names them, and when everything of it happened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lerobot_ops.errors import DeviceError
from lerobot_ops.recording.safety import STATE
from lerobot_ops.robots.robot import Action, Observation, Robot

Features = dict[str, Any]

OBSERVED, ACTION = "observation.state", "action"
IMAGES = "observation.images."
CAPTURED = "timing.captured"
"""Seconds from the episode's first deadline until the joints and each camera were read."""
AGE = "timing.age"
"""Seconds since then when the action was sent."""
LOOP = "timing.loop"
"""Seconds by which the tick began late, and of its work until the action was sent."""
INTERVENTION = "intervention"
"""Whether the operator led, and not the policy."""
STATUS = "status"
"""What the motors last said of themselves: see `Robot.status`."""


def _same(value: Any, *_: Any) -> Any:
    return value


@dataclass(frozen=True)
class Processors:
    """What happens to observations and actions on their way; each does nothing unless it is given.

    LeRobot's three pipelines. The action that is stored is the one that was sent, so what a policy makes, and what is
    replayed, needs neither `teleop_action` nor `robot_action`.
    """

    observation: Callable[[Observation], Observation] = _same
    """The robot's observation -> the one that is stored and that policies see."""
    teleop_action: Callable[[Action, Observation], Action] = _same
    """The teleoperator's action -> another space, such as poses of the end effector."""
    robot_action: Callable[[Action, Observation], Action] = _same
    """That -> the robot's own action."""
    observation_features: Callable[[Features], Features] = _same
    """The robot's observation features -> those of `observation`."""
    teleop_features: Callable[[Features], Features] = _same
    """The teleoperator's action features -> those of both action pipelines."""


@dataclass(frozen=True)
class Moment:
    """One tick of the loop as it happened; times in seconds."""

    number: int
    observation: Observation
    sent: Action
    captured: Mapping[str, float]
    """When "state" and each camera were read, since the first tick's deadline."""
    ages: Mapping[str, float]
    """How old they were when the action was sent."""
    late: float
    work: float
    intervening: bool
    status: Mapping[str, float] = field(default_factory=dict)


class Layout:
    """The features of a robot's dataset, and frames made of moments."""

    def __init__(
        self,
        robot: Robot,
        processors: Processors,
        *,
        video: bool = True,
        timing: bool = True,
        intervention: bool = False,
        status: tuple[str, ...] = (),
    ) -> None:
        seen = processors.observation_features(dict(robot.observation_features))
        self.state_names = [name for name, kind in seen.items() if not isinstance(kind, tuple)]
        self.cameras = [name for name, kind in seen.items() if isinstance(kind, tuple)]
        self.action_names = list(robot.action_features)
        self.status_names = list(status)
        self._intervention = intervention
        self.features: dict[str, Features] = {ACTION: _vector(self.action_names)}
        if self.state_names:
            self.features[OBSERVED] = _vector(self.state_names)
        for name in self.cameras:
            shape = list(seen[name])
            names = ["height", "width", "channels"]
            self.features[IMAGES + name] = {"dtype": "video" if video else "image", "shape": shape, "names": names}
        self.parts = [STATE, *(name for name in self.cameras if name in robot.cameras)]
        self._timing = timing
        if timing:
            self.features[CAPTURED] = _vector(self.parts)
            self.features[AGE] = _vector(self.parts)
            self.features[LOOP] = _vector(["late", "work"])
        if intervention:
            self.features[INTERVENTION] = {"dtype": "bool", "shape": [1], "names": None}
        if status:
            self.features[STATUS] = _vector(self.status_names)

    def observation(self, observation: Observation) -> dict[str, np.ndarray]:
        """The part of a frame that a policy may see; raises DeviceError naming what the robot did not say."""
        frame = {OBSERVED: _values(observation, self.state_names)} if self.state_names else {}
        return frame | {IMAGES + name: observation[name] for name in self.cameras}

    def action(self, values: np.ndarray) -> Action:
        """A row of the dataset's `action` by key."""
        return {name: float(value) for name, value in zip(self.action_names, values, strict=True)}

    def frame(self, moment: Moment, task: str) -> dict[str, Any]:
        """A frame of the dataset."""
        frame: dict[str, Any] = self.observation(moment.observation)
        frame[ACTION] = _values(moment.sent, self.action_names)
        if self._timing:
            frame[CAPTURED] = _values(moment.captured, self.parts)
            frame[AGE] = _values(moment.ages, self.parts)
            frame[LOOP] = np.array([moment.late, moment.work], np.float32)
        if self._intervention:
            frame[INTERVENTION] = np.array([moment.intervening])
        if self.status_names:
            frame[STATUS] = _values(moment.status, self.status_names)
        return {**frame, "task": task}


def _vector(names: list[str]) -> Features:
    return {"dtype": "float32", "shape": [len(names)], "names": names}


def _values(values: Mapping[str, Any], names: list[str]) -> np.ndarray:
    try:
        return np.array([values[name] for name in names], np.float32)
    except KeyError as error:
        raise DeviceError(
            "the robot does not say everything that its features name",
            field=str(error.args[0]),
            found=", ".join(sorted(values)),
            fix="mend the robot's class, or the processor of its observations",
        ) from None

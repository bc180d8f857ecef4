"""Who leads the robot: a teleoperator, recorded actions, a pose, or another one with an operator behind it."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from lerobot_ops.errors import ConfigError, did_you_mean
from lerobot_ops.recording.frames import Processors
from lerobot_ops.recording.limits import Limiter
from lerobot_ops.recording.operator import Event
from lerobot_ops.recording.safety_config import SafetyConfig
from lerobot_ops.robots.robot import Action, Observation, Robot
from lerobot_ops.teleoperators.teleoperator import Teleoperator, TeleopEvents

_LONGEST = 0.1
"""Seconds: a device moves no farther at a time than it may in so long."""


class Source:
    """Says what the robot should do; the loop calls `begin` once, then at every tick `action`, `sent` and `event`."""

    intervening = False
    """Whether an operator leads in place of a policy."""
    finished = False
    """Whether it has nothing more to say."""
    leader = ""
    """Who leads, where several can."""

    def begin(self, observation: Observation) -> None:
        """It leads from here."""

    def action(self, observation: Observation) -> Action:
        """What the robot should do now, in the robot's own keys."""
        raise NotImplementedError

    def sent(self, action: Action) -> None:
        """What the robot was told."""

    def event(self) -> Event | None:
        """What the operator says with the device itself."""
        return None

    def take_over(self, observation: Observation) -> bool:
        """Another one leads from now on; False when there is nobody else."""
        return False


class Hold(Source):
    """Stays where it is."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        self._pose: Action = {}

    def begin(self, observation: Observation) -> None:
        self._pose = {key: float(observation[key]) for key in self._keys if key in observation}

    def action(self, observation: Observation) -> Action:
        return self._pose


class Pose(Source):
    """Goes to a pose, joints that it does not name staying where they are.

    It is finished when the robot is within `near` of it, or has not come nearer for `patience` ticks.
    """

    def __init__(
        self, pose: Mapping[str, float], keys: Sequence[str], *, near: float = 3.0, patience: int = 15
    ) -> None:
        for key in pose:
            if key not in keys:
                fix = did_you_mean(key, keys)
                raise ConfigError("the robot has no such joint", field="safety.rest", found=key, fix=fix)
        self._pose, self._keys, self._near, self._patience = dict(pose), keys, near, patience
        self._best, self._since = float("inf"), 0

    def begin(self, observation: Observation) -> None:
        self._pose = {key: float(observation[key]) for key in self._keys if key in observation} | self._pose

    @property
    def finished(self) -> bool:  # type: ignore[override]
        return self._best <= self._near or self._since > self._patience

    def action(self, observation: Observation) -> Action:
        away = max(
            (abs(value - observation[key]) for key, value in self._pose.items() if key in observation), default=0
        )
        self._since = 0 if away < self._best - 0.2 else self._since + 1
        self._best = min(self._best, away)
        return dict(self._pose)


class Rows(Source):
    """Recorded actions (frames, A), one for each tick."""

    def __init__(self, rows: np.ndarray, names: Sequence[str]) -> None:
        self._rows, self._names, self._next = rows, list(names), 0

    @property
    def finished(self) -> bool:  # type: ignore[override]
        return self._next >= len(self._rows)

    def action(self, observation: Observation) -> Action:
        row = self._rows[min(self._next, len(self._rows) - 1)]
        self._next += 1
        return {name: float(value) for name, value in zip(self._names, row, strict=True)}


class Teleoperation(Source):
    """A teleoperator's actions, processed."""

    def __init__(
        self, teleop: Teleoperator, robot: Robot, processors: Processors, safety: SafetyConfig | None = None
    ) -> None:
        self._teleop, self._robot, self._processors = teleop, robot, processors
        self._limiter = Limiter(safety or SafetyConfig(), {})
        self._own: Action = {}
        self._mirrored_at = 0.0
        made = processors.teleop_features(dict(teleop.action_features))
        lacking = sorted(robot.action_features.keys() - made.keys())
        if lacking:
            raise ConfigError(
                "the teleoperator does not say everything that the robot needs",
                field="teleop.type",
                found=f"{teleop.name}: {', '.join(made)}",
                expected=", ".join(robot.action_features),
                fix="choose the teleoperator that belongs to this robot, "
                + ("or name the arm: --teleop.end_effector.urdf_path=…" if "delta_x" in made else "or give processors"),
            )
        self._last = TeleopEvents()

    def begin(self, observation: Observation) -> None:
        position = {key: observation[key] for key in self._robot.action_features if key in observation}
        self._teleop.begin(position, self._robot.limits)
        self._limiter.slow_start()

    def action(self, observation: Observation) -> Action:
        self._own = self._teleop.get_action()
        action = self._processors.teleop_action(self._own, observation)
        action = self._processors.robot_action(action, observation)
        return {key: action[key] for key in self._robot.action_features}

    def mirror(self, action: Action) -> None:
        """Let the device go where the robot goes, if it can: slowly at first, somebody may hold it."""
        felt = {key: value for key, value in action.items() if key in self._teleop.feedback_features}
        if felt:
            before, self._mirrored_at = self._mirrored_at, time.perf_counter()
            seconds = min(self._mirrored_at - before, _LONGEST)
            self._teleop.send_feedback(self._limiter.limit(felt, self._own, seconds))

    def event(self) -> Event | None:
        before, self._last = self._last, self._teleop.get_teleop_events()
        if self._last.rerecord_episode and not before.rerecord_episode:
            return Event.REDO
        if self._last.terminate_episode and not before.terminate_episode:
            return Event.NEXT
        if self._last.is_intervention != before.is_intervention:
            return Event.TAKEOVER
        return None


class Intervention(Source):
    """Another one leads until the operator takes over, with a key or with the device; the device mirrors the robot."""

    def __init__(self, other: Source, teleop: Teleoperation) -> None:
        self._other, self._teleop = other, teleop
        self._leads = other

    @property
    def intervening(self) -> bool:  # type: ignore[override]
        return self._leads is self._teleop

    @property
    def leader(self) -> str:  # type: ignore[override]
        return "operator" if self.intervening else self._other.leader

    def begin(self, observation: Observation) -> None:
        self._leads = self._other
        self._other.begin(observation)
        self._teleop.begin(observation)

    def action(self, observation: Observation) -> Action:
        wanted = self._teleop.action(observation)  # always: some devices notice only then that they are used
        return wanted if self.intervening else self._other.action(observation)

    def sent(self, action: Action) -> None:
        if not self.intervening:
            self._teleop.mirror(action)

    def event(self) -> Event | None:
        return self._teleop.event()

    def take_over(self, observation: Observation) -> bool:
        self._leads = self._other if self.intervening else self._teleop
        self._leads.begin(observation)
        return True

"""A teleoperator without an operator: waves, or an episode that was recorded. The same calls give the same actions."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.errors import DeviceError
from lerobot_ops.teleoperators.teleoperator import Teleoperator, TeleoperatorConfig, TeleopEvents


class Wave(Config):
    """A sinusoid, in the units of the joint that follows it."""

    centre: float = 0.0
    amplitude: float = Field(default=15.0, ge=0)
    period_s: float = Field(default=4.0, gt=0)
    phase: float = 0.0
    """Of a period: 0.25 begins at the top."""

    def at(self, seconds: float) -> float:
        return self.centre + self.amplitude * math.sin(2 * math.pi * (seconds / self.period_s + self.phase))


def so_arm_waves() -> dict[str, Wave]:
    """A gentle motion of all joints of an SO arm; degrees, and 0 to 100 of the gripper."""
    return {
        "shoulder_pan.pos": Wave(period_s=6),
        "shoulder_lift.pos": Wave(period_s=5),
        "elbow_flex.pos": Wave(period_s=4),
        "wrist_flex.pos": Wave(period_s=3),
        "wrist_roll.pos": Wave(period_s=7),
        "gripper.pos": Wave(centre=50, amplitude=40, period_s=2),
    }


class ScriptedConfig(TeleoperatorConfig):
    """For tests and demonstrations: call `k` gives the action at `k / fps` seconds, however late it comes."""

    type: Literal["scripted"] = "scripted"
    fps: float = Field(default=30.0, gt=0)
    """Rate of the loop that asks."""
    waves: dict[str, Wave] = Field(default_factory=so_arm_waves)
    """What every action key does, unless a dataset says it."""
    dataset: Path | None = None
    """A LeRobotDataset whose recorded actions are given instead, at its own rate; the last one is held."""
    episode: int = Field(default=0, ge=0)
    interventions: list[tuple[int, int]] = Field(default_factory=list)
    """From which call on, and before which, the operator takes over from a policy."""

    def make(self) -> Teleoperator:
        return Scripted(self)


class Scripted(Teleoperator):
    """Starts at its beginning whenever it is connected."""

    name = "scripted"
    config: ScriptedConfig

    def __init__(self, config: ScriptedConfig) -> None:
        super().__init__(config)
        self._calls: int | None = None
        self._recorded = None if config.dataset is None else _Recorded(config.dataset, config.episode)

    @property
    def action_features(self) -> dict[str, type]:
        keys = self.config.waves if self._recorded is None else self._recorded.keys
        return dict.fromkeys(keys, float)

    @property
    def feedback_features(self) -> dict[str, type]:
        return self.action_features

    @property
    def is_connected(self) -> bool:
        return self._calls is not None

    def connect(self, calibrate: bool = True) -> None:
        self._calls = 0

    def get_action(self) -> dict[str, float]:
        if self._calls is None:
            raise DeviceError("the scripted teleoperator is not connected", fix="call connect() first")
        seconds = self._calls / self.config.fps
        self._calls += 1
        if self._recorded is not None:
            return self._recorded.at(seconds)
        return {key: wave.at(seconds) for key, wave in self.config.waves.items()}

    def send_feedback(self, feedback: dict[str, float]) -> None:
        """Nothing is felt."""

    def get_teleop_events(self) -> TeleopEvents:
        """Of the action that was given last."""
        last = (self._calls or 0) - 1
        return TeleopEvents(is_intervention=any(first <= last < end for first, end in self.config.interventions))

    def disconnect(self) -> None:
        self._calls = None


class _Recorded:
    """The actions of one episode: keys, and a row for every frame."""

    def __init__(self, root: Path, episode: int) -> None:
        from lerobot_ops.datasets.reader import LeRobotDataset

        dataset = LeRobotDataset(root, episodes=[episode])
        names = dataset.features["action"].names
        if not isinstance(names, list):
            raise DeviceError("the actions have no names to send them by", file=root, field="features.action.names")
        self.keys = [str(name) for name in names]
        self.rows: NDArray[np.float32] = dataset.column("action")
        self.fps = dataset.fps

    def at(self, seconds: float) -> dict[str, float]:
        row = self.rows[min(round(seconds * self.fps), len(self.rows) - 1)]
        return {key: float(value) for key, value in zip(self.keys, row, strict=True)}

"""Send the actions of a recorded episode to a robot, and measure how closely it follows."""

from pathlib import Path
from typing import Any

import numpy as np

from lerobot_ops.artifacts import write_json
from lerobot_ops.config import Config
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.tables import column_array, load_data
from lerobot_ops.errors import ConfigError, DatasetError
from lerobot_ops.recording.config import ReplayConfig
from lerobot_ops.recording.frames import ACTION, OBSERVED, Moment, Processors
from lerobot_ops.recording.loop import Loop
from lerobot_ops.recording.operator import Operator
from lerobot_ops.recording.pace import Timing
from lerobot_ops.recording.session import at_rest, session
from lerobot_ops.recording.sources import Pose, Rows
from lerobot_ops.robots.robot import Robot

_LAGS = 0.5
"""Seconds by which a robot may be behind what it was told."""


class JointError(Config):
    """How far a joint was from where it should have been, in the robot's units."""

    rms: float
    max: float


class Replayed(Config):
    """How a replay went."""

    root: Path
    episode: int
    timing: Timing
    lag_s: float
    """By how much the robot follows later than it is told: the delay with which the errors are smallest."""
    commanded: dict[str, JointError]
    """Per joint, the measured position against the one that was sent for that moment, `lag_s` taken into account."""
    at_once: dict[str, JointError]
    """The same without it."""
    recorded: dict[str, JointError]
    """Per joint, the measured position against the one that was measured when the episode was recorded."""
    stopped: bool
    """Whether the operator ended it before its end."""

    def __str__(self) -> str:
        width = max(map(len, self.commanded), default=5)
        lines = [
            f"{self.root} episode {self.episode}: {self.timing}",
            f"the robot follows {1000 * self.lag_s:.0f} ms later than it is told; what is left then:",
            f"  {'joint':<{width}}  {'rms':>7}  {'max':>7}   from the recording: {'rms':>7}  {'max':>7}",
        ]
        for name, error in self.commanded.items():
            own = self.recorded.get(name)
            beside = f"                       {own.rms:7.2f}  {own.max:7.2f}" if own else ""
            lines.append(f"  {name:<{width}}  {error.rms:7.2f}  {error.max:7.2f}{beside}")
        return "\n".join(lines)


def replay(config: ReplayConfig, operator: Operator | None = None) -> Replayed:
    """Go slowly to where the episode's first action is, then send its actions at its rate.

    Raises DatasetError when the episode is not there, ConfigError when its actions are not this robot's, DeviceError
    when a device fails or the operator stops the robot.
    """
    operator, root = operator or Operator(), config.dataset.place
    names, actions, states, fps = _episode(root, config.dataset.episode)
    measured: list[np.ndarray] = []
    sent: list[np.ndarray] = []

    def each(moment: Moment) -> None:
        measured.append(np.array([moment.observation.get(name, np.nan) for name in names]))
        sent.append(np.array([moment.sent[name] for name in names]))

    with session(config, operator, None) as (arm, _, display), arm:
        _check(arm.robot, names, root)
        loop = Loop(arm, operator, config.dataset.fps or fps, Processors(), display)
        at_rest(loop)
        first = dict(zip(names, map(float, actions[0]), strict=True))
        loop.run(Pose(first, names), "moving", about=lambda: {"task": "to the first pose of the episode"})
        outcome = loop.run(Rows(actions, names), "replaying", each=each)
        at_rest(loop)
    if not measured:
        raise DatasetError("the replay was stopped before it began", file=root)
    report = _report(config, names, np.array(sent), np.array(measured), states, outcome.timing, len(actions))
    if config.output is not None:
        write_json(config.output, report.model_dump(mode="json"))
    return report


def _episode(root: Path, episode: int) -> tuple[list[str], np.ndarray, dict[str, np.ndarray], int]:
    """Names of the actions, the actions (frames, A), the recorded state by name, and the rate."""
    info = load_info(root)
    feature = info.features.get(ACTION)
    if feature is None or not isinstance(feature.names, list):
        raise DatasetError("the actions have no names to send them by", file=root, field=f"features.{ACTION}.names")
    if episode >= info.total_episodes:
        raise DatasetError(
            "there is no such episode", file=root, found=episode, expected=f"0 to {info.total_episodes - 1}"
        )
    has_state = OBSERVED in info.features
    table = load_data(root, [ACTION, "episode_index", *([OBSERVED] if has_state else [])])
    rows = np.flatnonzero(table["episode_index"].to_numpy() == episode)
    states: dict[str, np.ndarray] = {}
    if has_state and isinstance(info.features[OBSERVED].names, list):
        values = column_array(table[OBSERVED], info.features[OBSERVED])[rows]
        states = {str(name): values[:, place] for place, name in enumerate(info.features[OBSERVED].names or [])}
    return [str(name) for name in feature.names], column_array(table[ACTION], feature)[rows], states, info.fps


def _check(robot: Robot, names: list[str], root: Path) -> None:
    if set(names) != set(robot.action_features):
        raise ConfigError(
            "the episode's actions are not this robot's",
            field="robot.type",
            found=f"{robot.name}: {', '.join(robot.action_features)}",
            expected=f"{', '.join(names)} ({root})",
        )


def _report(
    config: ReplayConfig,
    names: list[str],
    sent: np.ndarray,
    measured: np.ndarray,
    states: dict[str, np.ndarray],
    timing: Timing,
    length: int,
) -> Replayed:
    measurable = [place for place in range(len(names)) if np.isfinite(measured[:, place]).all()]
    lags = range(min(len(sent), round(_LAGS * timing.fps) + 1))
    errors = [_rms((_away(sent, measured, lag))[:, measurable]) for lag in lags]
    lag = int(np.argmin(errors))
    of_recording = {
        names[place]: _error(measured[:, place] - states[names[place]][: len(measured)])
        for place in measurable
        if names[place] in states
    }
    away: dict[int, Any] = {each: _away(sent, measured, each) for each in (0, lag)}
    return Replayed(
        root=config.dataset.place,
        episode=config.dataset.episode,
        timing=timing,
        lag_s=lag / timing.fps,
        commanded={names[place]: _error(away[lag][:, place]) for place in measurable},
        at_once={names[place]: _error(away[0][:, place]) for place in measurable},
        recorded=of_recording,
        stopped=len(sent) < length,
    )


def _away(sent: np.ndarray, measured: np.ndarray, lag: int) -> np.ndarray:
    """Measured positions, `lag` frames later, against those that were sent."""
    return measured[lag:] - sent[: len(sent) - lag]


def _error(away: np.ndarray) -> JointError:
    return JointError(rms=_rms(away), max=float(np.abs(away).max()))


def _rms(away: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(away))))

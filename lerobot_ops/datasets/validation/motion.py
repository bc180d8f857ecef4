"""Checks of how state and action move: dimensions that never change, that stay at their limit, or that jump."""

from collections.abc import Iterator

import numpy as np

from lerobot_ops.datasets.validation.checks import Finding, Severity, counted, finding, listed
from lerobot_ops.datasets.validation.evidence import Evidence

SATURATED = 0.5
"""Share of the frames at one limit from which a dimension is called saturated."""
TWO_VALUED = 0.98
"""Share of the frames at both limits together from which a dimension is a switch, such as a gripper."""
JUMP = 10.0
"""Times the step that 99 of 100 steps stay below: a larger one is a jump, if it is large beside the range, too."""
JUMP_OF_RANGE = 0.25
MOST_JUMPS = 0.002
"""Share of the steps; a dimension that takes large steps more often just moves so. Four are never too many."""
_MOVING = ("action", "observation.state")


def check_motion(evidence: Evidence) -> Iterator[Finding]:
    """All checks of this module."""
    yield from _constant_dimensions(evidence)
    for name in _MOVING:
        values = evidence.columns.get(name)
        if values is not None and len(values) > 1 and values.dtype.kind == "f":
            rows = values.reshape(len(values), -1)
            yield from _saturated_dimensions(evidence, name, rows)
            yield from _jumps(evidence, name, rows)


def _constant_dimensions(evidence: Evidence) -> Iterator[Finding]:
    for name, values in evidence.columns.items():
        if len(values) < 2 or not (name == "action" or name.startswith("observation.")):
            continue
        rows = values.reshape(len(values), -1)
        constant = np.flatnonzero((rows == rows[0]).all(0))
        if not len(constant):
            continue
        message = (
            f"{counted(len(constant), 'dimension')} of {name!r} (of {rows.shape[1]}) never"
            f" change{'s' if len(constant) == 1 else ''}: {listed(_labels(evidence, name, constant))}"
        )
        fix = "check the sensor or motor, or leave the feature out; its standard deviation is 0"
        severity: Severity = "warning" if name in _MOVING else "info"
        yield finding("constant-dimension", message, place=f"data {name}", fix=fix, severity=severity)


def _saturated_dimensions(evidence: Evidence, name: str, rows: np.ndarray) -> Iterator[Finding]:
    low, high = rows.min(0), rows.max(0)
    at_low, at_high = (rows == low).mean(0), (rows == high).mean(0)
    # Rest is no saturation: a limit of 0 is what a dimension that only ever moves one way has while it does not.
    shares = np.maximum(np.where(low == 0, 0, at_low), np.where(high == 0, 0, at_high))
    found = np.flatnonzero((shares > SATURATED) & (at_low + at_high < TWO_VALUED) & (low < high))
    labels = _labels(evidence, name, found)
    shown = [f"{label} ({shares[dim]:.0%})" for dim, label in zip(found, labels, strict=True) if "gripper" not in label]
    if shown:
        message = f"{counted(len(shown), 'dimension')} of {name!r} at a limit in most frames: {listed(shown)}"
        fix = "check the limits of the motor and the scale of the values; what lies behind the limit is lost"
        yield finding("saturated-dimension", message, place=f"data {name}", fix=fix)


def _jumps(evidence: Evidence, name: str, rows: np.ndarray) -> Iterator[Finding]:
    episode = evidence.columns.get("episode_index")
    low, high = evidence.range(name)
    if episode is None or not np.isfinite(high - low).all():
        return
    steps = np.abs(np.diff(rows, axis=0)).astype(np.float64)
    steps[episode[1:] != episode[:-1]] = 0
    steps[~np.isfinite(steps)] = 0
    usual = np.quantile(steps, 0.99, axis=0)
    large = (steps > JUMP * usual) & (steps > JUMP_OF_RANGE * (high - low)) & (usual > 0)
    large &= large.sum(0) <= np.maximum(4, MOST_JUMPS * len(steps))
    places = np.argwhere(large)
    if not len(places):
        return
    row, dim = max(places.tolist(), key=lambda place: steps[place[0], place[1]] / usual[place[1]])
    begin = evidence.runs.get(int(episode[row]), (0, 0))[0]
    message = (
        f"{counted(len(places), 'step')} of {name!r} far beyond the others: {_labels(evidence, name, [dim])[0]} goes by"
        f" {steps[row, dim]:.4g} at frame {row + 1 - begin} of episode {episode[row]}, and by less than"
        f" {usual[dim]:.4g} in 99 of 100 steps"
    )
    fix = "look at these episodes: a reading that is wrong, an angle that wraps around, or frames that are missing"
    yield finding("jumps", message, place=f"data {name}", fix=fix, episodes=episode[places[:, 0]])


def _labels(evidence: Evidence, name: str, dims: np.ndarray | list[int]) -> list[str]:
    """What the dimensions are called, or their numbers."""
    feature = evidence.info.features[name]
    names = feature.names
    if isinstance(names, list) and len(names) == int(np.prod(feature.shape)):
        return [str(names[dim]) for dim in dims]
    return [str(dim) for dim in dims]

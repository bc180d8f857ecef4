"""Checks of `meta/stats.json` and of the episodes' statistics: present, plausible, and those of the data."""

import itertools
from collections.abc import Iterator

import numpy as np

from lerobot_ops.datasets.info import DEFAULT_FEATURES, RELATIVE_ACTIONS_PATH, STATS_PATH, Feature
from lerobot_ops.datasets.tables import STATISTICS
from lerobot_ops.datasets.validation.checks import Finding, Severity, counted, finding, listed
from lerobot_ops.datasets.validation.evidence import Evidence

_RECOMPUTE = "compute them anew: lerobot-ops edit --operation.type=recompute_stats (as every other edit does, too)"
_NEEDED = ("min", "max", "mean", "std", "count")
_ORDERED = ("min", "q01", "q10", "q50", "q90", "q99", "max")
CLOSE = 1e-3
"""Share of a dimension's range by which statistics may differ from the data: estimates in float32 do, by far less."""


def check_statistics(evidence: Evidence) -> Iterator[Finding]:
    """All checks of this module."""
    if evidence.stats is not None:
        for name, feature in evidence.info.features.items():
            if feature.is_numeric or feature.is_camera:
                yield from _check_feature(evidence, name, feature, evidence.stats.get(name, {}))
    yield from _check_episodes(evidence)


def _check_feature(evidence: Evidence, name: str, feature: Feature, stats: dict[str, np.ndarray]) -> Iterator[Finding]:
    place = f"{STATS_PATH} {name}"
    lacking = [statistic for statistic in STATISTICS if statistic not in stats]
    if lacking:
        # LeRobot adds features without any statistics, and its normaliser passes over them.
        severity: Severity = "error" if stats and set(lacking) & set(_NEEDED) else "warning"
        message = f"{name!r} has no {listed(lacking, 10) if stats else 'statistics, so it is not normalised'}"
        yield finding("stats-missing", message, place=place, fix=_RECOMPUTE, severity=severity)
    expected = (feature.size[2], 1, 1) if feature.is_camera and len(feature.shape) in (2, 3) else feature.shape
    shapes = {s: value.shape for s, value in stats.items() if s in STATISTICS and s != "count"}
    wrong = {statistic: shape for statistic, shape in shapes.items() if shape != expected}
    if wrong:
        statistic, shape = next(iter(wrong.items()))
        message = f"{statistic} of {name!r} has shape {list(shape)}, expected {list(expected)}"
        yield finding("stats-missing", message, place=place, fix=_RECOMPUTE)
        return
    strange = [s for s, value in stats.items() if s in STATISTICS and value.dtype.kind not in "biuf"]
    if strange:
        message = f"{listed(strange)} of {name!r} is not made of numbers"
        yield finding("stats-implausible", message, place=place, fix=_RECOMPUTE)
        return
    problem = _implausible(stats, feature)
    if problem:
        yield finding("stats-implausible", f"{name!r}: {problem}", place=place, fix=_RECOMPUTE)
    elif not set(_NEEDED) & set(lacking) and not _is_relative(evidence, name):
        yield from _stale(evidence, name, stats)


def _implausible(stats: dict[str, np.ndarray], feature: Feature) -> str | None:
    infinite = [name for name, value in stats.items() if name in STATISTICS and not np.isfinite(value).all()]
    if infinite:
        return f"{listed(infinite)} is not finite"
    low, high = stats.get("min"), stats.get("max")
    if low is None or high is None:
        return None
    slack = 1e-6 + CLOSE * (high - low)
    for name in (*_ORDERED, "mean"):
        if name in stats and ((stats[name] < low - slack).any() or (stats[name] > high + slack).any()):
            return f"{name} is outside of min to max"
    present = [name for name in _ORDERED if name in stats]
    for before, after in itertools.pairwise(present):
        if (stats[before] > stats[after] + slack).any():
            return f"{before} is greater than {after}"
    if "std" in stats and ((stats["std"] < 0).any() or (stats["std"] > high - low + slack).any()):
        return "std is negative or greater than the range"
    if "count" in stats and (stats["count"] < 1).any():
        return "count is less than 1"
    if feature.is_camera and not feature.is_depth and ((low < 0).any() or (high > 1).any()):
        return "a colour camera's statistics are in [0, 1]"
    return None


def _stale(evidence: Evidence, name: str, stats: dict[str, np.ndarray]) -> Iterator[Finding]:
    values = evidence.columns.get(name)
    if values is None or not evidence.data_complete or not len(values):
        return
    rows = values.reshape(len(values), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        return
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    slack = 1e-5 + CLOSE * (found["max"] - found["min"]) + 1e-4 * np.abs(found["mean"])
    wrong = [key for key, value in found.items() if (np.abs(stats[key].reshape(-1) - value) > slack).any()]
    if wrong:
        dim = int(np.argmax(np.abs(stats[wrong[0]].reshape(-1) - found[wrong[0]]) - slack))
        message = (
            f"{listed(wrong)} of {name!r} are not those of the data: {wrong[0]} says"
            f" {stats[wrong[0]].reshape(-1)[dim]:.6g}, the data has {found[wrong[0]][dim]:.6g}"
        )
        if name in DEFAULT_FEATURES:
            message += " (LeRobot's editing leaves it so; nothing learns from it)"
        severity: Severity = "info" if name in DEFAULT_FEATURES else "warning"
        yield finding("stats-stale", message, place=f"{STATS_PATH} {name}", fix=_RECOMPUTE, severity=severity)


def _check_episodes(evidence: Evidence) -> Iterator[Finding]:
    table = evidence.episodes
    if table is None:
        return
    features = [name for name, feature in evidence.info.features.items() if feature.is_numeric or feature.is_camera]
    lacking = []
    for name in features:
        columns = [f"stats/{name}/{statistic}" for statistic in _NEEDED]
        if any(column not in table.column_names or table.column(column).null_count for column in columns):
            lacking.append(name)
    if lacking:
        message = f"episodes lack statistics of their own for {counted(len(lacking), 'feature')}: {listed(lacking)}"
        yield finding("episode-stats", message, place="meta/episodes stats/*", fix=_RECOMPUTE)
    for name in evidence.columns.keys() - DEFAULT_FEATURES.keys() - set(lacking):
        if not _is_relative(evidence, name):
            yield from _stale_episodes(evidence, name)


def _is_relative(evidence: Evidence, name: str) -> bool:
    """Whether a feature's statistics are not those of its values, but of their distance from the state."""
    return name == "action" and (evidence.root / RELATIVE_ACTIONS_PATH).is_file()


def _stale_episodes(evidence: Evidence, name: str) -> Iterator[Finding]:
    assert evidence.episodes is not None
    values = evidence.columns[name].reshape(len(evidence.columns[name]), -1)
    wrong = []
    for number, said in enumerate(evidence.episodes.column(f"stats/{name}/mean").to_pylist()):
        begin, end = evidence.runs.get(number, (0, 0))
        rows = values[begin:end].astype(np.float64)
        if not len(rows) or not np.isfinite(rows).all():
            continue
        mean = np.array(said, np.float64).reshape(-1)
        slack = 1e-5 + CLOSE * np.ptp(rows, axis=0) + 1e-4 * np.abs(rows.mean(0))
        if mean.shape != rows.shape[1:] or not (np.abs(mean - rows.mean(0)) <= slack).all():
            wrong.append(number)
    if wrong:
        message = f"the mean of {name!r} is not that of the data in {counted(len(wrong), 'episode')}"
        place = f"meta/episodes stats/{name}/mean"
        yield finding("episode-stats", message, place=place, fix=_RECOMPUTE, episodes=wrong)

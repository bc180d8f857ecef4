"""The statistics of a dataset that grows by an episode at a time, at the same cost for every episode."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lerobot_ops.datasets.histograms import Histograms
from lerobot_ops.datasets.info import DatasetInfo, Feature
from lerobot_ops.datasets.statistics import QUANTILE_NAMES, Histogram, merge_stats, numeric_stats
from lerobot_ops.datasets.tables import Stats, column_array, load_data

_MOST_VALUES = 1 << 25
"""Values of a column whose statistics are computed at once."""
_MIXED_DIMENSIONS = 64
"""Dimensions of an array for which merging quantiles is cheap."""
_NEEDED = {"min", "max", "mean", "std", "count"}


class RunningStats:
    """What `stats.json` holds while recording: exact for cameras; of numbers all but the quantiles is exact.

    `base` are the cameras' statistics of the episodes whose pixels were not counted; a camera without any there has
    none overall.
    """

    def __init__(self, numeric: Stats, base: Stats) -> None:
        self.numeric = dict(numeric)
        self._base, self._counts = base, dict[str, Histogram]()
        self._begun = bool(numeric)

    def add(self, stats: Stats, histograms: Histograms) -> None:
        """Add an episode: the statistics of its numbers, the pixel counts of its cameras."""
        for name, own in stats.items():
            if name in self.numeric:
                self.numeric[name] = _merged(self.numeric[name], own)
            elif name not in histograms and not self._begun:  # else earlier episodes have none
                self.numeric[name] = own
        self._begun = True
        self.count(histograms)

    def count(self, histograms: Histograms) -> None:
        """Add the pixel counts of an episode's cameras."""
        for name, own in histograms.items():
            known = self._counts.get(name)
            self._counts[name] = own if known is None else known + own

    def cameras(self, level_values: Callable[[str], np.ndarray]) -> Stats:
        """The cameras' statistics over all episodes."""
        found: Stats = {}
        for name, counts in self._counts.items():
            own = counts.stats(level_values(name))
            if name not in self._base:
                found[name] = own
            elif self._base[name].keys() >= _NEEDED:
                found[name] = merge_stats([self._base[name], own])
        return found | {name: own for name, own in self._base.items() if name not in self._counts and own}


def exact_stats(root: Path, info: DatasetInfo) -> Stats:
    """Statistics of every numeric feature over all rows, a column at a time; without those that are not finite."""
    found: Stats = {}
    for name, feature in info.numeric.items():
        values = column_array(load_data(root, [name]).column(name), feature)
        if len(values) and (values.dtype.kind != "f" or np.isfinite(values).all()):
            found[name] = _in_parts(values, feature)
    return found


def _merged(known: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The statistics of both; for large arrays the quantiles are only the weighted means of theirs."""
    if known["mean"].size <= _MIXED_DIMENSIONS or not known.keys() & own.keys() >= {*QUANTILE_NAMES}:
        return merge_stats([known, own])
    parts = [{name: part[name] for name in _NEEDED} for part in (known, own)]
    weight = own["count"][0] / (known["count"][0] + own["count"][0])
    quantiles = {name: known[name] + weight * (own[name] - known[name]) for name in QUANTILE_NAMES}
    return merge_stats(parts) | quantiles


def _in_parts(values: np.ndarray, feature: Feature) -> dict[str, np.ndarray]:
    """`numeric_stats`, of a few dimensions at a time when there are many values."""
    rows = values.reshape(len(values), -1)
    step = max(1, _MOST_VALUES // len(rows))
    parts = [numeric_stats(rows[:, first : first + step]) for first in range(0, rows.shape[1], step)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "count"}
    return {name: value.reshape(feature.shape) for name, value in joined.items()} | {"count": parts[0]["count"]}

"""Statistics of features: min, max, mean, std, count and quantiles, per episode and overall.

Format: LeRobotDataset v3.0, `meta/stats.json` and the `stats/*` columns of the episodes table. Numeric features have
arrays of the feature's shape; cameras have (channels, 1, 1) in [0, 1] (a depth camera: in its own unit). All values
are float64 except `count`, int64 of shape (1,).

LeRobot estimates quantiles from histograms and merges them as envelopes. Here numeric statistics are exact, those of
an episode's camera are exact over the pixels looked at, and merged ones are exact but for the quantiles.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.tables import Stats
from lerobot_ops.errors import DatasetError

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
QUANTILE_NAMES = tuple(f"q{round(quantile * 100):02d}" for quantile in QUANTILES)
LARGE_IMAGE = 300
"""Pixels of the longer side from which images are subsampled to about `SMALL_IMAGE`, as LeRobot does."""
SMALL_IMAGE = 150
PIXEL_VALUES = np.arange(256) / 255
"""What the levels of a colour camera stand for in its statistics."""


def numeric_stats(values: np.ndarray) -> dict[str, np.ndarray]:
    """Exact statistics over the first axis of `values` [frames, *shape]; a scalar feature [frames] gives shape (1,)."""
    if len(values) == 0:
        raise DatasetError("statistics need at least one frame", found="0 frames")
    rows = values.reshape(len(values), -1).astype(np.float64)
    shape = values.shape[1:] or (1,)
    quantiles = np.quantile(rows, QUANTILES, axis=0)
    stats = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    stats |= dict(zip(QUANTILE_NAMES, quantiles, strict=True))
    return {name: value.reshape(shape) for name, value in stats.items()} | {"count": np.array([len(values)])}


def all_numeric_stats(columns: Mapping[str, np.ndarray], features: Mapping[str, Feature]) -> Stats:
    """`numeric_stats` of every numeric feature, in the order of `features`."""
    return {name: numeric_stats(columns[name]) for name, feature in features.items() if feature.is_numeric}


@dataclass(frozen=True)
class Histogram:
    """How often each level occurs among a camera's pixels: exact statistics that can be added up over episodes."""

    counts: np.ndarray
    """int64 [channels, levels]"""
    frames: int

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.counts + other.counts, self.frames + other.frames)

    def stats(self, values: np.ndarray = PIXEL_VALUES) -> dict[str, np.ndarray]:
        """Statistics of all pixels, shape (channels, 1, 1), when level i stands for `values[i]`, ascending.

        `count` is the number of frames.
        """
        if self.frames == 0:
            raise DatasetError("statistics need at least one frame", found="0 frames")
        pixels = self.counts.sum(1, keepdims=True)
        mean = (self.counts * values).sum(1) / pixels[:, 0]
        variance = (self.counts * (values - mean[:, None]) ** 2).sum(1) / pixels[:, 0]
        seen = self.counts > 0
        stats = {"min": values[seen.argmax(1)], "max": values[len(values) - 1 - seen[:, ::-1].argmax(1)]}
        stats |= {"mean": mean, "std": np.sqrt(variance)}
        cumulative = self.counts.cumsum(1)
        for name, quantile in zip(QUANTILE_NAMES, QUANTILES, strict=True):
            stats[name] = np.array([_histogram_quantile(counts, quantile, values) for counts in cumulative])
        return {name: value.reshape(-1, 1, 1) for name, value in stats.items()} | {"count": np.array([self.frames])}


class CameraStats:
    """Statistics of a camera's frames, gathered one by one as a `Histogram`."""

    def __init__(self, channels: int = 3, levels: int = 256) -> None:
        self._counts = np.zeros((channels, levels), np.int64)
        self._frames = 0

    def add(self, frame: np.ndarray) -> None:
        """Count the pixels of one frame of levels [height, width, channels]; large ones are subsampled."""
        height, width = frame.shape[:2]
        if max(height, width) >= LARGE_IMAGE:
            step = (width if width > height else height) // SMALL_IMAGE
            frame = frame[::step, ::step]
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(frame[..., channel].ravel(), minlength=len(counts))
        self._frames += 1

    def histogram(self) -> Histogram:
        """What was counted so far."""
        return Histogram(self._counts.copy(), self._frames)

    def result(self, values: np.ndarray = PIXEL_VALUES) -> dict[str, np.ndarray]:
        """The statistics of the frames so far: see `Histogram.stats`."""
        return self.histogram().stats(values)


def camera_stats(frames: Iterable[np.ndarray], channels: int = 3) -> dict[str, np.ndarray]:
    """Statistics of uint8 frames [height, width, channels]: see `CameraStats`."""
    stats = CameraStats(channels)
    for frame in frames:
        stats.add(frame)
    return stats.result()


def sample_indices(length: int) -> np.ndarray:
    """The frames of an episode that LeRobot looks at for a camera's statistics: all up to 100, then fewer and fewer."""
    samples = max(min(100, length), min(int(length**0.75), 10_000))
    return np.round(np.linspace(0, length - 1, samples)).astype(int)


def merge_stats(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Statistics of the union of what `parts` describe, weighted by `count`.

    Exact for min, max, mean, std and count. Quantiles come from the weighted mean of the parts' distribution
    functions, each linear between its known quantiles; they are left out unless every part has them. Use it where the
    values themselves are not at hand (cameras); `numeric_stats` over all frames is exact.
    """
    if not parts:
        raise DatasetError("statistics need at least one episode", found="0 episodes")
    counts = np.array([int(np.ravel(part["count"])[0]) for part in parts], np.float64)
    shape = np.shape(parts[0]["mean"])
    stacked = {
        name: np.stack([np.asarray(part[name], np.float64).reshape(-1) for part in parts])
        for name in ("min", "max", "mean", "std", *QUANTILE_NAMES)
        if all(name in part for part in parts)
    }
    weights = (counts / counts.sum())[:, None]
    mean = (weights * stacked["mean"]).sum(0)
    variance = (weights * (stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)).sum(0)
    merged = {"min": stacked["min"].min(0), "max": stacked["max"].max(0), "mean": mean, "std": np.sqrt(variance)}
    if all(name in stacked for name in QUANTILE_NAMES):
        known = np.stack([stacked[name] for name in ("min", *QUANTILE_NAMES, "max")])
        merged |= dict(zip(QUANTILE_NAMES, _mixture_quantiles(known, weights[:, 0]), strict=True))
    return {name: value.reshape(shape) for name, value in merged.items()} | {"count": np.array([int(counts.sum())])}


def overall_stats(
    episodes: Sequence[Stats], columns: Mapping[str, np.ndarray], features: Mapping[str, Feature]
) -> Stats:
    """What `stats.json` holds: exact for the numeric `columns` [frames, ...], merged from `episodes` for cameras."""
    stats = all_numeric_stats(columns, features)
    for name, feature in features.items():
        if feature.is_camera and all(name in episode for episode in episodes):
            stats[name] = merge_stats([episode[name] for episode in episodes])
    return stats


def _histogram_quantile(cumulative: np.ndarray, quantile: float, levels: np.ndarray) -> float:
    """The linearly interpolated quantile, as numpy's, of values that are given as a cumulative histogram."""
    position = (cumulative[-1] - 1) * quantile
    low, high = np.searchsorted(cumulative, [np.floor(position), np.ceil(position)], side="right")
    return float(levels[low] + (levels[high] - levels[low]) * (position - np.floor(position)))


def _mixture_quantiles(known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[quantiles, dims] of a mixture whose parts have the values `known` [knots, parts, dims] at their quantiles."""
    levels = np.array([0.0, *QUANTILES, 1.0])
    # A quantile estimated by another tool may lie a hair outside of the part's range.
    known = np.maximum.accumulate(np.clip(known, known[0], known[-1]), axis=0)
    result = np.empty((len(QUANTILES), known.shape[2]))
    for dim in range(known.shape[2]):
        points = np.unique(known[:, :, dim])
        reached = np.zeros(len(points))
        before = np.zeros(len(points))
        for part, weight in enumerate(weights):
            knots = known[:, part, dim]
            reached += weight * _distribution(points, knots, levels, "right")
            before += weight * _distribution(points, knots, levels, "left")
        # Each point is a step from `before` to `reached`, and the distribution is linear from one point to the next.
        heights = np.stack([before, reached], axis=1).ravel()
        result[:, dim] = np.interp(QUANTILES, np.maximum.accumulate(heights), np.repeat(points, 2))
    return result


def _distribution(points: np.ndarray, knots: np.ndarray, levels: np.ndarray, side: str) -> np.ndarray:
    """The share of values up to (`right`) or below (`left`) each of `points`, linear between `knots`."""
    values, first = np.unique(knots, return_index=True)
    last = len(knots) - 1 - np.unique(knots[::-1], return_index=True)[1]
    upper, lower = levels[last], levels[first]
    if len(values) == 1:
        return (points >= values[0] if side == "right" else points > values[0]).astype(np.float64)
    place = np.clip(np.searchsorted(values, points, side="right") - 1, 0, len(values) - 2)
    share = (points - values[place]) / (values[place + 1] - values[place])
    between = upper[place] + np.clip(share, 0, 1) * (lower[place + 1] - upper[place])
    exact = np.searchsorted(values, points)
    hit = (exact < len(values)) & (values[np.minimum(exact, len(values) - 1)] == points)
    at = (upper if side == "right" else lower)[np.minimum(exact, len(values) - 1)]
    between = np.where(hit, at, between)
    return np.where(points < values[0], 0.0, np.where(points > values[-1], 1.0, between))

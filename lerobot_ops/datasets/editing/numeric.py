"""Statistics of all numeric features at once, over the rows of an episode and of a whole dataset.

The numbers are those of `statistics.numeric_stats`; one matrix for all features makes them cheap.
"""

from collections.abc import Mapping

import numpy as np

from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.statistics import QUANTILE_NAMES, QUANTILES
from lerobot_ops.datasets.tables import Stats


def matrix_of(columns: Mapping[str, np.ndarray], features: Mapping[str, Feature]) -> np.ndarray:
    """The columns [rows, *shape] of numeric features one below the other: float64 [dimensions, rows]."""
    count = len(next(iter(columns.values())))
    width = sum(int(np.prod(feature.shape)) for feature in features.values())
    matrix = np.empty((width, count))
    at = 0
    for name, feature in features.items():
        size = int(np.prod(feature.shape))
        matrix[at : at + size] = columns[name].reshape(count, size).T
        at += size
    return matrix


def matrix_stats(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of every row of `matrix` [dimensions, n]: each [dimensions], but for count [1]."""
    ordered = np.sort(matrix, axis=1)
    count = matrix.shape[1]
    # Copies: a view would keep the whole matrix in memory.
    stats = {"min": ordered[:, 0].copy(), "max": ordered[:, -1].copy(), "mean": matrix.mean(1), "std": matrix.std(1)}
    for name, quantile in zip(QUANTILE_NAMES, QUANTILES, strict=True):
        low, share = divmod((count - 1) * quantile, 1)
        below, above = ordered[:, int(low)], ordered[:, min(int(low) + 1, count - 1)]
        stats[name] = between(below, above, share)
    return stats | {"count": np.array([count])}


def between(below: np.ndarray, above: np.ndarray, share: float) -> np.ndarray:
    """Linear interpolation, rounded as `np.quantile` rounds it."""
    difference = above - below
    value = below + difference * share if share < 0.5 else above - difference * (1 - share)
    return np.clip(value, below, above)


def feature_stats(stats: Mapping[str, np.ndarray], features: Mapping[str, Feature], rows: int | None = None) -> Stats:
    """What `matrix_stats` found, feature by feature, in the shapes of the format.

    With `rows` the statistics are those of as many episodes, [dimensions, rows], and the result has them as first axis.
    """
    result: Stats = {}
    before = () if rows is None else (rows,)
    at = 0
    for name, feature in features.items():
        size = int(np.prod(feature.shape))
        result[name] = {
            statistic: (values if statistic == "count" else values[at : at + size]).T.reshape(
                *before, *((1,) if statistic == "count" else feature.shape)
            )
            for statistic, values in stats.items()
        }
        at += size
    return result

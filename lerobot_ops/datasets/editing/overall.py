"""The statistics of a whole edited dataset, gathered episode by episode in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.editing.cameras import Found, level_values
from lerobot_ops.datasets.editing.numeric import feature_stats, matrix_stats
from lerobot_ops.datasets.editing.quantiles import streamed_quantiles
from lerobot_ops.datasets.info import DatasetInfo, Feature
from lerobot_ops.datasets.statistics import QUANTILE_NAMES, Histogram, merge_stats
from lerobot_ops.datasets.tables import Stats, column_array

MOST_VALUES = 1 << 22
"""Numbers that are kept in memory, 32 MB of them; of more, quantiles are found by reading the data again."""
_MERGED = 64
"""Episodes of a camera without pixel counts whose statistics are merged at a time."""
_BATCH = 1 << 15


class Overall:
    """Takes each episode's numbers and its cameras' statistics, then gives those of the dataset."""

    def __init__(self, info: DatasetInfo, frames: int) -> None:
        self._info = info
        width = sum(int(np.prod(feature.shape)) for feature in info.numeric.values())
        self._matrix = np.empty((width, frames)) if width * frames <= MOST_VALUES else None
        self._frames = 0
        self._numeric: dict[str, np.ndarray] = {}
        self._merged: dict[str, list[list[Mapping[str, np.ndarray]]]] = {}
        self._counts: dict[str, Histogram | None] = {}

    def add(self, matrix: np.ndarray, stats: Mapping[str, np.ndarray], cameras: Mapping[str, Found | None]) -> None:
        """Add an episode: its numbers, `matrix_stats` of them, and what is known of its cameras."""
        count = matrix.shape[1]
        if self._matrix is not None:
            self._matrix[:, self._frames : self._frames + count] = matrix
        else:
            own = {name: values for name, values in stats.items() if name not in QUANTILE_NAMES}
            self._numeric = merge_stats([self._numeric, own]) if self._numeric else own
        self._frames += count
        for key, found in cameras.items():
            if found is not None:
                self._add_camera(key, *found)

    def stats(self, files: Sequence[Path]) -> Stats:
        """The statistics of everything; `files` are the data files, which have been written."""
        if self._matrix is not None:
            whole = feature_stats(matrix_stats(self._matrix), self._info.numeric)
        else:
            whole = feature_stats(self._numeric, self._info.numeric)
            for name, feature in self._info.numeric.items():
                whole[name] |= _quantiles(files, name, feature)
        for key, levels in self._merged.items():
            counted = self._counts[key]
            values = level_values(self._info.features[key])
            whole[key] = counted.stats(values) if counted else merge_stats([part for parts in levels for part in parts])
        return whole

    def _add_camera(self, key: str, stats: Mapping[str, np.ndarray], counted: Histogram | None) -> None:
        if key not in self._merged:
            self._merged[key], self._counts[key] = [[]], counted
        else:
            before = self._counts[key]
            self._counts[key] = before + counted if before and counted else None
        levels = self._merged[key]
        levels[0].append(stats)
        for number, parts in enumerate(levels):  # a merge takes time in proportion to the square of what it merges
            if len(parts) == _MERGED:
                if number + 1 == len(levels):
                    levels.append([])
                levels[number + 1].append(merge_stats(parts))
                parts.clear()


def _quantiles(files: Sequence[Path], name: str, feature: Feature) -> dict[str, np.ndarray]:
    def read() -> Iterator[np.ndarray]:
        for path in files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH, columns=[name]):
                    column = pa.chunked_array([batch.column(name)])
                    yield column_array(column, feature).reshape(batch.num_rows, -1)

    values = streamed_quantiles(read)
    return {key: own.reshape(feature.shape) for key, own in zip(QUANTILE_NAMES, values, strict=True)}

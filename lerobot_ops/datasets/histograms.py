"""`meta/histograms/`: the pixel counts behind the statistics of every episode's cameras.

LeRobot's format keeps quantiles of episodes, from which those of a whole dataset do not follow. The counts add up, so
with them the statistics of an edited dataset are exact without a look at a pixel. Readers that do not know these files
do not see them; a dataset that another tool has changed may have some that no longer fit (see `fits`).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.arrays import lists, numbers, texts
from lerobot_ops.datasets.statistics import Histogram
from lerobot_ops.datasets.tables import plain_values, read_parquet
from lerobot_ops.errors import DatasetError

HISTOGRAMS_PATH = "meta/histograms/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"

Histograms = dict[str, Histogram]
"""Camera -> pixel counts of one episode."""

_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("feature", pa.string()),
        ("frames", pa.int64()),
        ("channels", pa.int64()),
        ("counts", pa.list_(pa.int64())),
    ]
)
HISTOGRAM_COLUMNS = _SCHEMA.names


def write_histograms(path: Path, episodes: Iterable[tuple[int, Histograms]]) -> None:
    """Write one file: the pixel counts of each of `episodes` (its index, its cameras); no file when there are none."""
    rows = [(number, name, found) for number, histograms in episodes for name, found in histograms.items()]
    if rows:
        counts = [found.counts.reshape(-1) for _, _, found in rows]
        columns = [
            numbers(np.array([number for number, _, _ in rows])),
            texts([name for _, name, _ in rows]),
            numbers(np.array([found.frames for _, _, found in rows])),
            numbers(np.array([len(found.counts) for _, _, found in rows])),
            lists(numbers(np.concatenate(counts)), [len(levels) for levels in counts]).cast(_SCHEMA.types[-1]),
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")


def load_histograms(root: Path | str) -> dict[int, Histograms]:
    """Episode -> its cameras' pixel counts; only of the episodes that have some. Raises DatasetError."""
    found: dict[int, Histograms] = {}
    for path in sorted(Path(root).glob("meta/histograms/*/*.parquet")):
        for number, histograms in load_histogram_file(path).items():
            found.setdefault(number, {}).update(histograms)
    return found


def load_histogram_file(path: Path) -> dict[int, Histograms]:
    """What one file has of it."""
    return histograms_in(read_parquet(path, _SCHEMA.names), path)


def histograms_in(table: pa.Table, path: Path) -> dict[int, Histograms]:
    """What some rows of the file `path` have of it."""
    found: dict[int, Histograms] = {}
    if table.schema.types != _SCHEMA.types:
        raise DatasetError(
            "a file of pixel counts has other columns",
            file=path,
            found=str(table.schema.types),
            fix="remove meta/histograms: `lerobot-ops edit` can make it again (recompute_stats)",
        )
    counts = table.column("counts")
    names = [table.column(name).to_pylist() for name in ("episode_index", "feature", "frames", "channels")]
    for row, (number, feature, frames, channels) in enumerate(zip(*names, strict=True)):
        levels = plain_values(counts[row].values).reshape(channels, -1)
        found.setdefault(number, {})[feature] = Histogram(levels, frames)
    return found


def fits(histogram: Histogram, values: np.ndarray, stats: Mapping[str, np.ndarray]) -> bool:
    """Whether pixel counts are those behind an episode's `stats` of that camera; `values` as in `Histogram.stats`."""
    if histogram.counts.shape[1] != len(values) or not {"count", "min", "max", "mean"} <= stats.keys():
        return False
    own = histogram.stats(values)
    return int(np.ravel(stats["count"])[0]) == histogram.frames and all(
        np.shape(stats[name]) == own[name].shape and np.allclose(stats[name], own[name], rtol=0, atol=1e-9)
        for name in ("min", "max", "mean")
    )

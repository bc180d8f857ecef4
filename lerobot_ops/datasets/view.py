"""Some episodes of a dataset, as one run of frames: which they are, and where one begins and ends.

The episodes table alone decides what is in a dataset. While one is recorded, its counters may be an episode behind and
its last files may belong to an episode that was never finished.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import DatasetInfo
from lerobot_ops.datasets.tables import episodes_files, load_episodes, plain_values, read_parquet
from lerobot_ops.errors import DatasetError, did_you_mean

EpisodeFilter = Callable[[dict[str, Any]], bool]
"""Whether to keep an episode, by its row of the episodes table without the statistics."""

_PLACE = ("chunk_index", "file_index", "from_timestamp")


@dataclass(frozen=True)
class View:
    """Frames of the chosen episodes, one after the other; a row is a frame's position among them."""

    root: Path
    info: DatasetInfo
    table: dict[str, np.ndarray]
    """Column -> value per episode of the whole dataset, with the places in the data files and videos."""
    episodes: np.ndarray
    """int64[E]: the episodes of this view, ascending."""
    first: np.ndarray
    """int64[E]: the row of each episode's first frame."""
    end: np.ndarray
    """int64[E]: the row after each episode's last frame."""

    @property
    def frames(self) -> int:
        return int(self.end[-1]) if len(self.end) else 0

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each of `rows` the position of its episode in `episodes`, and its frame in the episode."""
        episode = np.searchsorted(self.end, rows, side="right")
        return episode, rows - self.first[episode]

    def window(self, rows: np.ndarray, deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows [B, times] that `deltas` frames away are inside of the episode, and which are only the nearest."""
        episode = np.searchsorted(self.end, rows, side="right")
        wanted = rows[:, None] + deltas
        inside = np.clip(wanted, self.first[episode, None], self.end[episode, None] - 1)
        return inside, inside != wanted


def view_of(
    root: Path, info: DatasetInfo, episodes: Iterable[int] | None = None, keep: EpisodeFilter | None = None
) -> View:
    """The episodes with these numbers that `keep` accepts; raises DatasetError when there are none."""
    table = _episode_table(root, info)
    chosen = _chosen(episodes, len(table["length"]), root)
    if keep is not None:
        chosen = _kept(root, chosen, keep)
    end = np.cumsum(table["length"][chosen])
    return View(root, info, table, chosen, end - table["length"][chosen], end)


def delta_indices(
    deltas: Mapping[str, Sequence[float]], info: DatasetInfo, tolerance_s: float
) -> dict[str, np.ndarray]:
    """Delta timestamps as numbers of frames; raises DatasetError when they do not fall on frames."""
    found: dict[str, np.ndarray] = {}
    for name, times in deltas.items():
        if name not in info.features:
            raise DatasetError(
                "delta timestamps for an unknown feature", field=name, fix=did_you_mean(name, info.features)
            )
        frames = np.asarray(times, np.float64) * info.fps
        off = np.abs(frames - np.round(frames)) / info.fps
        if not len(frames) or (off > tolerance_s).any():
            raise DatasetError(
                "delta timestamps do not fall on frames",
                field=name,
                found=list(times),
                expected=f"multiples of 1/{info.fps} s, within {tolerance_s:g} s",
            )
        found[name] = np.round(frames).astype(np.int64)
    return found


def _episode_table(root: Path, info: DatasetInfo) -> dict[str, np.ndarray]:
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    names += ["data/chunk_index", "data/file_index"]
    names += [f"videos/{key}/{field}" for key in info.video_keys for field in _PLACE]
    files = tuple((file, *_version(file)) for file in episodes_files(root))
    columns = _columns(root, files, tuple(names))
    length = columns["dataset_to_index"] - columns["dataset_from_index"]
    expected = np.arange(len(length))
    if not np.array_equal(columns["episode_index"], expected) or (length != columns["length"]).any():
        raise DatasetError(
            "the episodes table is not in order, or its lengths and row ranges disagree",
            file=root / "meta/episodes",
            fix="validate the dataset to see which episodes are wrong",
        )
    return columns


@lru_cache(maxsize=8)
def _columns(root: Path, files: tuple[Any, ...], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of the episodes table, read once for as long as its `files` are the same; nobody writes to them."""
    table = load_episodes(root, names)
    return {name: plain_values(table.column(name).combine_chunks()) for name in names}


def _version(file: Path) -> tuple[int, int, int]:
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _chosen(episodes: Iterable[int] | None, total: int, root: Path) -> np.ndarray:
    if episodes is None:
        return np.arange(total)
    chosen = np.unique(np.fromiter(episodes, dtype=np.int64))
    wrong = chosen[(chosen < 0) | (chosen >= total)]
    if len(wrong) or not len(chosen):
        raise DatasetError(
            "the dataset has no such episode" if len(wrong) else "no episode is chosen",
            file=root,
            field="episodes",
            found=wrong.tolist(),
            expected=f"0 to {total - 1}",
        )
    return chosen


def _kept(root: Path, chosen: np.ndarray, keep: EpisodeFilter) -> np.ndarray:
    rows: list[dict[str, Any]] = []
    for file in episodes_files(root):
        names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
        rows += read_parquet(file, names).to_pylist()
    kept = np.array([number for number in chosen if keep(rows[number])], np.int64)
    if not len(kept):
        raise DatasetError(
            "the filter keeps no episode", file=root, field="episode_filter", found=f"none of {len(chosen)} episodes"
        )
    return kept

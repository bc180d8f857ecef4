"""Joining recorded episodes into the files of a LeRobotDataset v3.0, in one order and with one result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.encoding import VideoEncoding
from lerobot_ops.datasets.episode import FRAMES_FILE, load_saved, to_arrow
from lerobot_ops.datasets.info import DEFAULT_FEATURES, MEGABYTE, DatasetInfo, Feature, write_info
from lerobot_ops.datasets.statistics import numeric_stats, overall_stats
from lerobot_ops.datasets.tables import (
    Stats,
    column_array,
    read_parquet,
    write_data,
    write_episodes,
    write_stats,
    write_tasks,
)
from lerobot_ops.datasets.video import Piece, cut_and_join, probe


@dataclass(frozen=True)
class _Saved:
    """One recorded episode: its folder, its place in the dataset, and its rows of the default features."""

    folder: Path
    tasks: list[str]
    defaults: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    stats: Stats

    @property
    def frames(self) -> int:
        return len(self.defaults["index"])


def join_episodes(root: Path, folders: Sequence[Path], info: DatasetInfo, encoding: VideoEncoding) -> DatasetInfo:
    """Write the dataset of the episodes in `folders` (see `episode`) into the directory `root`; return its info."""
    tasks: dict[str, int] = {}
    episodes: list[_Saved] = []
    begin = 0
    for number, folder in enumerate(folders):
        episodes.append(_load(folder, number, begin, tasks, info))
        begin += episodes[-1].frames
    rows = [_row(number, episode) for number, episode in enumerate(episodes)]
    _write_data_files(root, episodes, rows, info)
    features = dict(info.features)
    for key in info.video_keys:
        first = _write_video_files(root, key, episodes, rows, info)
        features[key] = features[key].model_copy(update={"info": probe(first).info() | encoding.info()})
    numeric = [*info.numeric]
    columns = {name: np.concatenate([episode.numeric[name] for episode in episodes]) for name in numeric}
    write_stats(root, overall_stats([episode.stats for episode in episodes], columns, info.features))
    write_tasks(root, list(tasks))
    write_episodes(root, rows, info)
    totals = {"total_episodes": len(episodes), "total_frames": begin, "total_tasks": len(tasks)}
    splits = {"train": f"0:{len(episodes)}"}
    info = info.model_copy(update={"features": features, "splits": splits, **totals})
    write_info(root, info)
    return info


def default_columns(number: int, begin: int, task_indices: np.ndarray, fps: int) -> dict[str, np.ndarray]:
    """The default features of an episode's frames, given its number and that of its first frame in the dataset."""
    frame_index = np.arange(len(task_indices), dtype=np.int64)
    return {
        "timestamp": (frame_index / fps).astype(np.float32),
        "frame_index": frame_index,
        "episode_index": np.full(len(task_indices), number, np.int64),
        "index": begin + frame_index,
        "task_index": task_indices.astype(np.int64),
    }


def fill_files(sizes: Sequence[float], limit: float, info: DatasetInfo) -> list[tuple[int, int]]:
    """The (chunk, file) of each item, a new file beginning where the sum of `sizes` would reach `limit`."""
    places: list[tuple[int, int]] = []
    place, filled = (0, 0), 0.0
    for size in sizes:
        if filled and filled + size >= limit:
            place, filled = info.next_file(*place), 0.0
        filled += size
        places.append(place)
    return places


def _load(folder: Path, number: int, begin: int, tasks: dict[str, int], info: DatasetInfo) -> _Saved:
    table, stats = load_saved(folder)
    names = table.column("task").to_pylist()
    indices = np.array([tasks.setdefault(name, len(tasks)) for name in names])
    defaults = default_columns(number, begin, indices, info.fps)
    stats |= {name: numeric_stats(values) for name, values in defaults.items()}
    user = {name: feature for name, feature in info.numeric.items() if name not in DEFAULT_FEATURES}
    numeric = {name: column_array(table.column(name), feature) for name, feature in user.items()}
    ordered = {name: stats[name] for name in info.features if name in stats}
    return _Saved(folder, list(dict.fromkeys(names)), defaults, numeric | defaults, ordered)


def _row(number: int, episode: _Saved) -> dict[str, Any]:
    index = episode.defaults["index"]
    return {
        "episode_index": number,
        "tasks": episode.tasks,
        "length": episode.frames,
        "dataset_from_index": int(index[0]),
        "dataset_to_index": int(index[-1]) + 1,
        "stats": episode.stats,
    }


def _write_data_files(root: Path, episodes: list[_Saved], rows: list[dict[str, Any]], info: DatasetInfo) -> None:
    sizes = [(episode.folder / FRAMES_FILE).stat().st_size for episode in episodes]
    places = fill_files(sizes, info.data_files_size_in_mb * MEGABYTE, info)
    for row, (chunk, file) in zip(rows, places, strict=True):
        row |= {"data/chunk_index": chunk, "data/file_index": file}
    for place in dict.fromkeys(places):
        here = (_data(episode, info.columns) for episode, there in zip(episodes, places, strict=True) if there == place)
        write_data(root / info.data_file(*place), here, info.columns)


def _data(episode: _Saved, columns: dict[str, Feature]) -> pa.Table:
    table = read_parquet(episode.folder / FRAMES_FILE)
    return pa.table(
        {
            name: to_arrow(episode.defaults[name], feature) if name in episode.defaults else table.column(name)
            for name, feature in columns.items()
        }
    )


def _write_video_files(
    root: Path, key: str, episodes: list[_Saved], rows: list[dict[str, Any]], info: DatasetInfo
) -> Path:
    """Join a camera's videos and enter their places in `rows`; return the first file."""
    clips = [episode.folder / f"{key}.mp4" for episode in episodes]
    places = fill_files([clip.stat().st_size for clip in clips], info.video_files_size_in_mb * MEGABYTE, info)
    for place in dict.fromkeys(places):
        here = [number for number, there in enumerate(places) if there == place]
        pieces = [Piece(clips[number], 0.0, episodes[number].frames) for number in here]
        starts = cut_and_join(pieces, root / info.video_file(key, *place), info.fps)
        for number, start in zip(here, starts, strict=True):
            first = round(start * info.fps)
            rows[number] |= {
                f"videos/{key}/chunk_index": place[0],
                f"videos/{key}/file_index": place[1],
                f"videos/{key}/from_timestamp": start,
                f"videos/{key}/to_timestamp": (first + episodes[number].frames) / info.fps,
            }
    return root / info.video_file(key, *places[0])

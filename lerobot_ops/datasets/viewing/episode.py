"""One episode of a dataset for looking at: its frames, texts and statistics, read without the rest of the dataset."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.images import decode_image
from lerobot_ops.datasets.info import DEFAULT_FEATURES, DatasetInfo, Feature, load_info
from lerobot_ops.datasets.statistics import numeric_stats
from lerobot_ops.datasets.tables import (
    Stats,
    column_array,
    episode_stats,
    episodes_files,
    load_episodes,
    load_stats,
    load_tasks,
)
from lerobot_ops.datasets.videos.depth import DepthRange
from lerobot_ops.datasets.videos.video import decode_times
from lerobot_ops.errors import DatasetError, did_you_mean

_FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class VideoPart:
    """Where an episode lies in a camera's video file."""

    path: Path
    from_timestamp: float
    """Seconds in the file."""


@dataclass(frozen=True)
class EpisodeView:
    """One episode of a dataset. Frame k is shown at k/fps seconds."""

    root: Path
    info: DatasetInfo
    number: int
    row: dict[str, Any]
    """Its row of the episodes table, all columns."""
    table: pa.Table
    """Its rows of the data, all columns but the images."""

    @property
    def frames(self) -> int:
        return int(self.row["length"])

    @property
    def fps(self) -> int:
        return self.info.fps

    @property
    def data_file(self) -> str:
        """The file of its rows, relative to the root."""
        return _data_file(self.info, self.row)

    @cached_property
    def tasks(self) -> list[tuple[int, str]]:
        """(First frame, text) of every task, in the order of the frames."""
        texts, starts = load_tasks(self.root), _changes(self.column("task_index"))
        indices = [int(self.column("task_index")[start]) for start in starts]
        wrong = [index for index in indices if not 0 <= index < len(texts)]
        if wrong:
            raise DatasetError(
                "a frame has a task that is not in the tasks table",
                file=self.root,
                field="task_index",
                found=wrong[0],
                expected=f"0 to {len(texts) - 1}",
            )
        return [(start, texts[index]) for start, index in zip(starts, indices, strict=True)]

    @property
    def vectors(self) -> dict[str, Feature]:
        """The features of numbers that the format does not bring along itself."""
        return {name: feature for name, feature in self.info.numeric.items() if name not in DEFAULT_FEATURES}

    def column(self, name: str) -> np.ndarray:
        """A numeric feature [frames, *shape], or [frames] for a scalar."""
        return column_array(self.table.column(name), self.info.features[name])

    def video(self, camera: str) -> VideoPart:
        """Where a video feature's frames are."""
        chunk, file = (int(self.row[f"videos/{camera}/{part}"]) for part in ("chunk_index", "file_index"))
        path = self.root / self.info.video_file(camera, chunk, file)
        return VideoPart(path, float(self.row[f"videos/{camera}/from_timestamp"]))

    def statistics(self) -> tuple[Stats, Stats]:
        """(Of the whole dataset, of this episode) as stored; those of an episode's numbers are computed if need be."""
        own = episode_stats(self.row)
        missing = [name for name in self.info.numeric if name not in own]
        return load_stats(self.root), own | {name: numeric_stats(self.column(name)) for name in missing}


def load_episode(root: Path, number: int) -> EpisodeView:
    """Read episode `number`; raises DatasetError when there is none, or its files are missing or do not hold it."""
    info = load_info(root)
    row = _episode_row(root, number)
    file = _data_file(info, row)
    columns = [name for name, feature in info.columns.items() if feature.dtype != "image"]
    table = _read_rows(root / file, "index", row["dataset_from_index"], row["dataset_to_index"], columns)
    if table.num_rows != row["length"]:
        raise DatasetError(
            "a data file does not hold the frames of its episode",
            file=root / file,
            found=f"{table.num_rows} frames with `index` {row['dataset_from_index']} to {row['dataset_to_index'] - 1}",
            expected=f"{row['length']} frames",
            fix="validate the dataset",
        )
    return EpisodeView(root, info, number, row, table)


def camera_frames(view: EpisodeView, camera: str, numbers: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """All of a camera's frames, or those with these `numbers`, ascending.

    uint8 [height, width, channels], of a depth camera float32 [height, width] in metres. A depth image that does not
    say its unit is in millimetres when it goes beyond 100, else in metres.
    """
    feature, row = view.info.features[camera], view.row
    numbers = range(view.frames) if numbers is None else numbers
    if feature.dtype == "image":
        begin, end = row["dataset_from_index"], row["dataset_to_index"]
        images = _read_rows(view.root / view.data_file, "index", begin, end, [camera]).column(camera)
        for number in numbers:
            yield _image(view, camera, images[number]["bytes"])
        return
    part = view.video(camera)
    for start in range(0, len(numbers), _FRAMES_AT_ONCE):
        times = part.from_timestamp + np.asarray(numbers[start : start + _FRAMES_AT_ONCE]) / view.fps
        if feature.is_depth:
            levels = decode_times(part.path, times, pixels="gray12le")
            yield from DepthRange.of(feature.info or {}).distances(levels, "m")
        else:
            yield from decode_times(part.path, times)


def chosen_cameras(info: DatasetInfo, names: Sequence[str] | None) -> list[str]:
    """The cameras of these names, all without any; raises DatasetError when there is no such camera."""
    for name in names or ():
        if name not in info.camera_keys:
            raise DatasetError(
                "the dataset has no such camera", field="cameras", found=name, fix=did_you_mean(name, info.camera_keys)
            )
    return [name for name in info.camera_keys if names is None or name in names]


def integers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of integers without nulls; unlike arrow's own `to_numpy` it does not import pandas."""
    return np.from_dlpack(column.combine_chunks())


def dimension_names(feature: Feature) -> list[str]:
    """A name for every number of a feature, in their order; without names their positions."""
    count = int(np.prod(feature.shape))
    names: Any = feature.names
    if isinstance(names, dict):  # {"motors": [...]}, or {"x": 0, "y": 1}
        lists = [value for value in names.values() if isinstance(value, list)]
        names = [one for part in lists for one in part] if lists else list(names)
    if not isinstance(names, list) or len(names) != count or len(feature.shape) > 1:
        return [",".join(map(str, place)) for place in np.ndindex(*feature.shape)]
    texts = [str(name) for name in names]
    return texts if len(set(texts)) == count else [f"{text} ({place})" for place, text in enumerate(texts)]


@dataclass(frozen=True)
class Note:
    """A text that belongs to a moment of the episode."""

    frame: int
    kind: str
    text: str
    lasting: bool
    """Whether it holds until the next one of its kind."""


def notes(view: EpisodeView) -> list[Note]:
    """Language annotations, changes of task and of text features, in the order of the frames."""
    found = [Note(frame, "task", text, True) for frame, text in view.tasks] if len(view.tasks) > 1 else []
    for name, feature in view.info.features.items():
        if feature.dtype == "string":
            values = view.table.column(name).to_pylist()
            found += [Note(frame, name, str(values[frame]), True) for frame in _changes(values)]
    names = view.table.column_names
    if "language_persistent" in names:  # the same on every frame of an episode
        rows = view.table.column("language_persistent")[0].as_py() or []
        found += [_note(row, round(float(row["timestamp"]) * view.fps), True) for row in rows]
    if "language_events" in names:
        for frame, rows in enumerate(view.table.column("language_events").to_pylist()):
            found += [_note(row, frame, False) for row in rows or ()]
    return sorted(found, key=lambda note: note.frame)


def _note(row: dict[str, Any], frame: int, lasting: bool) -> Note:
    kind = " · ".join(str(row[name]) for name in ("style", "role", "camera") if row.get(name))
    calls = [str(call) for call in row.get("tool_calls") or ()]
    return Note(max(0, frame), kind, "\n".join([*filter(None, [row.get("content")]), *calls]), lasting)


def _changes(values: Sequence[Any] | np.ndarray) -> list[int]:
    """The places at which a value differs from the one before it, the first included."""
    return [place for place in range(len(values)) if place == 0 or values[place] != values[place - 1]]


def _data_file(info: DatasetInfo, row: dict[str, Any]) -> str:
    return info.data_file(int(row["data/chunk_index"]), int(row["data/file_index"]))


def _episode_row(root: Path, number: int) -> dict[str, Any]:
    total = 0
    files = episodes_files(root)
    if not files:
        load_episodes(root)  # says why there are none
    for file in files:
        found = _read_rows(file, "episode_index", number, number + 1)
        if found.num_rows:
            row: dict[str, Any] = found.slice(0, 1).to_pylist()[0]
            return row
        total += pq.read_metadata(file).num_rows
    raise DatasetError(
        "the dataset has no such episode",
        file=root,
        field="episode",
        found=number,
        expected=f"0 to {total - 1}" if total else "an episode; the dataset has none",
    )


def _read_rows(path: Path, name: str, begin: int, end: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a parquet file from the first to the last whose column `name` is in [begin, end).

    Only the row groups that may hold such rows are read.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            wanted = file.schema_arrow.names if columns is None else list(dict.fromkeys([*columns, name]))
            missing = [column for column in wanted if column not in file.schema_arrow.names]
            if missing:
                found = ", ".join(file.schema_arrow.names)
                raise DatasetError("a table lacks a column", file=path, field=missing[0], found=found)
            groups = [group for group in range(file.num_row_groups) if _may_hold(file, group, name, begin, end)]
            table = file.read_row_groups(groups, wanted) if groups else file.schema_arrow.empty_table().select(wanted)
            values = integers(table.column(name))
    except FileNotFoundError:
        raise DatasetError("a file of the dataset is missing", file=path) from None
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            "a file of the dataset cannot be read",
            file=path,
            found=str(error).splitlines()[0],
            expected="a parquet file",
            fix="validate the dataset",
        ) from None
    rows = np.flatnonzero((values >= begin) & (values < end))
    return table.slice(rows[0], rows[-1] - rows[0] + 1) if len(rows) else table.slice(0, 0)


def _may_hold(file: pq.ParquetFile, group: int, name: str, begin: int, end: int) -> bool:
    """What a row group's own statistics say; without any it may."""
    about = file.metadata.row_group(group)
    columns = (about.column(place) for place in range(about.num_columns))
    statistics = next((column.statistics for column in columns if column.path_in_schema == name), None)
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min < end and statistics.max >= begin)


def _image(view: EpisodeView, camera: str, content: pa.Scalar) -> np.ndarray:
    if not content.is_valid:
        raise DatasetError(
            "an image is not in its data file",
            file=view.root / view.data_file,
            field=camera,
            found="a path only",
            expected="the bytes of an image file",
        )
    pixels = decode_image(content.as_buffer())
    if pixels.dtype == np.uint8:
        return pixels.transpose(1, 2, 0)
    unit = (view.info.features[camera].info or {}).get("depth_unit", "mm" if pixels.max() > 100 else "m")
    return pixels[0] / (1000 if unit == "mm" else 1)

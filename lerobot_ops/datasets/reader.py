"""Reading a LeRobotDataset v3.0: items as LeRobot's own reader returns them, batches and columns as arrays."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lerobot_ops.datasets.images import ImageColumn, depth_from_levels
from lerobot_ops.datasets.info import DatasetInfo, Feature, load_info
from lerobot_ops.datasets.tables import Stats, column_array, load_data, load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.video import decode_times
from lerobot_ops.errors import DatasetError, did_you_mean

if TYPE_CHECKING:
    import torch


class LeRobotDataset:
    """A dataset on disk, or some `episodes` of it; a row is a position among the frames of these episodes.

    `delta_timestamps` gives, per feature, the times in seconds around each frame that are wanted; frames outside of the
    episode are the nearest inside, and flagged in `<feature>_is_pad`. `return_uint8` leaves video items as they are
    decoded instead of scaling them to [0, 1]. Columns are read when they are first used. Raises DatasetError.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        episodes: Iterable[int] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        return_uint8: bool = False,
    ) -> None:
        self.root = Path(root)
        self.info: DatasetInfo = load_info(root)
        self.fps: int = self.info.fps
        self.features: dict[str, Feature] = self.info.features
        self.tasks: list[str] = load_tasks(root)
        table = _episode_table(self.root, self.info)
        self.episodes: np.ndarray = _chosen(episodes, len(table["length"]), self.root)
        """int64[E]: the episodes of this view, ascending."""
        self._table = {name: values[self.episodes] for name, values in table.items()}
        self._tolerance_s, self._return_uint8 = tolerance_s, return_uint8
        self._deltas = _delta_indices(delta_timestamps or {}, self.info, tolerance_s)
        self._columns: dict[str, np.ndarray] = {}
        self._images: dict[str, ImageColumn] = {}

    @property
    def num_frames(self) -> int:
        return int(self._table["length"].sum())

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    @cached_property
    def stats(self) -> Stats:
        """Feature -> statistic -> array, over the whole dataset; empty when the dataset has none."""
        return load_stats(self.root)

    @cached_property
    def episode_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows of every episode of this view as half-open ranges: (from int64[E], to int64[E])."""
        ends = np.cumsum(self._table["length"])
        return ends - self._table["length"], ends

    def column(self, name: str) -> np.ndarray:
        """All values of a feature that is no camera, read-only: [rows, *shape], or [rows] for a scalar or string."""
        if name not in self._columns:
            feature = self._feature(name)
            if feature.is_camera or feature.dtype == "language":
                raise DatasetError("this feature is no column of numbers or text", field=name, found=feature.dtype)
            self._columns[name] = self._read(name, feature)
        return self._columns[name]

    def batch(self, indices: np.ndarray | Sequence[int]) -> dict[str, Any]:
        """The frames at rows `indices` int[B], with their windows.

        Every feature is an array [B, *shape], [B, times, *shape] when it has delta timestamps; cameras are uint8
        [B, (times,) channels, height, width] (depth: float32, millimetres) and strings lists. `<feature>_is_pad` is
        bool [B, times], and `task` a list of B sentences. As in LeRobot, a video with one delta has no time axis.
        """
        rows = self._checked(np.asarray(indices, dtype=np.int64).reshape(-1))
        batch: dict[str, Any] = {}
        for name, feature in self.features.items():
            if feature.dtype == "language":
                continue
            deltas = self._deltas.get(name)
            at = rows
            if deltas is not None:
                at, batch[f"{name}_is_pad"] = self._window(rows, deltas)
                if feature.dtype == "video" and len(deltas) == 1:
                    at = at[:, 0]
            if feature.is_camera:
                batch[name] = self.frames(name, at)
            else:
                values = self.column(name)[at]
                batch[name] = values if feature.is_numeric else values.tolist()
        batch["task"] = [self._task(index) for index in self.column("task_index")[rows]]
        return batch

    def frames(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A camera's frames at `rows`, whatever their shape: uint8 [*rows, channels, height, width]."""
        feature, flat = self._feature(name), np.asarray(rows).reshape(-1)
        if feature.dtype == "image":
            frames = self._image_column(name).frames(self._absolute(flat))
        else:
            frames = self._video_frames(name, feature, flat)
        return frames.reshape(*np.shape(rows), *frames.shape[1:])

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: int | slice) -> Any:
        """One frame as LeRobot's reader gives it: torch tensors, cameras float32 [channels, height, width] in [0, 1].

        Numbers are float32, int64 or bool, scalars are tensors without dimensions, windows have a leading time axis. A
        slice gives a list of items.
        """
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a dataset of {len(self)} frames")
        batch = self.batch(np.array([index % len(self)]))
        return {name: self._item(name, values) for name, values in batch.items()}

    def _item(self, name: str, values: Any) -> "torch.Tensor | str":
        import torch

        if isinstance(values, list):
            text: str = values[0]
            return text
        tensor = torch.from_numpy(values)[0]
        feature = self.features.get(name)
        if feature is None or tensor.dtype == torch.bool:
            return tensor
        if not feature.is_camera:
            return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)
        if tensor.dtype != torch.uint8 or (self._return_uint8 and feature.dtype == "video"):
            return tensor
        return tensor.to(torch.float32) / 255

    def _read(self, name: str, feature: Feature) -> np.ndarray:
        column = load_data(self.root, [name]).column(name)
        values = column_array(column, feature) if feature.is_numeric else np.array(column.to_pylist(), dtype=object)
        last = int(self._table["dataset_to_index"].max(initial=0))
        if len(values) < last:
            raise DatasetError(
                "the data files have fewer frames than the episodes table",
                file=self.root / "data",
                found=len(values),
                expected=last,
            )
        if self.num_frames != len(values):
            values = values[self._absolute(np.arange(self.num_frames))]
        values.flags.writeable = False
        return values

    def _absolute(self, rows: np.ndarray) -> np.ndarray:
        """Rows of this view as rows of the data files."""
        episode = self._episode_of(rows)
        return rows - self.episode_bounds[0][episode] + self._table["dataset_from_index"][episode]

    def _episode_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.episode_bounds[1], rows, side="right")

    def _window(self, rows: np.ndarray, deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows [B, times] that `deltas` frames away are inside of the episode, and which are only the nearest."""
        episode = self._episode_of(rows)
        begin, end = (bounds[episode, None] for bounds in self.episode_bounds)
        wanted = rows[:, None] + deltas
        inside = np.clip(wanted, begin, end - 1)
        return inside, inside != wanted

    def _video_frames(self, name: str, feature: Feature, rows: np.ndarray) -> np.ndarray:
        episode = self._episode_of(rows)
        table = {field: self._table[f"videos/{name}/{field}"][episode] for field in _VIDEO_FIELDS}
        times = table["from_timestamp"] + (rows - self.episode_bounds[0][episode]) / self.fps
        files = np.stack([table["chunk_index"], table["file_index"]], axis=1)
        frames: np.ndarray | None = None
        for chunk, file in np.unique(files, axis=0):
            here = np.flatnonzero((files == (chunk, file)).all(1))
            unique, place = np.unique(times[here], return_inverse=True)
            pixels = "gray12le" if feature.is_depth else "rgb24"
            path = self.root / self.info.video_file(name, int(chunk), int(file))
            decoded = decode_times(path, unique, self._tolerance_s, pixels)
            if feature.is_depth:
                decoded = depth_from_levels(decoded, feature.info or {})[..., None]
            if frames is None:
                height, width, channels = decoded.shape[1:]
                frames = np.empty((len(rows), channels, height, width), decoded.dtype)
            frames[here] = decoded.transpose(0, 3, 1, 2)[place]
        assert frames is not None
        return frames

    def _image_column(self, name: str) -> ImageColumn:
        if name not in self._images:
            self._images[name] = ImageColumn(self.root, name)
        return self._images[name]

    def _task(self, index: int) -> str:
        if not 0 <= index < len(self.tasks):
            raise DatasetError(
                "a frame has a task that is not in the tasks table",
                file=self.root,
                field="task_index",
                found=int(index),
                expected=f"0 to {len(self.tasks) - 1}",
            )
        return self.tasks[index]

    def _feature(self, name: str) -> Feature:
        if name not in self.features:
            raise DatasetError(
                "the dataset has no such feature", file=self.root, field=name, fix=did_you_mean(name, self.features)
            )
        return self.features[name]

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.num_frames):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a dataset of {self.num_frames} frames")
        return rows

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; it reads the columns and opens the videos for itself."""
        return self.__dict__ | {"_columns": {}, "_images": {}}


_VIDEO_FIELDS = ("chunk_index", "file_index", "from_timestamp")


def _episode_table(root: Path, info: DatasetInfo) -> dict[str, np.ndarray]:
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    names += [f"videos/{key}/{field}" for key in info.video_keys for field in _VIDEO_FIELDS]
    table = load_episodes(root, names)
    columns = {name: table.column(name).to_numpy() for name in names}
    length = columns["dataset_to_index"] - columns["dataset_from_index"]
    if not np.array_equal(columns["episode_index"], np.arange(table.num_rows)) or (length != columns["length"]).any():
        raise DatasetError(
            "the episodes table is not in order, or its lengths and row ranges disagree",
            file=root / "meta/episodes",
            fix="validate the dataset to see which episodes are wrong",
        )
    return columns


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


def _delta_indices(
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

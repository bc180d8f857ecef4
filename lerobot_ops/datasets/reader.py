"""Reading a LeRobotDataset v3.0: items as LeRobot's own reader returns them, batches and columns as arrays."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.cameras import Camera, ImageCamera, VideoCamera, in_unit
from lerobot_ops.datasets.columns import DataRows, language_cell
from lerobot_ops.datasets.info import DatasetInfo, Feature, load_info
from lerobot_ops.datasets.tables import Stats, load_stats, load_tasks
from lerobot_ops.datasets.videos.depth import Unit
from lerobot_ops.datasets.view import EpisodeFilter, View, delta_indices, view_of
from lerobot_ops.errors import DatasetError, did_you_mean

if TYPE_CHECKING:
    import torch

    from lerobot_ops.datasets.frame_cache import FrameCache
    from lerobot_ops.datasets.items import Items


class LeRobotDataset:
    """A dataset, or some `episodes` of it; a row is a position among the frames of these episodes.

    `root` is a directory, or `OWNER/NAME[@REVISION]` on the Hugging Face Hub. `episode_filter` says which episodes to
    keep, by their rows of the episodes table without the statistics.

    `delta_timestamps` gives, per feature, the times in seconds around each frame that are wanted; frames outside of the
    episode are the nearest inside, and flagged in `<feature>_is_pad`. A video's frame may be `tolerance_s` off.
    `return_uint8` leaves video items as they are decoded instead of scaling them to [0, 1]. Distances are in
    `depth_output_unit`, and so are their statistics. `image_transforms` changes the frames of items: it is called with
    those of one camera, [(times,) channels, height, width]; depth is left alone. Where a `frame_cache`, or its
    directory, is given frames are decoded once, now, and read from it ever after.

    Columns are read when they are first used. Raises DatasetError.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        episodes: Iterable[int] | None = None,
        episode_filter: EpisodeFilter | None = None,
        image_transforms: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        return_uint8: bool = False,
        revision: str | None = None,
        frame_cache: "FrameCache | Path | str | None" = None,
        depth_output_unit: Unit = "mm",
    ) -> None:
        episodes = None if episodes is None else list(episodes)
        self.root = _local(root, revision, episodes)
        self.info: DatasetInfo = load_info(self.root)
        self.fps: int = self.info.fps
        self.tasks: list[str] = load_tasks(self.root)
        self._view: View = view_of(self.root, self.info, episodes, episode_filter)
        self.episodes: np.ndarray = self._view.episodes
        """int64[E]: the episodes of this view, ascending."""
        self.image_transforms = image_transforms
        self._return_uint8, self._unit = return_uint8, depth_output_unit
        self._data = DataRows(self._view)
        self._cameras = {name: self._camera(name, tolerance_s) for name in self.info.camera_keys}
        if frame_cache is not None and self._cameras:
            self.info, self._cameras = _cache(frame_cache).through(self._view, self._cameras)
        self.features: dict[str, Feature] = self.info.features
        self._deltas = delta_indices(delta_timestamps or {}, self.info, tolerance_s)
        self._columns: dict[str, np.ndarray] = {}
        self._cells: dict[str, pa.ChunkedArray] = {}

    @property
    def num_frames(self) -> int:
        return self._view.frames

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    @cached_property
    def stats(self) -> Stats:
        """Feature -> statistic -> array, over the whole dataset; empty when the dataset has none."""
        stats = load_stats(self.root)
        for name, feature in self.features.items():
            if feature.is_depth and name in stats:
                values = {key: in_unit(value, feature, self._unit) for key, value in stats[name].items()}
                stats[name] = values | {key: stats[name][key] for key in ("count",) if key in values}
        return stats

    @property
    def episode_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows of every episode of this view as half-open ranges: (from int64[E], to int64[E])."""
        return self._view.first, self._view.end

    def column(self, name: str) -> np.ndarray:
        """All values of a feature that is no camera, read-only: [rows, *shape], or [rows] for a scalar or string."""
        values = self._values(name).view()
        values.flags.writeable = False
        return values

    def batch(self, indices: np.ndarray | Sequence[int]) -> dict[str, Any]:
        """The frames at rows `indices` int[B], with their windows.

        Every feature is an array [B, *shape], [B, times, *shape] when it has delta timestamps; cameras are uint8
        [B, (times,) channels, height, width] (depth: float32 distances) without transforms, and strings and language
        lists. `<feature>_is_pad` is bool [B, times], and `task` a list of B sentences. As in LeRobot, a video with one
        delta has no time axis.
        """
        rows = self._checked(np.asarray(indices, dtype=np.int64).reshape(-1))
        batch: dict[str, Any] = {}
        for name, feature in self.features.items():
            at, padding = self._window(name, rows)
            if padding is not None:
                batch[f"{name}_is_pad"] = padding
            if feature.is_camera:
                batch[name] = self.frames(name, at)
            elif feature.is_numeric:
                batch[name] = self._values(name)[at]
            else:
                batch[name] = _mapped(at.tolist(), partial(self._cell, name))
        batch["task"] = [self._task(index) for index in self._values("task_index")[rows]]
        return batch

    def frames(self, name: str, rows: np.ndarray, *, scaled: bool = False) -> np.ndarray:
        """A camera's frames at `rows`, whatever their shape: uint8 [*rows, channels, height, width].

        `scaled` ones are float32 in [0, 1]. Depth is float32 distances either way.
        """
        if name not in self._cameras:
            raise DatasetError("this feature is no camera", field=name, found=self._feature(name).dtype)
        rows = np.asarray(rows)
        frames = self._cameras[name].read(rows.reshape(-1), scaled=scaled)
        return frames.reshape(*rows.shape, *frames.shape[1:])

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: int | slice) -> Any:
        """One frame as LeRobot's reader gives it: torch tensors, cameras float32 [channels, height, width] in [0, 1].

        Numbers are float32, int64 or bool, scalars are tensors without dimensions, windows have a leading time axis. A
        slice gives a list of items.
        """
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a dataset of {len(self)} frames")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items at rows `indices`: what torch's DataLoader asks for. Their frames are decoded in one go."""
        from lerobot_ops.datasets.items import Item

        rows = self._checked(np.asarray(indices, dtype=np.int64).reshape(-1))
        frames = {name: self._frame_tensor(name, rows) for name in self._cameras}
        tasks = self._values("task_index")[rows].tolist()
        items: list[dict[str, Any]] = []
        for place, (row, task) in enumerate(zip(rows.tolist(), tasks, strict=True)):
            shown = {name: frame[place] for name, frame in frames.items()}
            items.append(Item(self._items(row) | shown | {"task": self._task(task)}, frames))
        return items

    def _frame_tensor(self, name: str, rows: np.ndarray) -> "torch.Tensor":
        """A camera's frames in the items of `rows`: [rows, (times,) channels, height, width]."""
        from lerobot_ops.datasets.items import decoded, transformed

        at, _ = self._window(name, rows)
        scaled = self._is_scaled(self.features[name])
        frames = decoded(partial(self._cameras[name].read, at.reshape(-1), scaled=scaled))
        frames = frames.reshape(*at.shape, *frames.shape[1:])
        if self.image_transforms is None or self.features[name].is_depth:
            return frames
        return transformed(frames, self.image_transforms)

    @cached_property
    def _items(self) -> "Items":
        from lerobot_ops.datasets.items import Items

        return Items(self._view, self._deltas, self._values, self._cell)

    def _is_scaled(self, feature: Feature) -> bool:
        """Whether frames of items are float32 in [0, 1]; as in LeRobot, images in the data files always are."""
        return not (feature.is_depth or (self._return_uint8 and feature.dtype == "video"))

    def _camera(self, name: str, tolerance_s: float) -> Camera:
        feature = self.info.features[name]
        if feature.dtype == "image":
            return ImageCamera(self._data, name, feature, self._unit)
        return VideoCamera(self._view, name, feature, tolerance_s, self._unit)

    def _values(self, name: str) -> np.ndarray:
        """A column that the caller does not write to."""
        if name not in self._columns:
            feature = self._feature(name)
            if feature.is_camera or feature.dtype == "language":
                raise DatasetError("this feature is no column of numbers or text", field=name, found=feature.dtype)
            self._columns[name] = self._data.numbers(name, feature) if feature.is_numeric else self._data.texts(name)
        return self._columns[name]

    def _cell(self, name: str, row: int) -> Any:
        """What a feature that is no number says at a row: text, or a list of language rows."""
        if self.features[name].dtype != "language":
            return self._values(name)[row]
        if name not in self._cells:
            self._cells[name] = self._data.cells(name)
        return language_cell(self._cells[name][row])

    def _window(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows [B, times] that are read of a feature, and which are padding; [B] and None without deltas."""
        deltas = self._deltas.get(name)
        if deltas is None:
            return rows, None
        at, padding = self._view.window(rows, deltas)
        squeezed = self.features[name].dtype == "video" and len(deltas) == 1
        return at[:, 0] if squeezed else at, padding

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
        state = {name: value for name, value in self.__dict__.items() if name not in ("_items", "stats")}
        return state | {"_columns": {}, "_cells": {}}


def _mapped(rows: list[Any], cell: Callable[[int], Any]) -> list[Any]:
    """Rows, or lists of rows, with `cell` in the place of each."""
    return [_mapped(row, cell) if isinstance(row, list) else cell(row) for row in rows]


def _cache(place: "FrameCache | Path | str") -> "FrameCache":
    from lerobot_ops.datasets.frame_cache import FrameCache

    return place if isinstance(place, FrameCache) else FrameCache(place)


def _local(root: Path | str, revision: str | None, episodes: list[int] | None) -> Path:
    if revision is None and Path(root).is_dir():
        return Path(root)
    from lerobot_ops.datasets.remote import local_root

    return local_root(root, revision=revision, episodes=episodes)

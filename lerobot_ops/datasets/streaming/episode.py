"""One episode of a streamed dataset: its rows in memory, its frames decoded when they are asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lerobot_ops.datasets.cameras import in_unit, put
from lerobot_ops.datasets.columns import language_cell
from lerobot_ops.datasets.images import decode_image
from lerobot_ops.datasets.info import DatasetInfo, Feature
from lerobot_ops.datasets.items import Items
from lerobot_ops.datasets.tables import column_array
from lerobot_ops.datasets.videos.depth import Unit
from lerobot_ops.datasets.view import View
from lerobot_ops.errors import DatasetError

Item = dict[str, Any]
Frames = Callable[[np.ndarray, bool], np.ndarray]
"""Rows of an episode, and whether to scale to [0, 1] -> frames [n, channels, height, width]."""


@dataclass(frozen=True)
class ItemFormat:
    """How an item is made of an episode; the names are those of `reader.LeRobotDataset`."""

    info: DatasetInfo
    tasks: list[str]
    deltas: Mapping[str, np.ndarray]
    """Feature -> frames around the item's own, int64[times]."""
    tolerance_s: float
    return_uint8: bool
    depth_output_unit: Unit
    image_transforms: Callable[[torch.Tensor], torch.Tensor] | None


class StreamedEpisode:
    """An episode whose rows have arrived; `view` holds it alone, and `videos` gives its frames by their row in it."""

    def __init__(self, made: ItemFormat, view: View, table: pa.Table, videos: Mapping[str, Frames]) -> None:
        self._format, self._view = made, view
        self._columns: dict[str, Any] = {}
        images: dict[str, Frames] = {}
        for name, feature in made.info.columns.items():
            column = table.column(name)
            if feature.dtype == "image":
                images[name] = _Images(name, feature, column, made.depth_output_unit)
            elif feature.is_numeric:
                self._columns[name] = np.array(column_array(column, feature))  # a copy: the table may hold much more
            elif feature.dtype == "language":
                self._columns[name] = [language_cell(cell) for cell in column]
            else:
                self._columns[name] = column.to_pylist()
        self._items = Items(view, made.deltas, self._columns.__getitem__, lambda name, row: self._columns[name][row])
        self._cameras = {name: videos.get(name) or images[name] for name in made.info.camera_keys}

    def item(self, row: int) -> Item:
        """One frame with its windows, as `reader.LeRobotDataset` gives it."""
        item: Item = self._items(row)
        item["task"] = self._task(int(self._columns["task_index"][row]))
        for name, frames in self._cameras.items():
            item[name] = self._frames(name, self._format.info.features[name], frames, row)
        return item

    def _frames(self, name: str, feature: Feature, frames: Frames, row: int) -> torch.Tensor:
        made, deltas, video = self._format, self._format.deltas.get(name), feature.dtype == "video"
        rows = np.array([row])
        if deltas is not None:
            rows = self._view.window(rows, deltas)[0][0]
        scaled = not (feature.is_depth or (made.return_uint8 and video))
        pixels = torch.from_numpy(frames(rows, scaled))
        if deltas is None or (video and len(rows) == 1):
            pixels = pixels[0]
        return pixels if made.image_transforms is None or feature.is_depth else made.image_transforms(pixels)

    def _task(self, index: int) -> str:
        tasks = self._format.tasks
        if not 0 <= index < len(tasks):
            raise DatasetError(
                "a frame has a task that is not in the tasks table",
                file=self._view.root,
                field="task_index",
                found=index,
                expected=f"0 to {len(tasks) - 1}",
            )
        return tasks[index]


class _Images:
    """The frames of a camera whose encoded images have arrived."""

    def __init__(self, name: str, feature: Feature, column: pa.ChunkedArray, unit: Unit) -> None:
        self._name, self._feature, self._unit = name, feature, unit
        self._contents: list[bytes | None] = column.combine_chunks().field("bytes").to_pylist()

    def __call__(self, rows: np.ndarray, scaled: bool) -> np.ndarray:
        frames: list[np.ndarray] = []
        for row in rows:
            content = self._contents[row]
            if content is None:
                raise DatasetError(
                    "an image is not in its data file",
                    field=self._name,
                    found="a path only",
                    expected="the bytes of an image file",
                )
            picture = decode_image(content)
            frame = np.empty(picture.shape, np.float32) if scaled else picture
            if scaled:
                put(picture, frame, Path(self._name))
            frames.append(frame)
        stacked = np.stack(frames)
        return in_unit(stacked, self._feature, self._unit) if self._feature.is_depth else stacked

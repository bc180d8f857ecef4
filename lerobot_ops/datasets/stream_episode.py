"""One episode of a streamed dataset: its rows in memory, its frames decoded when they are asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lerobot_ops.datasets.depth import DepthRange
from lerobot_ops.datasets.images import decode_image
from lerobot_ops.datasets.info import DatasetInfo, Feature
from lerobot_ops.datasets.stream_files import StreamFiles
from lerobot_ops.datasets.tables import column_array
from lerobot_ops.errors import DatasetError

Item = dict[str, Any]


@dataclass(frozen=True)
class ItemFormat:
    """How an item is made of an episode."""

    info: DatasetInfo
    tasks: list[str]
    deltas: Mapping[str, np.ndarray]
    """Feature -> frames around the item's own, int64[times]."""
    tolerance_s: float
    return_uint8: bool
    image_transforms: Callable[[torch.Tensor], torch.Tensor] | None


@dataclass(frozen=True)
class Clip:
    """Where an episode's frames of one camera are."""

    path: str
    from_timestamp: float


class StreamedEpisode:
    """An episode whose rows have arrived."""

    def __init__(self, files: StreamFiles, made: ItemFormat, table: pa.Table, clips: Mapping[str, Clip]) -> None:
        self._files, self._format, self._clips = files, made, clips
        self._length = table.num_rows
        self._columns: dict[str, Any] = {}
        for name, feature in made.info.columns.items():
            column = table.column(name)
            if feature.dtype == "image":
                self._columns[name] = column.combine_chunks().field("bytes").to_pylist()
            elif feature.is_numeric:
                self._columns[name] = np.array(column_array(column, feature))  # a copy: the table may hold much more
            else:
                self._columns[name] = column.to_pylist()

    def item(self, row: int) -> Item:
        """One frame with its windows, as `reader.LeRobotDataset` gives it."""
        made, item = self._format, dict[str, Any]()
        for name, feature in made.info.features.items():
            if feature.dtype == "language":
                continue
            deltas = made.deltas.get(name)
            if deltas is None:
                rows = np.array([row])
            else:
                wanted = row + deltas
                rows = np.clip(wanted, 0, self._length - 1)
                item[f"{name}_is_pad"] = torch.from_numpy(rows != wanted)
            alone = deltas is None or (feature.dtype == "video" and len(deltas) == 1)
            item[name] = self._value(name, feature, rows, alone)
        item["task"] = self._task(int(self._columns["task_index"][row]))
        return item

    def _value(self, name: str, feature: Feature, rows: np.ndarray, alone: bool) -> Any:
        if not feature.is_camera:
            if not feature.is_numeric:
                texts = [self._columns[name][row] for row in rows]
                return texts[0] if alone else texts
            values = torch.from_numpy(self._columns[name][rows])
            if values.dtype != torch.bool:
                values = values.to(torch.float32 if values.is_floating_point() else torch.int64)
            return values[0] if alone else values
        frames = self._video(name, feature, rows) if feature.dtype == "video" else self._images(name, rows)
        pixels = torch.from_numpy(frames[0] if alone else frames)
        if pixels.dtype == torch.uint8 and not (self._format.return_uint8 and feature.dtype == "video"):
            pixels = pixels.to(torch.float32) / 255
        if self._format.image_transforms is not None and not feature.is_depth:
            pixels = self._format.image_transforms(pixels)
        return pixels

    def _video(self, name: str, feature: Feature, rows: np.ndarray) -> np.ndarray:
        clip, made = self._clips[name], self._format
        times = clip.from_timestamp + rows / made.info.fps
        frames = self._files.frames(clip.path, times, made.tolerance_s, "gray12le" if feature.is_depth else "rgb24")
        if feature.is_depth:
            return DepthRange.of(feature.info or {}).distances(frames)[:, None]
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))

    def _images(self, name: str, rows: np.ndarray) -> np.ndarray:
        contents = [self._columns[name][row] for row in rows]
        if any(content is None for content in contents):
            raise DatasetError(
                "an image is not in its data file", field=name, found="a path only", expected="the bytes of an image"
            )
        return np.stack([decode_image(content) for content in contents])

    def _task(self, index: int) -> str:
        tasks = self._format.tasks
        if not 0 <= index < len(tasks):
            raise DatasetError(
                "a frame has a task that is not in the tasks table",
                field="task_index",
                found=index,
                expected=f"0 to {len(tasks) - 1}",
            )
        return tasks[index]

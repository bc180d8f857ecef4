"""One episode of a streamed dataset: its rows in memory, its frames decoded when they are asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lerobot_ops.datasets.cameras import in_unit
from lerobot_ops.datasets.columns import language_cell
from lerobot_ops.datasets.depth import DepthRange, Unit
from lerobot_ops.datasets.images import decode_image
from lerobot_ops.datasets.info import DatasetInfo, Feature
from lerobot_ops.datasets.items import Items
from lerobot_ops.datasets.stream_files import StreamFiles
from lerobot_ops.datasets.tables import column_array
from lerobot_ops.datasets.view import View
from lerobot_ops.errors import DatasetError

Item = dict[str, Any]
_WHITE = 255


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
    """An episode whose rows have arrived; `view` holds it alone."""

    def __init__(self, files: StreamFiles, made: ItemFormat, view: View, table: pa.Table) -> None:
        self._files, self._format, self._view = files, made, view
        self._columns: dict[str, Any] = {}
        for name, feature in made.info.columns.items():
            column = table.column(name)
            if feature.dtype == "image":
                self._columns[name] = column.combine_chunks().field("bytes").to_pylist()
            elif feature.is_numeric:
                self._columns[name] = np.array(column_array(column, feature))  # a copy: the table may hold much more
            elif feature.dtype == "language":
                self._columns[name] = [language_cell(cell) for cell in column]
            else:
                self._columns[name] = column.to_pylist()
        self._items = Items(view, made.deltas, self._columns.__getitem__, lambda name, row: self._columns[name][row])

    def item(self, row: int) -> Item:
        """One frame with its windows, as `reader.LeRobotDataset` gives it."""
        item: Item = self._items(row)
        item["task"] = self._task(int(self._columns["task_index"][row]))
        for name in self._format.info.camera_keys:
            item[name] = self._camera(name, self._format.info.features[name], row)
        return item

    def _camera(self, name: str, feature: Feature, row: int) -> torch.Tensor:
        made, deltas = self._format, self._format.deltas.get(name)
        video = feature.dtype == "video"
        rows = np.array([row]) if deltas is None else self._view.window(np.array([row]), deltas)[0][0]
        frames = self._video(name, feature, rows) if video else self._images(name, feature, rows)
        pixels = torch.from_numpy(frames)
        if deltas is None or (video and len(rows) == 1):
            pixels = pixels[0]
        if pixels.dtype == torch.uint8 and not (made.return_uint8 and video):
            pixels = pixels.to(torch.float32) / _WHITE
        return pixels if made.image_transforms is None or feature.is_depth else made.image_transforms(pixels)

    def _video(self, name: str, feature: Feature, rows: np.ndarray) -> np.ndarray:
        made, episode = self._format, self._view.episodes[0]
        fields = ("chunk_index", "file_index", "from_timestamp")
        chunk, file, start = (self._view.table[f"videos/{name}/{field}"][episode] for field in fields)
        path = made.info.video_file(name, int(chunk), int(file))
        pixels = "gray12le" if feature.is_depth else "rgb24"
        frames = self._files.frames(path, start + rows / made.info.fps, made.tolerance_s, pixels)
        if feature.is_depth:
            return DepthRange.of(feature.info or {}).distances(frames, made.depth_output_unit)[:, None]
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))

    def _images(self, name: str, feature: Feature, rows: np.ndarray) -> np.ndarray:
        contents = [self._columns[name][row] for row in rows]
        if any(content is None for content in contents):
            raise DatasetError(
                "an image is not in its data file", field=name, found="a path only", expected="the bytes of an image"
            )
        frames = np.stack([decode_image(content) for content in contents])
        return in_unit(frames, feature, self._format.depth_output_unit) if feature.is_depth else frames

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

"""Camera frames that are kept in the data parquet as encoded files, and depth that is kept as levels of grey."""

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.tables import data_files
from lerobot_ops.errors import DatasetError

_ROWS_AT_ONCE = 256
_DEPTH_LEVELS = 4095


class ImageColumn:
    """The column of an `image` feature, for random access without holding it in memory.

    Parquet cannot be read a row at a time, so a file's column is unpacked at its first use into a nameless temporary
    file that is mapped into memory and goes with the process. Frames are found by their row in the data files.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._name, self._files = name, data_files(root)
        self._ends = np.cumsum([pq.read_metadata(file).num_rows for file in self._files])
        self._mapped: dict[int, pa.ChunkedArray] = {}

    def frames(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [rows, channels, height, width]; depth images are float32 in their own unit, with one channel."""
        return np.stack([self._frame(int(row)) for row in rows])

    def _frame(self, row: int) -> np.ndarray:
        place = int(np.searchsorted(self._ends, row, side="right"))
        if place not in self._mapped:
            self._mapped[place] = _map_column(self._files[place], self._name)
        content = self._mapped[place][row - (int(self._ends[place - 1]) if place else 0)].get("bytes")
        if content is None or not content.is_valid:
            raise DatasetError(
                "an image is not in its data file",
                file=self._files[place],
                field=self._name,
                found=f"row {row} holds a path only",
                expected="the bytes of an image file",
            )
        return decode_image(content.as_buffer())


def decode_image(content: Any) -> np.ndarray:
    """An encoded image as uint8 [channels, height, width], a depth image as float32 [1, height, width]."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    pixels = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def depth_from_levels(levels: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """12-bit levels of a depth video as float32 millimetres, by the feature's `info` (LeRobot's encoder)."""
    low, high = float(info.get("video.depth_min", 0.01)), float(info.get("video.depth_max", 10.0))
    share = levels.astype(np.float32) / _DEPTH_LEVELS
    if info.get("video.use_log", True):
        shift = float(info.get("video.shift", 3.5))
        metres = np.exp(np.log(low + shift) + share * (np.log(high + shift) - np.log(low + shift))) - shift
    else:
        metres = low + share * (high - low)
    return (np.clip(metres, low, high) * 1000).astype(np.float32)


def _map_column(file: Path, name: str) -> pa.ChunkedArray:
    with tempfile.NamedTemporaryFile(prefix="lerobot-ops-images-") as target, pq.ParquetFile(file) as source:
        if name not in source.schema_arrow.names:
            raise DatasetError("a table lacks a column", file=file, field=name)
        schema = pa.schema([source.schema_arrow.field(name)])
        with pa.ipc.new_file(target.name, schema) as sink:
            for batch in source.iter_batches(_ROWS_AT_ONCE, columns=[name]):
                sink.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        return pa.ipc.open_file(pa.memory_map(target.name)).read_all().column(name)

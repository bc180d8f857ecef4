"""Camera frames that are kept in the data parquet as encoded files."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.errors import DatasetError

_ROWS_AT_ONCE = 256


class ImageColumn:
    """The column of an `image` feature, for random access without holding it in memory.

    Parquet cannot be read a row at a time, so a file's column is unpacked at its first use into a nameless temporary
    file that is mapped into memory and goes with the process.
    """

    def __init__(self, files: Sequence[Path], name: str) -> None:
        self._name, self._files = name, files
        self._mapped: dict[int, pa.ChunkedArray] = {}

    def frame(self, file: int, row: int) -> np.ndarray:
        """The image in a row of a data file: uint8 [channels, height, width], or float32 [1, height, width]."""
        if file not in self._mapped:
            self._mapped[file] = _map_column(self._files[file], self._name)
        content = self._mapped[file][row].get("bytes")
        if content is None or not content.is_valid:
            raise DatasetError(
                "an image is not in its data file",
                file=self._files[file],
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


def _map_column(file: Path, name: str) -> pa.ChunkedArray:
    with tempfile.NamedTemporaryFile(prefix="lerobot-ops-images-") as target, pq.ParquetFile(file) as source:
        if name not in source.schema_arrow.names:
            raise DatasetError("a table lacks a column", file=file, field=name)
        schema = pa.schema([source.schema_arrow.field(name)])
        with pa.ipc.new_file(target.name, schema) as sink:
            for batch in source.iter_batches(_ROWS_AT_ONCE, columns=[name]):
                sink.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        return pa.ipc.open_file(pa.memory_map(target.name)).read_all().column(name)

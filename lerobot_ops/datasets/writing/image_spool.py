"""The encoded pictures of one camera of one episode, one after the other in a file until the episode is saved."""

import mmap
import os
import tempfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

_WORKERS = min(4, os.cpu_count() or 1)
_BYTES_PER_ARRAY = 1 << 30
"""Arrow's binary arrays hold 2 GB; a longer column has several."""


class ImageSpool:
    """Keeps pictures as the files that LeRobot keeps: PNG for colour, uncompressed TIFF for depth.

    Compressing takes longer than a video encoder does, so several threads do it; `add` waits for the oldest picture.
    """

    def __init__(self, path: Path, *, depth: bool) -> None:
        self.path = path
        self._depth = depth
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._ends: list[int] = []
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="image")
        self._pending: deque[Future[bytes]] = deque()

    @property
    def frames(self) -> int:
        """How many pictures are in the file; all that were added, once it is closed."""
        return len(self._ends)

    def add(self, frame: np.ndarray) -> None:
        """Append one picture: uint8 [height, width, 3], or depth uint16 or float32 [height, width]."""
        self._pending.append(self._pool.submit(self._encoded, frame))
        if len(self._pending) > _WORKERS:
            self._append()

    def close(self) -> None:
        """Write what is still being compressed and close the file."""
        try:
            while self._pending:
                self._append()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._file.close()

    def _append(self) -> None:
        self._file.write(self._pending.popleft().result())
        self._ends.append(self._file.tell())

    def _encoded(self, frame: np.ndarray) -> bytes:
        # Into a file of its own descriptor, because only then does Pillow let other threads run while it compresses.
        with tempfile.TemporaryFile(dir=self.path.parent) as file:
            if self._depth:
                Image.fromarray(frame).save(file, "TIFF", compression="raw")
            else:
                Image.fromarray(frame).save(file, "PNG", compress_level=6)
            file.seek(0)
            return file.read()

    def column(self) -> pa.ChunkedArray:
        """The pictures as a column of LeRobot's image structs; the bytes stay in the file, mapped into memory."""
        with open(self.path, "rb") as file:
            content = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        chunks, first, begin = [], 0, 0
        ending = ".tiff" if self._depth else ".png"
        for last, end in enumerate(self._ends, start=1):
            if last == self.frames or self._ends[last] - begin > _BYTES_PER_ARRAY:
                offsets = np.array([begin, *self._ends[first:last]], np.int64) - begin
                pictures = pa.BinaryArray.from_buffers(
                    pa.binary(),
                    last - first,
                    [None, pa.py_buffer(offsets.astype(np.int32)), content.slice(begin, end - begin)],
                )
                names = pa.array([f"frame-{number:06d}{ending}" for number in range(first, last)])
                chunks.append(pa.StructArray.from_arrays([pictures, names], names=["bytes", "path"]))
                first, begin = last, end
        return pa.chunked_array(chunks)

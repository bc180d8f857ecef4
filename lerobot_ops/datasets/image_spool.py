"""The encoded pictures of one camera of one episode, one after the other in a file until the episode is saved."""

import mmap
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

_BYTES_PER_ARRAY = 1 << 30
"""Arrow's binary arrays hold 2 GB; a longer column has several."""


class ImageSpool:
    """Keeps pictures as the files that LeRobot keeps: PNG for colour, uncompressed TIFF for depth."""

    def __init__(self, path: Path, *, depth: bool) -> None:
        self.path = path
        self._depth = depth
        self._file = open(path, "w+b")  # noqa: SIM115 - closed by close()
        self._ends: list[int] = []

    @property
    def frames(self) -> int:
        return len(self._ends)

    def add(self, frame: np.ndarray) -> None:
        """Append one picture: uint8 [height, width, 3], or depth uint16 or float32 [height, width]."""
        # Written to a file of its own descriptor, Pillow lets other threads run while it compresses.
        with open(self.path.with_suffix(".one"), "w+b") as one:
            if self._depth:
                Image.fromarray(frame).save(one, "TIFF", compression="raw")
            else:
                Image.fromarray(frame).save(one, "PNG", compress_level=6)
            one.seek(0)
            self._file.write(one.read())
        self._ends.append(self._file.tell())

    def close(self) -> None:
        self._file.close()
        self.path.with_suffix(".one").unlink(missing_ok=True)

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

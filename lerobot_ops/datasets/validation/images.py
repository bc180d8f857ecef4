"""Checks of images that are stored in the data parquet: they decode, and show something that changes."""

import io
from collections import deque
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.tables import arrow_type
from lerobot_ops.datasets.validation.checks import Finding, finding
from lerobot_ops.datasets.validation.evidence import DataFile, Evidence
from lerobot_ops.datasets.validation.pictures import Decode, Shown, check_pictures, looked_at

_RESTORE = "restore the file from a version or a copy; `lerobot-ops repair` keeps the other episodes"
_BATCH = 32
"""Images that are read at once."""


def check_images(evidence: Evidence, decode: Decode) -> Iterator[Finding]:
    """Decode the images of every episode that `decode` says."""
    for key in evidence.info.image_keys:
        for file in evidence.files:
            yield from _check_file(evidence, key, file, decode)


def _check_file(evidence: Evidence, key: str, file: DataFile, decode: Decode) -> Iterator[Finding]:
    feature = evidence.info.features[key]
    place = f"{file.name} {key}"
    try:
        found = pq.read_schema(evidence.root / file.name)
    except (pa.ArrowException, OSError) as error:
        message = f"the images in {file.name} cannot be read: {str(error).splitlines()[0]}"
        yield finding("image-decode", message, place=place, fix=_RESTORE)
        return
    if key not in found.names:
        message = f"{file.name} lacks the declared column {key!r}"
        yield finding("data-schema", message, place=place, fix="restore the file, or declare it as it is")
    elif found.field(key).type != arrow_type(feature):
        message = f"column {key!r} holds {found.field(key).type}, but is declared an image: {arrow_type(feature)}"
        yield finding("data-schema", message, place=place, fix="store images as bytes and path")
    elif decode != "none":
        shown = _shown(evidence, key, file, decode)
        yield from check_pictures(evidence, key, file.name, "image-decode", _RESTORE, shown)


def _shown(evidence: Evidence, key: str, file: DataFile, decode: Decode) -> Iterator[Shown]:
    """The images of a file that are looked at."""
    wanted: dict[int, tuple[int, int]] = {}  # row in the file -> episode, frame
    for number, (begin, end) in sorted(evidence.runs.items(), key=lambda run: run[1]):
        if begin < file.first + file.table.num_rows and end > file.first:
            for frame in looked_at(end - begin, decode):
                wanted[begin + frame - file.first] = number, frame
    rows = sorted(row for row in wanted if 0 <= row < file.table.num_rows)
    done = 0
    try:
        with pq.ParquetFile(evidence.root / file.name) as parquet:
            for row, cell in _cells(parquet, key, rows):
                picture, problem = _picture(cell, evidence.info.features[key])
                yield Shown(*wanted[row], picture, problem)
                done += 1
    except (pa.ArrowException, OSError) as error:
        problem = f"the images cannot be read: {str(error).splitlines()[0]}"
        yield from (Shown(*wanted[row], None, problem) for row in rows[done:])


def _cells(parquet: pq.ParquetFile, key: str, rows: list[int]) -> Iterator[tuple[int, object]]:
    """The cells of some rows, ascending; only the row groups that hold them are read, some rows at a time."""
    first, wanted = 0, deque(rows)
    for group in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(group).num_rows
        if wanted and wanted[0] < first + count:
            begin = first
            for batch in parquet.iter_batches(_BATCH, row_groups=[group], columns=[key]):
                while wanted and wanted[0] < begin + batch.num_rows:
                    row = wanted.popleft()
                    yield row, batch.column(0)[row - begin].as_py()
                begin += batch.num_rows
                if not wanted:
                    return
        first += count


def _picture(cell: object, feature: Feature) -> tuple[np.ndarray | None, str]:
    """(The picture, what is wrong with it)."""
    if not isinstance(cell, dict) or not cell.get("bytes"):
        return None, "there is no image"
    try:
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            image.load()
            depth = feature.is_depth or image.mode in ("F", "I", "I;16", "I;16B")
            picture = np.asarray(image if depth else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return None, f"it does not decode ({str(error).splitlines()[0].split(' <')[0]})"
    size = picture.shape[:2]
    if len(feature.shape) in (2, 3) and size != feature.size[:2]:
        return picture, f"it is {size[1]}x{size[0]}, declared {feature.size[1]}x{feature.size[0]}"
    return picture, ""

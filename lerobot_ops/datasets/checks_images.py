"""Checks of images that are stored in the data parquet: the first and the last one of every episode decode."""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lerobot_ops.datasets.checks import Finding, counted, finding
from lerobot_ops.datasets.checks_evidence import DataFile, Evidence
from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.tables import arrow_type

_RESTORE = "restore the file from a version or a copy, or delete these episodes into a new dataset"


def check_images(evidence: Evidence) -> Iterator[Finding]:
    """Decode the first and last image of every episode."""
    for key in evidence.info.image_keys:
        for file in evidence.files:
            yield from _check_file(evidence, key, file)


def _check_file(evidence: Evidence, key: str, file: DataFile) -> Iterator[Finding]:
    feature = evidence.info.features[key]
    place = f"{file.name} {key}"
    bounds = {row: number for number, span in evidence.runs.items() for row in (span[0], span[1] - 1)}
    wanted = {row - file.first: number for row, number in bounds.items() if 0 <= row - file.first < file.table.num_rows}
    broken: dict[str, list[int]] = {}
    try:
        with pq.ParquetFile(evidence.root / file.name, memory_map=True) as parquet:
            if key not in parquet.schema_arrow.names:
                message = f"{file.name} lacks the declared column {key!r}"
                yield finding("data-schema", message, place=place, fix="restore the file, or declare it as it is")
                return
            found = parquet.schema_arrow.field(key).type
            if found != arrow_type(feature):
                message = f"column {key!r} holds {found}, but is declared an image: {arrow_type(feature)}"
                yield finding("data-schema", message, place=place, fix="store images as bytes and path")
                return
            for row, image in _images(parquet, key, sorted(wanted)):
                problem = _problem(image, feature)
                if problem:
                    broken.setdefault(problem, []).append(wanted[row])
    except (pa.ArrowException, OSError) as error:
        message = f"the images in {file.name} cannot be read: {str(error).splitlines()[0]}"
        yield finding("image-decode", message, place=place, fix=_RESTORE, episodes=wanted.values())
    for problem, episodes in broken.items():
        message = f"first or last image of {counted(len(set(episodes)), 'episode')}: {problem}"
        yield finding("image-decode", message, place=place, fix=_RESTORE, episodes=episodes)


def _images(parquet: pq.ParquetFile, key: str, rows: list[int]) -> Iterator[tuple[int, object]]:
    """The cells of some rows; only the row groups that hold them are read."""
    first = 0
    for group in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(group).num_rows
        here = [row for row in rows if first <= row < first + count]
        if here:
            column = parquet.read_row_group(group, columns=[key]).column(key)
            yield from zip(here, column.take(np.array(here) - first).to_pylist(), strict=True)
        first += count


def _problem(cell: object, feature: Feature) -> str | None:
    if not isinstance(cell, dict) or not cell.get("bytes"):
        return "there is no image"
    try:
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            image.load()
            size = (image.height, image.width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"it does not decode ({str(error).splitlines()[0].split(' <')[0]})"
    if len(feature.shape) in (2, 3) and size != feature.size[:2]:
        return f"it is {size[1]}x{size[0]}, declared {feature.size[1]}x{feature.size[0]}"
    return None

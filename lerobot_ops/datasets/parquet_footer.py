"""Reading a parquet file whose footer was never written: its pages say what is in it, once the schema is known.

A recording that is killed leaves complete row groups without the metadata that says where they are. Format: Apache
Parquet, `PageHeader` and `FileMetaData` in Thrift's compact protocol. The page headers are read one after the other;
a footer for them is made from that of an empty file with the same schema, and Arrow reads the rest.
"""

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.tables import data_schema
from lerobot_ops.datasets.thrift import Struct, dump_struct, load_struct
from lerobot_ops.errors import DatasetError

_MAGIC = b"PAR1"
_DICTIONARY_PAGE, _DATA_PAGES = 2, (0, 3)
_LARGEST_HEADER = 1 << 16


@dataclass(frozen=True)
class _Page:
    """A page of a file; `values` is 0 for a dictionary."""

    begin: int
    end: int
    is_dictionary: bool
    values: int
    uncompressed: int
    """Bytes of the page and its header before compression."""


def rows_without_footer(path: Path, features: Mapping[str, Feature]) -> pa.Table:
    """The rows of the complete row groups in `path`, a data file of a dataset with `features` but without a footer.

    Raises DatasetError when not even one row group is complete, or when a column's rows differ in length.
    """
    content = path.read_bytes()
    schema = data_schema(features)
    template = _template(schema, features)
    leaves = [count for name, feature in features.items() for count in _leaf_values(path, name, feature)]
    groups = list(_row_groups(list(_pages(content)), leaves))
    table: pa.Table | None = None
    while groups and table is None:
        try:
            table = pq.read_table(pa.BufferReader(content + _footer(template, groups))).cast(schema)
        except (pa.ArrowException, OSError):
            groups.pop()  # the last one may have been written in part
    if table is None:
        raise DatasetError(
            "nothing can be read of a file without a footer", file=path, expected="at least one complete row group"
        )
    return table


def _pages(content: bytes) -> Iterator[_Page]:
    at = len(_MAGIC)
    while at < len(content):
        try:
            header, length = load_struct(content[at : at + _LARGEST_HEADER])
            kind, uncompressed, compressed = (int(header[field]) for field in (1, 2, 3))
            data = header.get(5) or header.get(8)
            values = int(data[1]) if data is not None and kind in _DATA_PAGES else 0
        except (KeyError, IndexError, ValueError, TypeError):
            return
        end = at + length + compressed
        if kind not in (_DICTIONARY_PAGE, *_DATA_PAGES) or compressed < 0 or end > len(content):
            return
        yield _Page(at, end, kind == _DICTIONARY_PAGE, values, length + uncompressed)
        at = end


def _row_groups(pages: list[_Page], leaves: list[int]) -> Iterator[tuple[int, list[list[_Page]]]]:
    """Each complete row group: its rows, and its pages by column. `leaves` says how many values a row has in each."""
    at = 0
    while at < len(pages):
        # The first column ends where the second begins, which only a dictionary shows; so try the candidates.
        group = next(
            filter(None, (_row_group(pages, at, rows, leaves) for rows in _first_rows(pages, at, leaves[0]))), None
        )
        if group is None:
            return
        rows, columns, at = group
        yield rows, columns


def _first_rows(pages: list[_Page], at: int, per_row: int) -> list[int]:
    """How many rows the first column of a row group may have: the likeliest first."""
    values, sums = 0, []
    at += pages[at].is_dictionary
    while at < len(pages) and not pages[at].is_dictionary:
        values += pages[at].values
        if values and values % per_row == 0:
            sums.append(values // per_row)
        at += 1
    return sums[::-1]


def _row_group(pages: list[_Page], at: int, rows: int, leaves: list[int]) -> tuple[int, list[list[_Page]], int] | None:
    columns: list[list[_Page]] = []
    for per_row in leaves:
        column = [pages[at]] if at < len(pages) and pages[at].is_dictionary else []
        at += len(column)
        values = 0
        while at < len(pages) and not pages[at].is_dictionary and values < rows * per_row:
            column.append(pages[at])
            values += pages[at].values
            at += 1
        if values != rows * per_row:
            return None
        columns.append(column)
    return rows, columns, at


def _leaf_values(path: Path, name: str, feature: Feature) -> list[int]:
    """For every leaf of a feature's column, how many values a row has."""
    if feature.dtype == "image":
        return [1, 1]
    if feature.dtype == "language":
        raise DatasetError(
            "a file without a footer cannot be read when the length of a column's rows varies", file=path, field=name
        )
    return [1] if feature.dtype == "string" else [math.prod(feature.shape)]


def _template(schema: pa.Schema, features: Mapping[str, Feature]) -> Struct:
    """The footer of a file of this schema with one row group, as pyarrow writes it."""
    buffer = io.BytesIO()
    row = {name: pa.array([_example(feature)], schema.field(name).type) for name, feature in features.items()}
    with pq.ParquetWriter(buffer, schema, compression="snappy", use_dictionary=True) as writer:
        writer.write_table(pa.table(row, schema=schema))
    content = buffer.getvalue()
    length = int.from_bytes(content[-8:-4], "little")
    return load_struct(content[-8 - length : -8])[0]


def _example(feature: Feature) -> Any:
    if feature.dtype == "image":
        return {"bytes": b"", "path": ""}
    if feature.dtype == "string":
        return ""
    zero = np.zeros(feature.shape, feature.dtype)
    return zero[0] if feature.shape == (1,) else zero.tolist()


def _footer(template: Struct, groups: list[tuple[int, list[list[_Page]]]]) -> bytes:
    """`template` (a FileMetaData) with these row groups, and what follows it in a file."""
    example = template[4][0]
    made = []
    for rows, columns in groups:
        chunks = []
        for old, pages in zip(example[1], columns, strict=True):
            first_data = next(page for page in pages if not page.is_dictionary)
            about = Struct(old[3])
            for field in (12, 13, 14, 15, 16, 17):  # statistics, indexes and filters of the example
                about.pop(field, None)
            about[5] = sum(page.values for page in pages)
            about[6] = sum(page.uncompressed for page in pages)
            about[7] = pages[-1].end - pages[0].begin
            about[9] = first_data.begin
            if pages[0].is_dictionary:
                about.put(11, pages[0].begin, like=9)
            else:
                about.pop(11, None)
            chunk = Struct(old)
            for field in (4, 5, 6, 7):
                chunk.pop(field, None)
            chunk[2], chunk[3] = pages[0].begin if 2 in chunk and old[2] else 0, about
            chunks.append(chunk)
        group = Struct(example)
        for field in (4, 5, 7):
            group.pop(field, None)
        group[1], group[2], group[3] = chunks, sum(chunk[3][6] for chunk in chunks), rows
        if 6 in group:
            group[6] = sum(chunk[3][7] for chunk in chunks)
        made.append(group)
    footer = Struct(template)
    footer[3], footer[4] = sum(rows for rows, _ in groups), made
    content = dump_struct(footer)
    return content + len(content).to_bytes(4, "little") + _MAGIC

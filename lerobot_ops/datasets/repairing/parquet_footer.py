"""Reading a parquet file whose footer was never written: its pages say what is in it, once the schema is known.

A recording that is killed leaves complete row groups without the metadata that says where they are. Format: Apache
Parquet, `PageHeader` and `FileMetaData` in Thrift's compact protocol. The page headers are read one after the other;
a footer for them is made from that of an empty file with the same schema, and Arrow reads the rest.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.language import language_array
from lerobot_ops.datasets.repairing.thrift import Struct, dump_struct, load_struct
from lerobot_ops.datasets.tables import data_schema
from lerobot_ops.errors import DatasetError

_MAGIC = b"PAR1"
_DICTIONARY_PAGE, _DATA_PAGES = 2, (0, 3)
_LARGEST_HEADER = 1 << 16
_LARGEST_PAGE = 1 << 30
"""Bytes: a damaged header may say more than there is memory."""
_SNAPPY = pa.Codec("snappy")


@dataclass(frozen=True)
class _Page:
    """A page of a file; `values` is 0 for a dictionary."""

    begin: int
    body: int
    """Where its content begins, behind the header."""
    end: int
    is_dictionary: bool
    values: int
    uncompressed: int
    """Bytes of the content before compression."""
    rows: int | None
    """How many rows begin in it, where the header says so."""


@dataclass(frozen=True)
class _Group:
    """A complete row group: its rows, and the pages of each of its columns."""

    rows: int
    columns: list[list[_Page]]


def rows_without_footer(path: Path, features: Mapping[str, Feature]) -> pa.Table:
    """The rows of the complete row groups in `path`, a data file of a dataset with `features` but without a footer.

    A row group that cannot be read is passed over. Raises DatasetError when not even one can.
    """
    content = path.read_bytes()
    schema = data_schema(features)
    template, deepest = _template(schema, features)
    groups = list(_Scan(content, deepest).groups())
    tables = []
    if groups:
        with pq.ParquetFile(pa.BufferReader(content + _footer(template, groups))) as file:
            tables = [table.cast(schema) for number in range(len(groups)) if (table := _readable(file, number))]
    if not tables:
        raise DatasetError(
            "nothing can be read of a file without a footer", file=path, expected="at least one complete row group"
        )
    return pa.concat_tables(tables)


def _readable(file: pq.ParquetFile, group: int) -> pa.Table | None:
    """The rows of a row group; None when they cannot be read."""
    try:
        table = file.read_row_group(group)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        return None
    return table


class _Scan:
    """Finds the row groups of a file by the headers of its pages; `deepest` are its columns' repetition levels."""

    def __init__(self, content: bytes, deepest: list[int]) -> None:
        self._content, self._deepest = content, deepest
        self._pages = list(_pages(content))

    def groups(self) -> Iterator[_Group]:
        """The row groups up to the first that is not complete."""
        at = 0
        while at < len(self._pages) and (found := self._group(at)) is not None:
            group, at = found
            yield group

    def _group(self, at: int) -> tuple[_Group, int] | None:
        # The first column ends where the second begins, which only a dictionary shows; so try the candidates.
        try:
            found = (self._columns(at, rows) for rows in self._first_rows(at))
            return next(filter(None, found), None)
        except (ValueError, IndexError, pa.ArrowException, OSError):
            return None

    def _first_rows(self, at: int) -> list[int]:
        """How many rows the first column of a row group may have: the likeliest first."""
        sums = []
        rows = 0
        at += self._pages[at].is_dictionary
        while at < len(self._pages) and not self._pages[at].is_dictionary:
            rows += self._rows(self._pages[at], self._deepest[0])
            sums.append(rows)
            at += 1
        return sums[::-1]

    def _columns(self, at: int, rows: int) -> tuple[_Group, int] | None:
        """All columns of a row group of `rows` rows, and the place behind it; None when the pages hold others."""
        columns: list[list[_Page]] = []
        for deepest in self._deepest:
            column = [self._pages[at]] if at < len(self._pages) and self._pages[at].is_dictionary else []
            at += len(column)
            seen = 0
            while at < len(self._pages) and not self._pages[at].is_dictionary and seen < rows:
                column.append(self._pages[at])
                seen += self._rows(self._pages[at], deepest)
                at += 1
            if seen != rows or not rows:
                return None
            columns.append(column)
        return _Group(rows, columns), at

    def _rows(self, page: _Page, deepest: int) -> int:
        if page.rows is not None or not deepest:
            return page.values if page.rows is None else page.rows
        content = self._content[page.body : page.end]
        return _count_rows(_SNAPPY.decompress(content, page.uncompressed).to_pybytes(), page.values, deepest)


def _pages(content: bytes) -> Iterator[_Page]:
    at = len(_MAGIC)
    while at < len(content):
        try:
            header, length = load_struct(content[at : at + _LARGEST_HEADER])
            kind, uncompressed, compressed = (int(header[field]) for field in (1, 2, 3))
            data = header.get(5) or header.get(8)
            values = int(data[1]) if data is not None and kind in _DATA_PAGES else 0
            rows = int(data[3]) if data is not None and kind == _DATA_PAGES[1] else None
        except (KeyError, IndexError, ValueError, TypeError):
            return
        end = at + length + compressed
        is_known = kind in (_DICTIONARY_PAGE, *_DATA_PAGES) and 0 <= uncompressed < _LARGEST_PAGE
        if not is_known or compressed < 0 or end > len(content):
            return
        yield _Page(at, at + length, end, kind == _DICTIONARY_PAGE, values, uncompressed, rows)
        at = end


def _count_rows(page: bytes, values: int, deepest: int) -> int:
    """How many rows begin in a page: the repetition levels of 0, which are at its start in runs and packed bits.

    Raises ValueError or IndexError when they are none.
    """
    levels, width = page[4 : 4 + int.from_bytes(page[:4], "little")], deepest.bit_length()
    at = rows = seen = 0
    while seen < values:
        head = shift = 0
        while True:
            head |= (levels[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if levels[at - 1] < 128:
                break
        count = head >> 1
        if head & 1:  # packed bits, for eight levels at a time
            packed = np.unpackbits(np.frombuffer(levels, np.uint8, count * width, at), bitorder="little")
            rows += int((~packed.reshape(-1, width)[: values - seen].any(1)).sum())
            at, seen = at + count * width, seen + count * 8
        else:
            rows += min(count, values - seen) * (levels[at] == 0)
            at, seen = at + (width + 7) // 8, seen + count
        if not count:
            raise ValueError("a run of no levels")
    return rows


def _template(schema: pa.Schema, features: Mapping[str, Feature]) -> tuple[Struct, list[int]]:
    """The footer of a file of this schema with one row group, and the repetition levels of its columns."""
    buffer = io.BytesIO()
    row = {
        name: language_array(name, [[]])
        if feature.dtype == "language"
        else pa.array([_example(feature)], schema.field(name).type)
        for name, feature in features.items()
    }
    with pq.ParquetWriter(buffer, schema, compression="snappy", use_dictionary=True) as writer:
        writer.write_table(pa.table(row, schema=schema))
    content = buffer.getvalue()
    length = int.from_bytes(content[-8:-4], "little")
    described = pq.ParquetFile(io.BytesIO(content)).schema
    deepest = [described.column(number).max_repetition_level for number in range(len(described))]
    return load_struct(content[-8 - length : -8])[0], deepest


def _example(feature: Feature) -> Any:
    if feature.dtype == "image":
        return {"bytes": b"", "path": ""}
    if feature.dtype == "string":
        return ""
    zero = np.zeros(feature.shape, feature.dtype)
    return zero[0] if feature.shape == (1,) else zero.tolist()


def _footer(template: Struct, groups: list[_Group]) -> bytes:
    """`template` (a FileMetaData) with these row groups, and what follows it in a file."""
    example = template[4][0]
    made = []
    for found in groups:
        chunks = []
        for old, pages in zip(example[1], found.columns, strict=True):
            first_data = next(page for page in pages if not page.is_dictionary)
            about = Struct(old[3])
            for field in (12, 13, 14, 15, 16, 17):  # statistics, indexes and filters of the example
                about.pop(field, None)
            about[5] = sum(page.values for page in pages)
            about[6] = sum(page.body - page.begin + page.uncompressed for page in pages)
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
        group[1], group[2], group[3] = chunks, sum(chunk[3][6] for chunk in chunks), found.rows
        if 6 in group:
            group[6] = sum(chunk[3][7] for chunk in chunks)
        made.append(group)
    footer = Struct(template)
    footer[3], footer[4] = sum(found.rows for found in groups), made
    content = dump_struct(footer)
    return content + len(content).to_bytes(4, "little") + _MAGIC

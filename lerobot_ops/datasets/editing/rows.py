"""The rows of edited episodes: read from their sources, with new numbers, tasks, names and values."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.arrays import numbers
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.source import Kept
from lerobot_ops.datasets.editing.times import moved_language, new_times
from lerobot_ops.datasets.language import PERSISTENT
from lerobot_ops.datasets.tables import data_schema
from lerobot_ops.errors import DatasetError

_AT_ONCE = 8 * 2**20
"""Bytes of row groups that are read together; of one that is larger, a few rows are read at a time."""


class RowReader:
    """Reads rows of parquet files; those that follow each other in a file are read in one pass over it."""

    def __init__(self) -> None:
        self._open: tuple[Path, tuple[str, ...]] | None = None
        self._parts: Iterator[tuple[int, pa.Table]] = iter(())
        self._held: deque[tuple[int, pa.Table]] = deque()
        """The number of its first row, and the rows."""

    def read(self, kept: Kept, columns: Sequence[str]) -> pa.Table:
        """These columns of the rows that are kept of an episode; raises DatasetError when they cannot be read."""
        return self.rows(kept.rows.file, kept.rows.first, kept.rows.count, columns)

    def rows(self, path: Path, first: int, count: int, columns: Sequence[str]) -> pa.Table:
        """These columns of `count` rows from `first`; raises DatasetError when they cannot be read."""
        here, end = (path, tuple(columns)), first + count
        reached = self._held[-1][0] + self._held[-1][1].num_rows if self._held else 0
        if here != self._open or not self._held or not self._held[0][0] <= first <= reached:
            self._open, self._parts, reached = here, _parts(*here, first), 0
            self._held.clear()
        try:
            while reached < end:
                begin, part = next(self._parts)
                self._held.append((begin, part))
                reached = begin + part.num_rows
        except (pa.ArrowException, OSError, StopIteration) as error:
            found = str(error)[:200] or "too few rows"
            raise DatasetError("a data file cannot be read", file=path, field=f"row {first}", found=found) from None
        while self._held[0][0] + self._held[0][1].num_rows <= first:
            self._held.popleft()
        return pa.concat_tables([part for _, part in self._held]).slice(first - self._held[0][0], count)


def source_columns(kept: Kept, *, images: bool) -> list[str]:
    """The columns of an episode's data file, those of images only if `images`."""
    return [name for name, feature in kept.source.info.columns.items() if images or feature.dtype != "image"]


def output_schema(recipe: Recipe) -> pa.Schema:
    """The schema of the data files that are written; columns of language have the types of their source."""
    info = recipe.info
    plain = {name: feature for name, feature in info.columns.items() if feature.dtype != "language"}
    schema = data_schema(plain)
    if len(plain) == len(info.columns):
        return schema
    described = json.loads(schema.metadata[b"huggingface"])
    features: dict[str, Any] = described["info"]["features"]
    fields = []
    file = recipe.kept[0].rows.file
    source = pq.read_schema(file)
    known = json.loads((source.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for name in info.columns:
        origin = recipe.origin(name)
        if name in plain:
            fields.append(schema.field(name))
        elif origin in source.names:
            fields.append(source.field(origin).with_name(name))
            features[name] = known.get(origin)
        else:
            raise DatasetError("a data file lacks a column", file=file, field=origin, found=", ".join(source.names))
    described["info"]["features"] = {name: features[name] for name in info.columns if features.get(name)}
    return pa.schema(fields, metadata={"huggingface": json.dumps(described)})


class RowMaker:
    """Makes the rows of a recipe's episodes, one episode after the other."""

    def __init__(self, recipe: Recipe, tasks: Sequence[str], row_tasks: Sequence[np.ndarray] | None) -> None:
        self.schema = output_schema(recipe)
        self._recipe, self._row_tasks = recipe, row_tasks
        self._reader = RowReader()
        self._numbers = {task: number for number, task in enumerate(tasks)}
        copied = [name for name in recipe.info.columns if name not in recipe.computed and name not in _RENUMBERED]
        self._copied = {name: recipe.origin(name) for name in copied}

    def rows(self, number: int, begin: int) -> pa.Table:
        """The rows of episode `number`, whose first frame is `begin`, as they are written. Raises DatasetError."""
        kept = self._recipe.kept[number]
        if self._recipe.computed:
            source = self._reader.read(
                kept,
                source_columns(
                    kept,
                    images=any(kept.source.info.features[origin].dtype == "image" for origin in self._copied.values()),
                ),
            )
        else:
            source = self._reader.read(kept, list(self._copied.values()))
        columns: dict[str, Any] = {name: source.column(origin) for name, origin in self._copied.items()}
        for name, compute in self._recipe.computed.items():
            columns[name] = compute(kept, source)
            if len(columns[name]) != kept.count:
                raise DatasetError(
                    "a computed column has another number of rows than its episode",
                    field=f"{name} of episode {kept.episode}",
                    found=len(columns[name]),
                    expected=kept.count,
                )
        columns["index"] = numbers(np.arange(begin, begin + kept.count))
        columns["episode_index"] = numbers(np.full(kept.count, number, np.int64))
        columns["task_index"] = numbers(self._tasks(number))
        if not kept.whole:
            columns |= new_times(kept)
            if PERSISTENT in columns:
                columns[PERSISTENT] = moved_language(kept, columns[PERSISTENT])
        try:
            return pa.table({name: columns[name] for name in self.schema.names}).cast(self.schema)
        except (pa.ArrowException, ValueError) as error:
            raise DatasetError(
                "a data file has other types than its info declares",
                file=kept.rows.file,
                found=str(error).splitlines()[0],
            ) from None

    def _tasks(self, number: int) -> np.ndarray:
        if self._row_tasks is not None:
            return self._row_tasks[number].astype(np.int64)
        kept = self._recipe.kept[number]
        runs = kept.rows.tasks
        numbers = np.array([self._numbers[kept.source.tasks[task]] for _, task in runs], np.int64)
        bounds = np.array([*(first for first, _ in runs), kept.count])
        return np.repeat(numbers, np.diff(bounds))


_RENUMBERED = ("index", "episode_index", "task_index")


def _parts(path: Path, columns: tuple[str, ...], first: int) -> Iterator[tuple[int, pa.Table]]:
    """A data file from the row group in which row `first` is: tables, and the number of the first row of each."""
    with pq.ParquetFile(path, buffer_size=2**20) as file:
        names = file.schema_arrow.names
        missing = [name for name in columns if name not in names]
        if missing:
            raise DatasetError("a table lacks a column", file=path, field=missing[0], found=", ".join(names))
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        begin, number = 0, 0
        while number < len(groups) and begin + groups[number].num_rows <= first:
            begin += groups[number].num_rows
            number += 1
        while number < len(groups):
            if groups[number].total_byte_size > _AT_ONCE:
                size = groups[number].total_byte_size / groups[number].num_rows
                for batch in file.iter_batches(max(1, int(_AT_ONCE / size)), [number], list(columns)):
                    yield begin, pa.Table.from_batches([batch])
                    begin += batch.num_rows
                number += 1
                continue
            together, size = [], 0
            while number < len(groups) and size + groups[number].total_byte_size <= _AT_ONCE:
                together.append(number)
                size += groups[number].total_byte_size
                number += 1
            part = file.read_row_groups(together, list(columns))
            yield begin, part
            begin += part.num_rows

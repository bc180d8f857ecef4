"""The columns of the frames that a view's episodes point at, wherever in the data files these are."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.tables import column_array, data_files, plain_values, read_parquet
from lerobot_ops.datasets.view import View
from lerobot_ops.errors import DatasetError


@dataclass(frozen=True)
class Places:
    """Where episodes are in the data files."""

    files: list[Path]
    file: np.ndarray
    """int64[E]: the number of each episode's file in `files`; -1 for an episode that nobody asked for."""
    start: np.ndarray
    """int64[E]: the row in its file at which each episode begins."""


class DataRows:
    """The rows of the data files that a view is made of; rows and files that no episode points at are passed over."""

    def __init__(self, view: View) -> None:
        self._view = view

    def numbers(self, name: str, feature: Feature) -> np.ndarray:
        """A numeric column: a new array [rows, *shape], [rows] for a scalar."""
        values = column_array(self._column(name), feature)
        return values if values.flags.writeable else values.copy()

    def texts(self, name: str) -> np.ndarray:
        """A column of text as objects [rows]."""
        return np.array(self._column(name).to_pylist(), dtype=object)

    def cells(self, name: str) -> pa.ChunkedArray:
        """A column as arrow holds it."""
        return self._column(name)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each of the view's `rows` the number of its file in `files`, and its row in that file."""
        episode, offset = self._view.locate(rows)
        number = self._view.episodes[episode]
        return self.places.file[number], self.places.start[number] + offset

    @cached_property
    def places(self) -> Places:
        """Where the view's episodes are; raises DatasetError when the data files hold too few frames."""
        return _pointed_at(self._view) or _by_position(self._view)

    def _column(self, name: str) -> pa.ChunkedArray:
        places, chosen = self.places, self._view.episodes
        file, start = places.file[chosen], places.start[chosen]
        end = start + self._view.end - self._view.first
        # Episodes that follow each other in one file are one slice of it.
        begins = np.flatnonzero(np.r_[True, (file[1:] != file[:-1]) | (start[1:] != end[:-1])])
        last = np.r_[begins[1:], len(chosen)] - 1
        read = {number: read_parquet(places.files[number], [name]) for number in np.unique(file)}
        slices = [read[file[a]].slice(int(start[a]), int(end[b] - start[a])) for a, b in zip(begins, last, strict=True)]
        return pa.concat_tables(slices, promote_options="permissive").column(name)


def language_cell(cell: pa.Scalar) -> list[dict[str, Any]]:
    """What is said at one frame: a list of rows, tool calls as JSON values."""
    return [_parsed(row) for row in cell.as_py() or []]


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    calls = row.get("tool_calls")
    if calls is None:
        return row
    return row | {"tool_calls": [json.loads(call) if isinstance(call, str) else call for call in calls]}


def _pointed_at(view: View) -> Places | None:
    """By the places in the episodes table; None when a file has fewer rows than its episodes."""
    table = view.table
    pointers = np.stack([table["data/chunk_index"], table["data/file_index"]], axis=1)
    unique, group = np.unique(pointers, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.lexsort((table["dataset_from_index"], group))
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    needed = np.unique(group[view.episodes])
    files = [view.root / view.info.data_file(*map(int, unique[number])) for number in needed]
    places = Places(files, np.full(len(group), -1), np.zeros(len(group), np.int64))
    for number, file in enumerate(files):
        here = members[needed[number]]
        length = table["length"][here]
        found = _rows(file) if file.exists() else 0
        if found < length.sum():
            return None
        places.file[here] = number
        exact = found == length.sum()
        places.start[here] = np.cumsum(length) - length if exact else _indexed(file, table, here)
    return places


def _by_position(view: View) -> Places:
    """By the number of the frame in all data files, as LeRobot reads them; some tools leave wrong places behind."""
    files = data_files(view.root)
    if not files:
        raise DatasetError("the dataset has no data files", file=view.root / "data", expected="data/*/*.parquet")
    ends = np.cumsum([_rows(file) for file in files])
    first, end = view.table["dataset_from_index"], view.table["dataset_to_index"]
    file = np.searchsorted(ends, first, side="right").clip(max=len(files) - 1)
    if ends[-1] != end.max() or (end > ends[file]).any():
        raise DatasetError(
            "the data files have fewer frames than the episodes table"
            if ends[-1] < end.max()
            else "episodes are not in the data files that the episodes table names",
            file=view.root / "data",
            found=f"{ends[-1]} frames in {len(files)} files",
            expected=f"{end.max()} frames",
        )
    return Places(files, file, first - np.r_[0, ends][file])


def _indexed(file: Path, table: dict[str, np.ndarray], here: np.ndarray) -> np.ndarray:
    """Where the episodes `here` begin in a file with more rows than they have: by the numbers of the frames."""
    index = plain_values(read_parquet(file, ["index"]).column("index").combine_chunks())
    first, length = table["dataset_from_index"][here], table["length"][here]
    order = np.argsort(index, kind="stable")
    start = order[np.minimum(np.searchsorted(index, first, sorter=order), len(index) - 1)]
    end = np.minimum(start + length, len(index)) - 1
    wrong = (index[start] != first) | (index[end] != first + length - 1)
    if wrong.any():
        raise DatasetError(
            "the frames of an episode are not in its data file",
            file=file,
            field="index",
            found=f"{len(index)} rows without a run {first[wrong][0]} to {(first + length)[wrong][0] - 1}",
            fix="validate the dataset to see which episodes are wrong",
        )
    return start


def _rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError):
        return int(read_parquet(file, []).num_rows)  # says what is wrong with the file

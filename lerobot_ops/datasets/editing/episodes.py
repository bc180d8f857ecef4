"""The episodes table of an edited dataset, written a few hundred rows at a time."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.arrays import lists, nested, numbers, texts
from lerobot_ops.datasets.editing.numeric import feature_stats
from lerobot_ops.datasets.info import EPISODES_PATH, DatasetInfo
from lerobot_ops.datasets.tables import EPISODES_PER_FILE, STATISTICS

_BATCH = 500
"""Episodes whose rows are held before they are written; one with a camera's statistics is about 14 kB."""


class EpisodesTable:
    """Takes the rows of the episodes table one after the other."""

    def __init__(self, root: Path, info: DatasetInfo, cameras: Mapping[str, Sequence[str]], extra: pa.Table) -> None:
        self._root, self._info, self._extra = root, info, extra
        self._cameras = cameras
        """Camera -> the statistics that it has."""
        self._rows: list[dict[str, Any]] = []
        self._numeric: list[dict[str, np.ndarray]] = []
        self._seen: list[Mapping[str, Mapping[str, np.ndarray]]] = []
        self._place, self._written, self._in_file = (0, 0), 0, 0
        self._writer: pq.ParquetWriter | None = None

    def add(
        self,
        row: dict[str, Any],
        numeric: dict[str, np.ndarray],
        cameras: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        """Add an episode: its columns but the statistics, `matrix_stats` of its rows, and each camera's statistics."""
        self._rows.append(row)
        self._numeric.append(numeric)
        self._seen.append(cameras)
        if len(self._rows) == _BATCH:
            self._flush()

    def __enter__(self) -> "EpisodesTable":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None and self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if self._in_file + len(self._rows) > EPISODES_PER_FILE and self._writer is not None:
            self._writer.close()
            self._writer, self._in_file = None, 0
            self._place = self._info.next_file(*self._place)
        table = self._table()
        if self._writer is None:
            path = self._root / EPISODES_PATH.format(chunk_index=self._place[0], file_index=self._place[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression="snappy", use_dictionary=True)
        self._writer.write_table(table)
        self._written += len(self._rows)
        self._in_file += len(self._rows)
        self._rows, self._numeric, self._seen = [], [], []

    def _table(self) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        count = len(self._rows)
        for name in self._rows[0]:
            values = [row[name] for row in self._rows]
            columns[name] = _column(name, values)
        numeric = {name: np.stack([stats[name] for stats in self._numeric]).T for name in self._numeric[0]}
        found = feature_stats(numeric, self._info.numeric, rows=count)
        for name, feature in self._info.features.items():
            if feature.is_numeric:
                columns |= {f"stats/{name}/{key}": nested(found[name][key]) for key in STATISTICS}
            for key in self._cameras.get(name, ()):
                values = [stats.get(name, {}).get(key) for stats in self._seen]
                columns[f"stats/{name}/{key}"] = _camera_column(key, values)
        for index, key in enumerate(("chunk_index", "file_index")):
            columns[f"meta/episodes/{key}"] = numbers(np.full(count, self._place[index]))
        for name in self._extra.column_names:
            columns[name] = self._extra.column(name).slice(self._written, count)
        return pa.table(columns)


def _column(name: str, values: list[Any]) -> pa.Array:
    if name == "tasks":
        return lists(texts(list(itertools.chain(*values))), [len(tasks) for tasks in values])
    return numbers(np.array(values, np.float64 if name.endswith("_timestamp") else np.int64))


def _camera_column(statistic: str, values: Sequence[np.ndarray | None]) -> pa.Array:
    """A statistic of a camera per episode, null where it is not known."""
    dtype = np.int64 if statistic == "count" else np.float64
    known = [np.asarray(value, dtype) for value in values if value is not None]
    if len(known) == len(values) and len({value.shape for value in known}) == 1:
        return nested(np.stack(known))
    kind: pa.DataType = pa.int64() if statistic == "count" else pa.float64()
    for _ in range(1 if statistic == "count" else 3):
        kind = pa.list_(pa.field("element", kind))
    return pa.array([None if value is None else np.asarray(value, dtype).tolist() for value in values], kind)

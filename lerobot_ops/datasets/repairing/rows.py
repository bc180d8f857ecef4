"""The episodes that the data files of a damaged dataset hold, whatever its other files say."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import DEFAULT_FEATURES, DatasetInfo
from lerobot_ops.datasets.repairing.parquet_footer import rows_without_footer
from lerobot_ops.datasets.tables import data_files, data_schema, read_parquet
from lerobot_ops.errors import DatasetError


@dataclass
class Run:
    """An episode's rows in a data file."""

    file: Path
    """A file that can be read: the dataset's, or what was read of it."""
    number: int
    """What its rows say that it is."""
    first: int
    count: int
    in_order: bool
    """Whether `frame_index` counts 0, 1, 2 …"""
    problem: str | None = None
    """Why it cannot be saved."""

    def read(self, info: DatasetInfo) -> pa.Table:
        """The rows of the whole file, with the types of `info`."""
        table = read_parquet(self.file)
        schema = data_schema(info.columns)
        names = [name for name in schema.names if name in table.column_names]
        return table.select(names).cast(pa.schema([schema.field(name) for name in names]))


def read_runs(
    root: Path, info: DatasetInfo, folder: Path, done: list[str], lost: list[str]
) -> tuple[DatasetInfo, list[Run]]:
    """The episodes of all data files, in order, and the info without features that no file holds.

    Files without a footer are read from their pages and written again into `folder`. Sentences about what was mended
    and lost are added to `done` and `lost`. Raises DatasetError when there is no data file.
    """
    files = data_files(root)
    if not files:
        raise DatasetError("the dataset has no data files", file=root / "data", expected="data/*/*.parquet")
    names: dict[Path, set[str]] = {}
    for number, path in enumerate(files):
        readable = _readable(path, info, folder / "read" / f"{number:06d}.parquet", root, done, lost)
        if readable is not None:
            names[readable] = set(pq.read_schema(readable).names)
    info = _info_of(info, list(names.values()), done)
    runs: list[Run] = []
    for path, columns in names.items():
        missing = [name for name in info.columns if name not in columns and name not in DEFAULT_FEATURES]
        said = path.relative_to(root) if path.is_relative_to(root) else path.name
        if missing:
            lost.append(f"{said}: it lacks the column {missing[0]}")
            continue
        found = _runs(path)
        try:
            found[0].read(info)
        except (pa.ArrowException, DatasetError, IndexError) as error:
            reason = (str(error).splitlines() or ["it has no rows"])[0]
            lost.append(f"{said}: {reason}")
            continue
        runs += found
    return info, runs


def _readable(
    path: Path, info: DatasetInfo, substitute: Path, root: Path, done: list[str], lost: list[str]
) -> Path | None:
    said = path.relative_to(root)
    try:
        read_parquet(path)
        return path
    except (DatasetError, ValueError, OSError):  # Arrow raises ValueError for names that are no text
        pass
    try:
        rows = rows_without_footer(path, info.columns)
    except (DatasetError, OSError) as error:
        lost.append(f"{said}: {(str(error).splitlines() or ['it cannot be read'])[0]}")
        return None
    substitute.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, substitute)
    done.append(f"{said}: {rows.num_rows:,} rows were read without the footer, which is missing or damaged")
    return substitute


def _info_of(info: DatasetInfo, files: list[set[str]], done: list[str]) -> DatasetInfo:
    gone = [
        name
        for name in info.columns
        if name not in DEFAULT_FEATURES and files and not any(name in columns for columns in files)
    ]
    for name in gone:
        done.append(f"the feature {name} is in no data file; it was removed from info.json")
    features = {name: feature for name, feature in info.features.items() if name not in gone}
    return info.model_copy(update={"features": {**features, **DEFAULT_FEATURES}})


def _runs(path: Path) -> list[Run]:
    table = read_parquet(path)
    episode, frame = (_numbers(table, name) for name in ("episode_index", "frame_index"))
    if episode is None and frame is None:
        return [Run(path, -1, 0, table.num_rows, False, "neither episode_index nor frame_index can be read")]
    starts = _starts(episode, frame)
    runs: list[Run] = []
    for first, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
        in_order = frame is not None and np.array_equal(frame[first:end], np.arange(end - first))
        number = len(runs) if episode is None else int(np.bincount(np.maximum(episode[first:end], 0)).argmax())
        runs.append(Run(path, number, int(first), int(end - first), in_order))
    return runs


def _starts(episode: np.ndarray | None, frame: np.ndarray | None) -> list[int]:
    """The first row of every episode: where `frame_index` begins anew if it is sane, else where the episode changes."""
    if frame is not None and len(frame) and frame[0] == 0 and np.isin(np.diff(frame)[frame[1:] != 0], [1]).all():
        return [int(row) for row in np.flatnonzero(frame == 0)]
    if episode is None or not len(episode):
        return []
    return [0, *(np.flatnonzero(np.diff(episode)) + 1).tolist()]


def _numbers(table: pa.Table, name: str) -> np.ndarray | None:
    if name not in table.column_names or table.column(name).null_count:
        return None
    column = table.column(name)
    return np.asarray(column.to_numpy()) if pa.types.is_integer(column.type) else None

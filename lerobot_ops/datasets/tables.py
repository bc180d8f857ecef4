"""The parquet tables and the statistics file of a LeRobotDataset v3.0: data, episodes, tasks, `stats.json`.

Every `write_*` gives the same bytes for the same content. They write in place: call them inside `artifacts.staged`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.datasets.arrays import numbers, texts
from lerobot_ops.datasets.info import EPISODES_PATH, STATS_PATH, TASKS_PATH, DatasetInfo, Feature
from lerobot_ops.datasets.language import language_feature, language_type
from lerobot_ops.errors import DatasetError

Stats = dict[str, dict[str, np.ndarray]]
"""Feature -> statistic -> array: see `statistics`."""

STATISTICS = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")
EPISODES_PER_FILE = 5000
"""Rows of one episodes file; a row with a camera's statistics is about 14 kB, so a file stays below 100 MB."""

_ARROW_TYPES = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(), "bool": pa.bool_()}


def arrow_type(feature: Feature) -> pa.DataType:
    """The arrow type of a feature's column in the data parquet: scalar, fixed-size or nested list, image struct."""
    if feature.dtype == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if feature.dtype == "string":
        return pa.string()
    value = _ARROW_TYPES.get(feature.dtype) or getattr(pa, feature.dtype)()
    if feature.shape == (1,):
        return value
    if len(feature.shape) == 1:
        return pa.list_(pa.field("element", value), feature.shape[0])
    for _ in feature.shape:
        value = pa.list_(value)
    return value


def data_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """The schema of the data parquet for `DatasetInfo.columns`; `datasets` restores types from its metadata."""
    fields, described = [], {}
    for name, feature in features.items():
        language = feature.dtype == "language"
        fields.append(pa.field(name, language_type(name) if language else arrow_type(feature)))
        described[name] = language_feature(name) if language else _huggingface_feature(feature)
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": described}})})


def data_files(root: Path | str) -> list[Path]:
    """The data parquet files, in the order of their frames."""
    return sorted(Path(root).glob("data/*/*.parquet"))


def load_data(root: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of the data parquet, in order; raises DatasetError naming the file that cannot be read."""
    files = data_files(root)
    if not files:
        raise DatasetError("the dataset has no data files", file=Path(root) / "data", expected="data/*/*.parquet")
    return pa.concat_tables([read_parquet(file, columns) for file in files], promote_options="permissive")


def write_data(path: Path, episodes: Iterable[pa.Table], features: Mapping[str, Feature]) -> None:
    """Write one data file with one row group per episode, as LeRobot does."""
    _write_groups(path, data_schema(features), episodes)


def episodes_files(root: Path | str) -> list[Path]:
    """The parquet files of the episodes table, in order."""
    return sorted(Path(root).glob("meta/episodes/*/*.parquet"))


def load_episodes(root: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """The episodes table, one row per episode, with its `stats/*` columns (see `episode_stats`) or only `columns`."""
    files = episodes_files(root)
    if not files:
        raise DatasetError(
            "the dataset has no episodes table",
            file=Path(root) / "meta/episodes",
            expected="meta/episodes/*/*.parquet",
            fix="the recording was probably interrupted before it was finalised; record it again",
        )
    return pa.concat_tables([read_parquet(file, columns) for file in files], promote_options="permissive")


def write_episodes(root: Path | str, episodes: Sequence[Mapping[str, Any]], info: DatasetInfo) -> None:
    """Write the episodes table.

    Each mapping holds the columns of one episode except `meta/episodes/*`, which are set here, and may hold `stats`
    (feature -> statistic -> array), which becomes the `stats/*` columns. The columns are put in LeRobot's order; those
    that it does not know follow its own.
    """
    chunk = file = 0
    for start in range(0, len(episodes), EPISODES_PER_FILE):
        path = Path(root) / EPISODES_PATH.format(chunk_index=chunk, file_index=file)
        write_episodes_file(path, episodes[start : start + EPISODES_PER_FILE], info, (chunk, file))
        chunk, file = info.next_file(chunk, file)


def write_episodes_file(
    path: Path, episodes: Sequence[Mapping[str, Any]], info: DatasetInfo, place: tuple[int, int]
) -> None:
    """Write one file of the episodes table, whose (chunk, file) number is `place`; see `write_episodes`."""
    rows = [_episode_row(episode, *place) for episode in episodes]
    schema = _episodes_schema(rows, info)
    _write_groups(path, schema, [pa.Table.from_pylist(rows, schema=schema)])


def episode_stats(row: Mapping[str, Any]) -> Stats:
    """The `stats/<feature>/<statistic>` columns of one row of the episodes table as arrays."""
    stats: Stats = {}
    for name, value in row.items():
        if name.startswith("stats/") and value is not None:
            _, feature, statistic = name.split("/")
            stats.setdefault(feature, {})[statistic] = np.atleast_1d(np.array(value))
    return stats


def load_tasks(root: Path | str) -> list[str]:
    """The tasks; a frame's `task_index` is a position in this list (LeRobot resolves it by row, too)."""
    path = Path(root) / TASKS_PATH
    table = read_parquet(path)
    name = "task" if "task" in table.column_names else "__index_level_0__"
    if name not in table.column_names:
        raise DatasetError(
            "the tasks table has no tasks", file=path, found=table.column_names, expected="column 'task'"
        )
    return [str(task) for task in table.column(name).to_pylist()]


def write_tasks(root: Path | str, tasks: Sequence[str]) -> None:
    """Write `meta/tasks.parquet` as pandas would write a frame with the index `task` and the column `task_index`."""
    columns = [_pandas_column("task_index", "int64", "int64"), _pandas_column("task", "unicode", "object")]
    index = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
    described = {
        "index_columns": ["task"],
        "column_indexes": [index | {"metadata": {"encoding": "UTF-8"}}],
        "columns": columns,
        "attributes": {},
        "creator": {"library": "pyarrow", "version": "21.0.0"},
        "pandas_version": "2.3.3",  # what the layout is of, so that the bytes do not depend on what is installed
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(described)})
    table = pa.table([numbers(np.arange(len(tasks))), texts(tasks)], schema=schema)
    _write_groups(Path(root) / TASKS_PATH, schema, [table])


def load_stats(root: Path | str) -> Stats:
    """`meta/stats.json` as arrays of at least one dimension, (channels, 1, 1) for cameras; empty if there is none."""
    path = Path(root) / STATS_PATH
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            feature: {name: np.atleast_1d(np.array(value)) for name, value in stats.items()}
            for feature, stats in content.items()
        }
    except (ValueError, AttributeError) as error:
        raise DatasetError("the statistics cannot be read", file=path, found=str(error), expected="JSON") from None


def write_stats(root: Path | str, stats: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write `meta/stats.json`, features in alphabetical order, statistics in LeRobot's."""
    ordered = {
        feature: {name: np.asarray(stats[feature][name]).tolist() for name in sorted(stats[feature], key=_rank)}
        for feature in sorted(stats)
    }
    text = json.dumps(ordered, indent=4, ensure_ascii=False, allow_nan=False)
    write_bytes(Path(root) / STATS_PATH, text.encode())


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one parquet file; raises DatasetError when it is missing, has no footer or lacks a column."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names if columns else []
            missing = [name for name in columns or () if name not in names]
            if missing:
                raise DatasetError("a table lacks a column", file=path, field=missing[0], found=", ".join(names))
            # Threads pay for a whole table; for some columns in small row groups, handing them out costs more.
            return file.read(columns=list(columns) if columns is not None else None, use_threads=columns is None)
    except FileNotFoundError:
        raise DatasetError("a file of the dataset is missing", file=path) from None
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            "a file of the dataset cannot be read",
            file=path,
            found=str(error).splitlines()[0],
            expected="a parquet file",
            fix="the recording was probably interrupted before the file's footer was written",
        ) from None


def column_array(column: pa.ChunkedArray, feature: Feature) -> np.ndarray:
    """A numeric column as an array [rows, *shape] ([rows] for a scalar), without a copy where arrow allows it."""
    array: pa.Array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    shape = (len(array),) if feature.shape == (1,) else (len(array), *feature.shape)
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    while pa.types.is_nested(array.type):
        array = array.flatten()
    dtype = np.dtype(feature.dtype)
    values = plain_values(array) if len(array) else np.empty(0, dtype)
    if values.size != int(np.prod(shape)):
        raise DatasetError(
            "a column has another size than its feature", found=f"{values.size} values", expected=f"shape {shape}"
        )
    return values.astype(dtype, copy=False).reshape(shape)


def plain_values(array: pa.Array) -> np.ndarray:
    """A flat array as numpy. Numbers without nulls are taken from the buffer: arrow's own way imports pandas first."""
    kind = array.type
    if array.null_count or not len(array):
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(kind):
        bits = np.frombuffer(array.buffers()[1], np.uint8)
        end = array.offset + len(array)
        return np.unpackbits(bits, count=end, bitorder="little")[array.offset :].view(np.bool_)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        letter = "f" if pa.types.is_floating(kind) else "i" if pa.types.is_signed_integer(kind) else "u"
        dtype = np.dtype(f"{letter}{kind.bit_width // 8}")
        return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)
    return array.to_numpy(zero_copy_only=False)


def _write_groups(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=True) as writer:
        for table in tables:
            rows = table.select(schema.names).cast(schema)
            writer.write_table(rows, row_group_size=max(1, rows.num_rows))


def _huggingface_feature(feature: Feature) -> dict[str, Any]:
    if feature.dtype == "image":
        return {"_type": "Image"}
    value = {"dtype": feature.dtype, "_type": "Value"}
    if feature.shape == (1,):
        return value
    if len(feature.shape) == 1:
        return {"feature": value, "length": feature.shape[0], "_type": "List"}
    return {"shape": list(feature.shape), "dtype": feature.dtype, "_type": f"Array{len(feature.shape)}D"}


def _episode_row(episode: Mapping[str, Any], chunk: int, file: int) -> dict[str, Any]:
    stats: Mapping[str, Mapping[str, np.ndarray]] = episode.get("stats", {})
    row = {name: value for name, value in episode.items() if name != "stats"}
    for feature, values in stats.items():
        for name in sorted(values, key=_rank):
            row[f"stats/{feature}/{name}"] = np.asarray(values[name]).tolist()
    return row | {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}


def _episodes_schema(rows: Sequence[Mapping[str, Any]], info: DatasetInfo) -> pa.Schema:
    names = list(dict.fromkeys(name for row in rows for name in row))
    known = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]
    known += ["dataset_from_index", "dataset_to_index"]
    for key in info.video_keys:
        known += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
    known += [f"stats/{feature}/{name}" for feature in info.features for name in STATISTICS]
    known += ["meta/episodes/chunk_index", "meta/episodes/file_index"]
    places = {name: place for place, name in enumerate(known)}
    names.sort(key=lambda name: places.get(name, len(places)))
    return pa.schema([(name, _episode_type(name, rows)) for name in names])


def _episode_type(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.DataType:
    if name == "tasks":
        return pa.list_(pa.field("element", pa.string()))
    if name.endswith("_timestamp"):
        return pa.float64()
    if name.endswith(("_index", "length")) and not name.startswith("stats/"):
        return pa.int64()
    if name.startswith("stats/"):
        statistic: pa.DataType = pa.int64() if name.endswith("/count") else pa.float64()
        value = next(row[name] for row in rows if row.get(name) is not None)
        for _ in range(np.ndim(value)):
            statistic = pa.list_(pa.field("element", statistic))
        return statistic
    return pa.infer_type([row.get(name) for row in rows])


def _rank(statistic: str) -> tuple[int, str]:
    return (STATISTICS.index(statistic) if statistic in STATISTICS else len(STATISTICS), statistic)


def _pandas_column(name: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
    return {
        "name": name,
        "field_name": name,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": None,
    }

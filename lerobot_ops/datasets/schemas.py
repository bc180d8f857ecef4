"""The contract of the three tables as pandera schemas: data, episodes, tasks.

A table is checked as a flat frame, one numeric column per dimension (`action[2]`), so that a message names the
dimension. `failures` forces pandera to look at the values whatever its environment variables say.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pandera.errors
import pandera.pandas as pa
import pyarrow
from pandera.config import ValidationDepth, config_context

from lerobot_ops.datasets.info import DEFAULT_FEATURES, DatasetInfo, Feature
from lerobot_ops.datasets.tables import column_array
from lerobot_ops.errors import DatasetError

FINITE = "finite"
"""The pandera check that refuses NaN and infinity."""
COUNTS_FROM_0 = "counts_from_0"
"""The pandera check that wants 0, 1, 2 …"""
MOST_DIMENSIONS = 64
"""A larger array is checked as the sum of each of its rows, which is finite only when every value is."""
COUNTERS = {name for name, feature in DEFAULT_FEATURES.items() if feature.dtype == "int64"}


@dataclass(frozen=True)
class Failure:
    """A column that broke its contract: which check, in which rows, with which values."""

    column: str
    check: str
    rows: list[int]
    values: list[Any]


def data_schema(info: DatasetInfo) -> pa.DataFrameSchema:
    """One data file: declared dtypes, no nulls, finite floats, counters from 0, the default features present."""
    columns = {}
    for name, feature in info.numeric.items():
        for column in flat_names(name, feature):
            checks = [_finite()] if np.dtype(feature.dtype).kind == "f" else []
            if name in COUNTERS:
                checks.append(pa.Check.ge(0))
            dtype = feature.dtype if feature.shape == (1,) or column != name else None
            columns[column] = pa.Column(dtype, checks, nullable=False, required=name == column and dtype is not None)
    for name in set(DEFAULT_FEATURES) - set(info.features):
        columns[name] = pa.Column(DEFAULT_FEATURES[name].dtype)
    return pa.DataFrameSchema(columns, strict=False)


def episodes_schema(info: DatasetInfo) -> pa.DataFrameSchema:
    """The episodes table: one row per episode, in order from 0, lengths of at least 1, pointers and times from 0."""
    count = pa.Check.ge(0)
    columns = {
        "episode_index": pa.Column("int64", pa.Check(_counts_from_0, name=COUNTS_FROM_0, error=COUNTS_FROM_0)),
        "length": pa.Column("int64", pa.Check.ge(1)),
        "dataset_from_index": pa.Column("int64", count),
        "dataset_to_index": pa.Column("int64", count),
        "data/chunk_index": pa.Column("int64", count),
        "data/file_index": pa.Column("int64", count),
    }
    for key in info.video_keys:
        columns |= {f"videos/{key}/{name}": pa.Column("int64", count) for name in ("chunk_index", "file_index")}
        times = ("from_timestamp", "to_timestamp")
        columns |= {f"videos/{key}/{name}": pa.Column("float64", [count, _finite()]) for name in times}
    return pa.DataFrameSchema(columns, strict=False)


def tasks_schema() -> pa.DataFrameSchema:
    """The task table: row i has task_index i and a text that no other row has."""
    return pa.DataFrameSchema(
        {
            "task_index": pa.Column("int64", pa.Check(_counts_from_0, name=COUNTS_FROM_0, error=COUNTS_FROM_0)),
            "task": pa.Column(str, nullable=False, unique=True),
        },
        strict=False,
    )


def failures(schema: pa.DataFrameSchema, frame: pd.DataFrame) -> Iterator[Failure]:
    """Every way in which `frame` breaks `schema`, one per column and check."""
    with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
        try:
            schema.validate(frame, lazy=True)
        except pandera.errors.SchemaErrors as errors:
            cases = errors.failure_cases
        else:
            return
    cases["column"] = cases["column"].where(cases["schema_context"] == "Column", cases["failure_case"]).astype(str)
    for (column, check), group in cases.groupby(["column", "check"], sort=False):
        rows = [int(row) for row in group["index"].dropna()]
        yield Failure(str(column), str(check), rows, group["failure_case"].tolist())


def data_frame(table: pyarrow.Table, info: DatasetInfo) -> pd.DataFrame:
    """The numeric columns of one data file, flat; columns of another shape than declared are left out."""
    columns: dict[str, Any] = {}
    for name, feature in info.numeric.items():
        if name not in table.column_names:
            continue
        column = table.column(name)
        if feature.shape == (1,):
            columns[name] = column.to_pandas()
        elif not column.null_count:
            with contextlib.suppress(DatasetError, pyarrow.ArrowException, ValueError):  # its type is checked elsewhere
                values = column_array(column, feature).reshape(len(column), -1)
                names = flat_names(name, feature)
                flat = (
                    values if len(names) > 1 or values.shape[1] == 1 else values.sum(1, dtype=np.float64, keepdims=True)
                )
                columns |= dict(zip(names, flat.T, strict=True))
    return pd.DataFrame(columns)


def flat_names(name: str, feature: Feature) -> list[str]:
    """`action[0]`, `action[1]` … for the dimensions of a vector; the name itself for a scalar or a large array."""
    if feature.shape == (1,) or np.prod(feature.shape) > MOST_DIMENSIONS:
        return [name]
    return [name + "".join(f"[{place}]" for place in places) for places in np.ndindex(*feature.shape)]


def _finite() -> pa.Check:
    return pa.Check(np.isfinite, name=FINITE, error=FINITE)


def _counts_from_0(values: pd.Series) -> pd.Series:
    return values == np.arange(len(values))

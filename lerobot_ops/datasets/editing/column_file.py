"""Values for a new column of a dataset from a file: `.npy`, `.npz` or `.parquet`, a row per frame."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.tables import plain_values, read_parquet
from lerobot_ops.errors import DatasetError, did_you_mean


def read_column(file: Path, column: str | None = None, default: str = "") -> np.ndarray:
    """The values in a file: [rows, ...], texts as objects [rows].

    Of a file with several arrays or columns `column` names one; without it, it is the one called `default`, or the
    only one. Raises DatasetError when the file cannot be read or has no such column.
    """
    kinds = {".npy": _npy, ".npz": _npz, ".parquet": _parquet}
    if file.suffix not in kinds:
        raise DatasetError(
            "a file of values has an unknown kind", file=file, found=file.suffix, expected=", ".join(kinds)
        )
    if not file.is_file():
        raise DatasetError("a file of values is missing", file=file)
    values = kinds[file.suffix](file, column, default)
    return values.astype(object) if values.dtype.kind == "U" else values


def dtype_of(values: np.ndarray) -> str:
    """The dtype of a feature with these values."""
    return "string" if values.dtype.kind in "OU" else values.dtype.name


def _npy(file: Path, column: str | None, _: str) -> np.ndarray:
    if column is not None:
        raise DatasetError("a .npy file has no names in it", file=file, field="column", found=column)
    loaded = _loaded(file)
    assert isinstance(loaded, np.ndarray)
    return loaded


def _npz(file: Path, column: str | None, default: str) -> np.ndarray:
    with _loaded(file) as arrays:
        name = _chosen(file, arrays.files, column, default)
        try:
            values = arrays[name]
        except ValueError as error:
            raise _unreadable(file, error) from None
    assert isinstance(values, np.ndarray)
    return values


def _parquet(file: Path, column: str | None, default: str) -> np.ndarray:
    table = read_parquet(file)
    name = _chosen(file, table.column_names, column, default)
    array = table.column(name).combine_chunks()
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if array.null_count:
        raise DatasetError("a column has nulls", file=file, field=name, found=f"{array.null_count} of {len(array)}")
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return np.array(array.to_pylist(), dtype=object)
    rows, shape = len(array), [len(array)]
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        sizes = {len(cell) for cell in array}
        if len(sizes) > 1:
            raise DatasetError("the lists of a column differ in length", file=file, field=name, found=sorted(sizes))
        shape.append(sizes.pop() if sizes else 0)
        array = array.flatten()
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)):
        raise DatasetError("a column is not usable", file=file, field=name, found=str(array.type), expected="numbers")
    return plain_values(array).reshape([rows, *shape[1:]] if rows else [0])


def _loaded(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> DatasetError:
    expected = "an array of numbers or texts"
    return DatasetError("a file of values cannot be read", file=file, found=str(error)[:200], expected=expected)


def _chosen(file: Path, names: Sequence[str], column: str | None, default: str) -> str:
    if column is None and default not in names and len(names) != 1:
        found = ", ".join(names)
        raise DatasetError("a file has several columns", file=file, field="column", found=found, fix="name one")
    name = column or (default if default in names else names[0])
    if name not in names:
        raise DatasetError("a file has no such column", file=file, field=name, fix=did_you_mean(name, names))
    return name

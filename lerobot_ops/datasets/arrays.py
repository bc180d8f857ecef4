"""Arrow arrays from numpy and Python values without `pa.array`, which imports pandas: a second and 60 MB."""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def numbers(values: np.ndarray) -> pa.Array:
    """Numbers [n] as arrow holds them; no booleans."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def texts(values: Sequence[str]) -> pa.Array:
    """Strings."""
    encoded = [value.encode() for value in values]
    ends = np.array([0, *itertools.accumulate(map(len, encoded))], np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def lists(array: pa.Array, lengths: Sequence[int] | np.ndarray) -> pa.Array:
    """The values of `array` as lists of these lengths, named as in LeRobot's tables."""
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(numbers(ends), array, type=pa.list_(pa.field("element", array.type)))


def nested(values: np.ndarray) -> pa.Array:
    """Numbers [n, *shape] as lists of the same depth."""
    array = numbers(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        array = lists(array, np.full(len(array) // size, size))
    return array

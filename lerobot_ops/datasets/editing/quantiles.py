"""Exact quantiles of values that are too many for memory: they are read a few times, and only counted.

Every value is a whole number of 64 bits in the order of the values. Each time they are read, the range in which a
quantile's value lies shrinks to one of thousands of parts, until it is one number.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lerobot_ops.datasets.editing.numeric import between
from lerobot_ops.datasets.statistics import QUANTILES

_MOST_COUNTS = 1 << 22
"""Counts that are kept at a time, 32 MB of them."""
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class _Range:
    """Where the value of some rank lies: the keys from `low` to `low` + `span`, with `below` values before them."""

    low: int
    span: int
    below: int


def streamed_quantiles(read: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """`QUANTILES` of each column of values that are given part by part: [quantiles, columns] from [rows, columns].

    `read` gives the parts, the same every time that it is called: values of one dtype, without NaN.
    """
    count, ranges, dtype = _whole(read)
    places = [divmod((count - 1) * quantile, 1) for quantile in QUANTILES]
    ranks = sorted({rank for low, _ in places for rank in (int(low), min(int(low) + 1, count - 1))})
    found = [dict.fromkeys(ranks, whole) for whole in ranges]
    columns = max(1, min(len(found), _MOST_COUNTS // (len(ranks) << 10)))
    for first in range(0, len(found), columns):
        _narrow(read, found[first : first + columns], first)
    values = {rank: _values(np.array([own[rank].low for own in found], np.uint64), dtype) for rank in ranks}
    return np.stack([between(values[int(low)], values[min(int(low) + 1, count - 1)], share) for low, share in places])


def _whole(read: Callable[[], Iterator[np.ndarray]]) -> tuple[int, list[_Range], np.dtype]:
    """How many rows there are, the range of every column, and the dtype."""
    count, lows, highs, dtype = 0, None, None, np.dtype(np.float64)
    for part in read():
        keys, dtype = _keys(part), part.dtype
        count += len(keys)
        lows = keys.min(0) if lows is None else np.minimum(lows, keys.min(0))
        highs = keys.max(0) if highs is None else np.maximum(highs, keys.max(0))
    assert lows is not None
    assert highs is not None
    ranges = [_Range(low, high - low, 0) for low, high in zip(lows.tolist(), highs.tolist(), strict=True)]
    return count, ranges, dtype


def _narrow(read: Callable[[], Iterator[np.ndarray]], found: list[dict[int, _Range]], first: int) -> None:
    """Shrink the ranges in `found` (per column from `first`: rank -> range) to one key each."""
    while True:
        wanted = [(column, each) for column, own in enumerate(found) for each in set(own.values()) if each.span]
        if not wanted:
            return
        bits = min(16, int(math.log2(_MOST_COUNTS / len(wanted))))
        shifts = [max(0, each.span.bit_length() - bits) for _, each in wanted]
        counts = [np.zeros((each.span >> shift) + 1, np.int64) for (_, each), shift in zip(wanted, shifts, strict=True)]
        for part in read():
            keys = np.ascontiguousarray(_keys(part[:, first : first + len(found)]).T)
            for (column, each), shift, own in zip(wanted, shifts, counts, strict=True):
                offsets = keys[column] - np.uint64(each.low)  # keys below wrap around to the largest numbers
                offsets = offsets[offsets <= np.uint64(each.span)] >> np.uint64(shift)
                own += np.bincount(offsets.astype(np.int64), minlength=len(own))
        for (column, each), shift, own in zip(wanted, shifts, counts, strict=True):
            reached = each.below + np.cumsum(own)
            for rank in [rank for rank, range_ in found[column].items() if range_ == each]:
                bucket = int(np.searchsorted(reached, rank, side="right"))
                low = each.low + (bucket << shift)
                span = min((1 << shift) - 1, each.low + each.span - low)
                found[column][rank] = _Range(low, span, int(reached[bucket] - own[bucket]))


def _keys(values: np.ndarray) -> np.ndarray:
    """uint64 in the order of `values`."""
    if values.dtype.kind == "f":
        wide = values.itemsize == 8
        floats = (values if wide else values.astype(np.float32)) + 0.0  # no negative zero
        bits: Any = floats.view(np.uint64 if wide else np.uint32)
        sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
        return np.asarray(np.where(bits & sign, ~bits, bits | sign), np.uint64)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64) ^ _SIGN
    return values.astype(np.uint64)


def _values(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64: the values that have these keys."""
    if dtype.kind == "f":
        bits: Any = keys if dtype.itemsize == 8 else keys.astype(np.uint32)
        sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
        bits = np.where(bits & sign, bits ^ sign, ~bits)
        return np.asarray(bits.view(np.float64 if dtype.itemsize == 8 else np.float32), np.float64)
    if dtype.kind == "i":
        return (keys ^ _SIGN).view(np.int64).astype(np.float64)
    return keys.astype(np.float64)

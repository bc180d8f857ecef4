"""One frame of a dataset as torch tensors, the way LeRobot's reader gives it."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lerobot_ops.datasets.view import View


class Items:
    """The vectors of items, by indexing tensors that share their memory with the dataset's columns.

    `values` gives a column as an array, `cell` what a feature that is no number says at a row.
    """

    def __init__(
        self,
        view: View,
        deltas: Mapping[str, np.ndarray],
        values: Callable[[str], np.ndarray],
        cell: Callable[[str, int], Any],
    ) -> None:
        self._first, self._end = view.first.tolist(), view.end.tolist()
        self._windows = {name: _Window(frames) for name, frames in deltas.items()}
        features = view.info.features
        self._columns = {name: _tensor(values(name)) for name, feature in features.items() if feature.is_numeric}
        self._others = [name for name, feature in features.items() if not (feature.is_numeric or feature.is_camera)]
        self._cell = cell

    def __call__(self, row: int) -> dict[str, Any]:
        """Everything but the cameras' frames and the task: new tensors."""
        episode = bisect_right(self._end, row)
        first, end = self._first[episode], self._end[episode]
        item: dict[str, Any] = {}
        for name, column in self._columns.items():
            if name not in self._windows:
                item[name] = column[row].clone()
        for name, window in self._windows.items():
            rows, item[f"{name}_is_pad"] = window.around(row, first, end)
            if name in self._columns:
                column = self._columns[name]
                item[name] = column[rows].clone() if isinstance(rows, slice) else column[rows]
            elif name in self._others:
                item[name] = [self._cell(name, at) for at in _numbers(rows)]
        for name in self._others:
            if name not in item:
                item[name] = self._cell(name, row)
        return item


class _Window:
    """The frames around a row that a feature's delta timestamps ask for."""

    def __init__(self, deltas: np.ndarray) -> None:
        self._deltas, self._low, self._high = deltas, int(deltas.min()), int(deltas.max())
        self._consecutive = bool((np.diff(deltas) == 1).all())

    def around(self, row: int, first: int, end: int) -> tuple[slice | torch.Tensor, torch.Tensor]:
        """Which rows of the episode `first` to `end` these are, and which of them only stand for one outside of it."""
        low, high = row + self._low, row + self._high
        if self._consecutive and first <= low and high < end:
            return slice(low, high + 1), torch.zeros(len(self._deltas), dtype=torch.bool)
        wanted = row + self._deltas
        inside = wanted.clip(first, end - 1)
        return torch.from_numpy(inside), torch.from_numpy(inside != wanted)


def _numbers(rows: slice | torch.Tensor) -> list[int]:
    return list(range(rows.start, rows.stop)) if isinstance(rows, slice) else [int(row) for row in rows]


def _tensor(values: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    if tensor.dtype == torch.bool:
        return tensor
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)

"""One frame of a dataset as torch tensors, the way LeRobot's reader gives it."""

import ctypes
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from lerobot_ops.datasets.buffers import frame_buffers
from lerobot_ops.datasets.view import View

_LIBC = ctypes.CDLL(None)
_MADV_POPULATE_WRITE = 23


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


class Item(dict[str, Any]):
    """An item, and the frames of the items that were read with it, of which its own are a part.

    torch's `default_collate` puts items into a batch by copying every frame. Those that were read together already are
    a batch, which in a worker process lies in the memory that it shares with the one that trains.
    """

    def __init__(self, content: Mapping[str, Any], frames: Mapping[str, torch.Tensor]) -> None:
        super().__init__(content)
        self.frames = frames

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def decoded(read: Callable[..., np.ndarray]) -> torch.Tensor:
    """What `read(empty=...)` gives, as a tensor; in shared memory when it is a worker of a DataLoader that reads."""
    shared: list[torch.Tensor] = []

    def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize, device="cpu")
        _populate(storage.data_ptr(), storage.nbytes())
        shared.append(torch.from_numpy(np.empty(0, dtype)).new().set_(storage).reshape(shape))
        return shared[0].numpy()

    frames = read(empty=frame_buffers.empty if torch.utils.data.get_worker_info() is None else empty)
    inside = shared and shared[0].data_ptr() == frames.ctypes.data and len(frames)
    return shared[0] if inside else torch.from_numpy(frames)


def _populate(address: int, size: int) -> None:
    """Have the kernel give all pages of a new mapping at once, which takes half the time of giving each when written.

    Where the kernel (Linux before 5.14) or the system has no such call, nothing happens.
    """
    if hasattr(_LIBC, "madvise"):
        _LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_POPULATE_WRITE)


def transformed(frames: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Frames [rows, ...] with each row changed by itself, in place where it keeps its shape and type."""
    changed = [change(frame) for frame in frames]
    if any(frame.shape != frames.shape[1:] or frame.dtype != frames.dtype for frame in changed):
        return torch.stack(changed)
    for place, frame in enumerate(changed):
        frames[place] = frame
    return frames


def _collate(items: list[Item], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """`default_collate` of items, without a copy of frames that are a batch already."""
    whole = {name: frames for name, frames in items[0].frames.items() if _are_all(frames, [i[name] for i in items])}
    rest = [{name: value for name, value in item.items() if name not in whole} for item in items]
    collated = collate(rest, collate_fn_map=collate_fn_map)
    return {name: whole[name] if name in whole else collated[name] for name in items[0]}


def _are_all(frames: torch.Tensor, parts: list[Any]) -> bool:
    """Whether `parts` are all of `frames`, in order, and no copies of them."""
    if len(parts) != len(frames):
        return False
    return all(
        isinstance(part, torch.Tensor) and part.dtype == frames.dtype and part.is_set_to(frames[place])
        for place, part in enumerate(parts)
    )


default_collate_fn_map[Item] = _collate  # the way in that torch documents for types of one's own


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

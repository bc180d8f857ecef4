"""Memory for frames that is used again once nobody holds the frames.

The kernel takes longer to give new pages than a frame takes to be scaled into them, and libc gives large blocks back
whenever they are freed.
"""

import math
import threading
import weakref
from typing import Any

import numpy as np


class Buffers:
    """Blocks of memory that wait for their next use, at most `most` bytes of them."""

    def __init__(self, most: int) -> None:
        self._most, self._kept, self._lock = most, 0, threading.RLock()
        self._free: dict[int, list[np.ndarray]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array with whatever was in its memory before; that is used again when the last view of it is gone."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < _SMALL:
            return np.empty(shape, dtype)
        with self._lock:
            waiting = self._free.get(size)
            block = waiting.pop() if waiting else None
            self._kept -= size if block is not None else 0
        block = np.empty(size, np.uint8) if block is None else block
        # Every view of the array, in numpy or in torch, holds the memoryview between it and the block.
        between = memoryview(block)  # type: ignore[arg-type]  # an array is a buffer
        flat = np.frombuffer(between, dtype)
        assert isinstance(flat.base, memoryview)
        weakref.finalize(flat.base, self._give_back, size, block).atexit = False
        return flat.reshape(shape)

    def _give_back(self, size: int, block: np.ndarray) -> None:
        with self._lock:  # of a kind that the same thread may take again: memory can be freed at any moment
            if self._kept + size <= self._most:
                self._free.setdefault(size, []).append(block)
                self._kept += size


_SMALL = 2**18
"""Bytes that libc keeps by itself."""

frame_buffers = Buffers(2**28)

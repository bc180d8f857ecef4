"""Batches of a dataset, decoded ahead by threads of this process: no workers to start, and nothing to copy to them.

Decoding and scaling let go of the interpreter's lock, so that threads decode as fast as processes do.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from lerobot_ops.datasets.reader import LeRobotDataset

Key = TypeVar("Key")
Value = TypeVar("Value")


def batches_of(
    dataset: LeRobotDataset,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    drop_last: bool = False,
    threads: int | None = None,
    ahead: int = 4,
) -> Generator[dict[str, Any]]:
    """One pass over `dataset` in batches as torch's DataLoader makes them from items: name -> tensor or list [B, ...].

    The order is drawn from (seed, epoch). `threads`, by default one per processor, have `ahead` batches ready or in
    work. Raises what reading raises, where the batch would come.
    """
    from torch.utils.data import default_collate

    rows = np.arange(len(dataset))
    if shuffle:
        np.random.default_rng([seed, epoch]).shuffle(rows)
    last = len(rows) - len(rows) % batch_size if drop_last else len(rows)
    keys = (rows[start : start + batch_size] for start in range(0, last, batch_size))

    def read(key: np.ndarray) -> dict[str, Any]:
        batch: dict[str, Any] = default_collate(dataset.__getitems__(key.tolist()))
        return batch

    yield from read_ahead(read, keys, threads=threads or os.cpu_count() or 1, ahead=ahead)


def read_ahead(read: Callable[[Key], Value], keys: Iterable[Key], *, threads: int, ahead: int) -> Generator[Value]:
    """`read(key)` for each of `keys`, in their order, made by `threads` up to `ahead` before they are asked for."""
    todo = iter(keys)
    with ThreadPoolExecutor(min(threads, ahead), "read ahead") as pool:
        ready: deque[Future[Value]] = deque(pool.submit(read, key) for key in islice(todo, ahead))
        try:
            while ready:
                value = ready.popleft().result()
                ready.extend(pool.submit(read, key) for key in islice(todo, 1))
                yield value
        finally:
            for future in ready:
                future.cancel()

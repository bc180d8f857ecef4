"""Which file of a LeRobotDataset v3.0 an episode goes into, and the columns that its place gives it."""

from collections.abc import Sequence

import numpy as np

from lerobot_ops.datasets.info import DatasetInfo

Place = tuple[int, int]
"""The (chunk, file) number of a data, video or episodes file."""


def default_columns(number: int, begin: int, task_indices: np.ndarray, fps: int) -> dict[str, np.ndarray]:
    """The default features of an episode's frames, given its number and that of its first frame in the dataset."""
    frame_index = np.arange(len(task_indices), dtype=np.int64)
    return {
        "timestamp": (frame_index / fps).astype(np.float32),
        "frame_index": frame_index,
        "episode_index": np.full(len(task_indices), number, np.int64),
        "index": begin + frame_index,
        "task_index": task_indices.astype(np.int64),
    }


def fill_files(
    sizes: Sequence[float],
    limit: float,
    info: DatasetInfo,
    *,
    first: Place = (0, 0),
    kinds: Sequence[object] | None = None,
) -> list[Place]:
    """The place of each item, from `first` on: a new file where `sizes` would reach `limit`, or `kinds` change."""
    places: list[Place] = []
    place, filled = first, 0.0
    for number, size in enumerate(sizes):
        other = kinds is not None and number > 0 and kinds[number] != kinds[number - 1]
        if number and (other or (filled and filled + size >= limit)):
            place, filled = info.next_file(*place), 0.0
        filled += size
        places.append(place)
    return places


def steps_on(place: Place, steps: int, info: DatasetInfo) -> Place:
    """The place of the file that comes `steps` files later, or earlier."""
    chunk, file = divmod(place[0] * info.chunks_size + place[1] + steps, info.chunks_size)
    return chunk, file

"""What is noted about moments of an episode, when only a part of the episode is kept: its time begins at 0 again.

That is in language columns (`language_persistent`), and in the columns of the episodes table that name the parts of a
task (`subtask_names`, `sparse_subtask_start_frames` and so on, as LeRobot's SARM tools write them).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.arrays import numbers
from lerobot_ops.datasets.editing.source import Kept
from lerobot_ops.datasets.language import PERSISTENT, language_array
from lerobot_ops.errors import DatasetError

_PREFIXES = ("", "sparse_", "dense_")
_PARTS = ("subtask_names", "subtask_start_frames", "subtask_end_frames", "subtask_start_times", "subtask_end_times")


def new_times(kept: Kept) -> dict[str, pa.Array]:
    """The frame numbers and times of a part of an episode."""
    frames = np.arange(kept.count, dtype=np.int64)
    seconds = (frames / kept.source.info.fps).astype(np.float32)
    return {"frame_index": numbers(frames), "timestamp": numbers(seconds)}


def moved_language(kept: Kept, column: pa.ChunkedArray) -> pa.Array:
    """The cells of `language_persistent` on the frames that are kept of an episode.

    What held before the first of them and was not replaced by then holds from it on; what comes after the last is gone.
    """
    known: tuple[Any, Any] = None, None
    cells = []
    for cell in column.to_pylist():
        if cell != known[0]:  # as a rule it is the same on every frame
            known = cell, _moved_rows(kept, cell or [])
        cells.append(known[1])
    try:
        return language_array(PERSISTENT, cells)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DatasetError(
            "a language column cannot be trimmed", file=kept.rows.file, field=PERSISTENT, found=str(error)[:200]
        ) from None


def _moved_rows(kept: Kept, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    fps = kept.source.info.fps
    frames = [round(row["timestamp"] * fps) - kept.first for row in rows]
    latest: dict[tuple[object, ...], int] = {}
    for row, frame in zip(rows, frames, strict=True):
        if frame <= 0:
            kind = (row["style"], row["role"], row["camera"])
            latest[kind] = max(latest.get(kind, frame), frame)
    return [
        row | {"timestamp": max(0, frame) / fps}
        for row, frame in zip(rows, frames, strict=True)
        if frame < kept.count and (frame > 0 or frame == latest[row["style"], row["role"], row["camera"]])
    ]


def moved_subtasks(kept: Kept, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an episode's row that name parts of its task: those within what is kept, from its first frame on.

    `row` holds the columns of the episodes table that the format does not know; the others of them stay as they are.
    """
    moved: dict[str, Any] = {}
    for prefix in _PREFIXES:
        columns = {part: row[prefix + part] for part in _PARTS if row.get(prefix + part) is not None}
        scale = 1 if "subtask_start_frames" in columns else kept.source.info.fps
        unit = "frames" if scale == 1 else "times"
        begins, ends = (columns.get(f"subtask_{end}_{unit}") for end in ("start", "end"))
        if begins is None or ends is None or len({len(values) for values in columns.values()}) != 1:
            continue
        stays = [
            begin * scale < kept.first + kept.count and end * scale >= kept.first
            for begin, end in zip(begins, ends, strict=True)
        ]
        for part, values in columns.items():
            own = [value for value, is_kept in zip(values, stays, strict=True) if is_kept]
            moved[prefix + part] = own if part == "subtask_names" else [_moved(kept, part, value) for value in own]
    return moved


def _moved(kept: Kept, part: str, value: float) -> float:
    """A frame number or a time, within what is kept."""
    if part.endswith("frames"):
        return min(max(int(value) - kept.first, 0), kept.count - 1)
    fps = kept.source.info.fps
    return min(max(value - kept.first / fps, 0.0), (kept.count - 1) / fps)

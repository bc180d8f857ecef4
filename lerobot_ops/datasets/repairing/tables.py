"""What the episodes and task tables of a damaged dataset still say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.info import EPISODES_PATH, TASKS_PATH, DatasetInfo
from lerobot_ops.datasets.repairing.rows import Run
from lerobot_ops.datasets.tables import Stats, episode_stats, episodes_files, load_tasks, read_parquet
from lerobot_ops.errors import DatasetError

_OWN = {"episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"}
_POINTERS = ("data/", "videos/", "stats/", "meta/episodes/")


class EpisodesTable:
    """The rows of the episodes table that can be read; without any, every question is answered with nothing."""

    def __init__(self, root: Path, info: DatasetInfo, done: list[str]) -> None:
        self._cameras = info.camera_keys
        parts = []
        for path in episodes_files(root):
            try:
                parts.append(read_parquet(path))
            except (DatasetError, ValueError):
                done.append(f"{path.relative_to(root)}: it cannot be read; what it said was found out from the frames")
        if not parts and not episodes_files(root):
            place = EPISODES_PATH.format(chunk_index=0, file_index=0)
            done.append(f"{place}: the episodes table is missing; it was made anew from the frames")
        try:
            self.rows = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
        except pa.ArrowException:
            self.rows = parts[0]

    def numbers(self, name: str) -> np.ndarray | None:
        """A numeric column [rows], float64; None where it is missing or has gaps."""
        if name not in self.rows.column_names or self.rows.column(name).null_count:
            return None
        column = self.rows.column(name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            return None
        return column.to_numpy().astype(np.float64)

    def match(self, runs: Sequence[Run]) -> list[int | None]:
        """For each run of the data its row: the one of its number, or else of its place, of the same length.

        A run whose frames are not numbered 0, 1, 2 … and that has no such row cannot be saved.
        """
        lengths, numbers = self.numbers("length"), self.numbers("episode_index")
        place = {} if numbers is None else {int(number): row for row, number in enumerate(numbers)}
        times = {run.number: sum(other.number == run.number for other in runs) for run in runs}
        rows: list[int | None] = []
        for position, run in enumerate(runs):
            candidates = [place[run.number]] if run.number in place and times[run.number] == 1 else []
            candidates += [position] if position < self.rows.num_rows and len(runs) == self.rows.num_rows else []
            fitting = [row for row in candidates if lengths is not None and lengths[row] == run.count]
            rows.append(fitting[0] if fitting else None)
            if not fitting and not run.in_order:
                run.problem = "its frames are not numbered 0, 1, 2 …, so that some may be missing"
        return rows

    def tasks(self, row: int | None) -> list[str]:
        """The task texts of an episode."""
        if row is None or "tasks" not in self.rows.column_names:
            return []
        return [str(task) for task in self.rows.column("tasks")[row].as_py() or []]

    def extras(self, row: int | None) -> dict[str, Any]:
        """The columns that the format does not know."""
        names = [name for name in self.rows.column_names if name not in _OWN and not name.startswith(_POINTERS)]
        return {name: None if row is None else self.rows.column(name)[row].as_py() for name in names}

    def camera_stats(self, row: int) -> Stats:
        """An episode's statistics of cameras."""
        names = [name for name in self.rows.column_names if name.startswith("stats/")]
        stats = episode_stats(self.rows.select(names).slice(row, 1).to_pylist()[0])
        return {name: found for name, found in stats.items() if name in self._cameras}


class TaskTable:
    """The task texts that can be read, and the new table of those that are used."""

    def __init__(self, root: Path, done: list[str]) -> None:
        self.used: list[str] = []
        self._done = done
        try:
            self._texts: list[str | None] = list(load_tasks(root))
        except (DatasetError, ValueError):
            self._texts = []
            done.append(f"{TASKS_PATH}: it is missing or damaged; texts are those of the episodes table")

    def renumbered(self, old: np.ndarray, known: Sequence[str]) -> np.ndarray:
        """Task indices of the new table for those of an episode's frames, whose texts are `known`, if any are."""
        found = {int(index): self._text(int(index), known) for index in np.unique(old)}
        for text in (found[int(index)] for index in dict.fromkeys(old.tolist())):
            if text not in self.used:
                self.used.append(text)
        return np.array([self.used.index(found[int(index)]) for index in old], np.int64)

    def _text(self, index: int, known: Sequence[str]) -> str:
        if 0 <= index < len(self._texts) and self._texts[index] not in (None, "None"):
            return str(self._texts[index])
        if len(known) == 1:
            return known[0]
        sentence = f"the text of task {index} is lost; it is called 'task {index}' now"
        if sentence not in self._done:
            self._done.append(sentence)
        return f"task {index}"

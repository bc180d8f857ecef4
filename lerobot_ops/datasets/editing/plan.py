"""What an edit will write: tasks, numbers, and in which file each episode goes, decided before anything is written."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.arrays import numbers
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.rows import RowReader, output_schema, source_columns
from lerobot_ops.datasets.editing.source import Kept, Rows
from lerobot_ops.datasets.editing.times import moved_subtasks
from lerobot_ops.datasets.info import MEGABYTE, DatasetInfo
from lerobot_ops.errors import DatasetError

How = Literal["whole", "cut", "written", "encoded"]
"""A file is taken over whole, cut and joined from packets, written anew (tables), or encoded anew."""

_OWN = {"episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"}
_POINTERS = ("data/", "videos/", "stats/", "meta/episodes/")


@dataclass(frozen=True)
class OutputFile:
    """A data file or a video of the edited dataset."""

    place: tuple[int, int]
    """Its chunk and file number."""
    first: int
    """The first of its episodes, as numbered in the edited dataset."""
    count: int
    """How many episodes are in it."""
    how: How
    bytes: float
    """About its size."""
    sources: list[Path]
    """The files that its frames come from."""


@dataclass(frozen=True)
class Plan:
    """Everything about an edit that is known before it writes."""

    recipe: Recipe
    tasks: list[str]
    row_tasks: list[np.ndarray] | None
    """Per episode the task index of every row; None: as in the source (see `Kept.rows`)."""
    data: list[OutputFile]
    videos: dict[str, list[OutputFile]]
    """Per camera of the output. Those of one that is encoded anew are as large as before: their sizes are not known."""
    begins: np.ndarray = field(repr=False)
    """int64 [episodes + 1]: the number of the first frame of every episode, and of all frames."""

    @property
    def frames(self) -> int:
        return int(self.begins[-1])

    @property
    def bytes(self) -> float:
        return sum(file.bytes for file in itertools.chain(self.data, *self.videos.values()))

    def tasks_of(self, number: int) -> list[str]:
        """The distinct tasks of an episode, in the order of their appearance."""
        if self.row_tasks is None:
            return self.recipe.kept[number].tasks
        return [self.tasks[task] for task in dict.fromkeys(self.row_tasks[number].tolist())]


def plan(recipe: Recipe) -> Plan:
    """Decide what the edit writes; raises DatasetError when that is not possible."""
    if not recipe.kept:
        raise DatasetError("a dataset needs at least one episode", found="0 episodes that are kept")
    tasks, row_tasks = _tasks(recipe)
    videos = {}
    for key in recipe.info.video_keys:
        videos[key] = _encoded_files(recipe, key) if key in recipe.encodings else _video_files(recipe, key)
    begins = np.cumsum([0, *(kept.count for kept in recipe.kept)])
    return Plan(recipe, tasks, row_tasks, _data_files(recipe, tasks, begins), videos, begins)


def extra_columns(kept: Sequence[Kept]) -> pa.Table:
    """The columns of the sources' episodes tables that the format does not know, for the episodes that are kept.

    Raises pyarrow.ArrowException when a column has types in two sources that do not fit together.
    """
    parts = []
    for _, group in itertools.groupby(kept, key=lambda episode: id(episode.source)):
        episodes = list(group)
        table = episodes[0].source.episodes
        names = [name for name in table.column_names if name not in _OWN and not name.startswith(_POINTERS)]
        taken = table.select(names).take(numbers(np.array([episode.episode for episode in episodes])))
        parts.append(_with_moved_subtasks(taken, episodes))
    if not any(part.num_columns for part in parts):
        return pa.table({})
    return pa.concat_tables(parts, promote_options="permissive")


def _with_moved_subtasks(table: pa.Table, episodes: Sequence[Kept]) -> pa.Table:
    """The extra columns of `episodes`, changed where the parts of a task lie elsewhere in what is kept of one."""
    moved = {
        row: moved_subtasks(kept, {name: table.column(name)[row].as_py() for name in table.column_names})
        for row, kept in enumerate(episodes)
        if not kept.whole
    }
    for name in dict.fromkeys(itertools.chain(*moved.values())):
        values = table.column(name).to_pylist()
        for row, own in moved.items():
            values[row] = own.get(name, values[row])
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return table


def _tasks(recipe: Recipe) -> tuple[list[str], list[np.ndarray] | None]:
    """The task table and the tasks of all rows.

    Tasks that stay are in the order of the sources' task tables, new ones in that of their first appearance.
    """
    if recipe.tasks is None:
        sources = {id(kept.source): kept.source for kept in recipe.kept}.values()
        known = dict.fromkeys(task for source in sources for task in source.tasks)
        used = {task for kept in recipe.kept for task in kept.tasks}
        return [task for task in known if task in used], None
    numbers: dict[str, int] = {}
    rows = []
    reader = RowReader()
    for kept in recipe.kept:
        texts = recipe.tasks(kept, reader.read(kept, source_columns(kept, images=False)))
        if len(texts) != kept.count or not all(isinstance(text, str) and text for text in texts):
            raise DatasetError(
                "a task text per frame is needed",
                field=f"episode {kept.episode}",
                found=f"{len(texts)} texts",
                expected=f"{kept.count} sentences",
            )
        rows.append(np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32))
    return list(numbers), rows


def _data_files(recipe: Recipe, tasks: Sequence[str], begins: np.ndarray) -> list[OutputFile]:
    kept = [(episode, episode.rows) for episode in recipe.kept]
    schema = output_schema(recipe)
    runs, first = [], 0
    for count in _neighbours([(rows.file, rows.first, rows.count) for _, rows in kept]):
        episodes = kept[first : first + count]
        path = episodes[0][1].file
        same = _same_rows(recipe, tasks, episodes, first, begins) and pq.read_schema(path).equals(schema)
        runs.append(_Run(path, [rows.bytes for _, rows in episodes], same))
        first += count
    return _files(recipe.info, runs, recipe.info.data_files_size_in_mb, "written")


def _same_rows(
    recipe: Recipe, tasks: Sequence[str], episodes: Sequence[tuple[Kept, Rows]], first: int, begins: np.ndarray
) -> bool:
    """Whether these episodes, numbered from `first`, are a whole data file whose every value stays as it is."""
    if recipe.computed or recipe.tasks is not None or sum(rows.count for _, rows in episodes) != episodes[0][1].in_file:
        return False
    if any(recipe.origin(name) != name for name in recipe.info.columns):
        return False
    at = 0
    for number, (kept, rows) in enumerate(episodes, first):
        if not (kept.whole and kept.episode == number and rows.first == at and rows.index == begins[number]):
            return False
        if any(tasks[task : task + 1] != [kept.source.tasks[task]] for _, task in rows.tasks):
            return False
        at += rows.count
    return True


def _video_files(recipe: Recipe, key: str) -> list[OutputFile]:
    clips = [kept.clip(recipe.origin(key)) for kept in recipe.kept]
    begins = [round(clip.from_timestamp * recipe.info.fps) for clip in clips]
    runs, first = [], 0
    for count in _neighbours([(clip.file, begin, clip.frames) for clip, begin in zip(clips, begins, strict=True)]):
        own = clips[first : first + count]
        frames = sum(clip.frames for clip in own)
        whole = own[0].is_steady and begins[first] == 0 and frames == own[0].video.frames
        runs.append(_Run(own[0].file, [clip.bytes for clip in own], whole, own[0].video.signature))
        first += count
    return _files(recipe.info, runs, recipe.info.video_files_size_in_mb, "cut")


def _neighbours(parts: Sequence[tuple[Path, int, int]]) -> Iterator[int]:
    """How many of `parts` (file, begin, length) follow each other in one file, again and again."""
    count = 0
    for number, (path, begin, _) in enumerate(parts):
        if number and (path, begin) != (parts[number - 1][0], sum(parts[number - 1][1:])):
            yield count
            count = 0
        count += 1
    yield count


@dataclass(frozen=True)
class _Run:
    """Episodes that follow each other and come from one file."""

    file: Path
    sizes: list[float]
    whole: bool
    """Whether they are all of that file, and stay as they are."""
    kind: object = None
    """Runs of different kinds cannot be in one file."""


def _files(info: DatasetInfo, runs: Sequence[_Run], megabytes: int, how: How) -> list[OutputFile]:
    """The files to write.

    A file that is whole and at least half as large as the limit is taken over as it is, for itself; what is between
    two such files is joined in its order, a new file beginning where the size would reach the limit or the kind
    changes. What then is one whole file after all is taken over, too.
    """
    limit = megabytes * MEGABYTE
    groups: list[list[tuple[_Run, int]]] = []  # per file: runs, and how many of their episodes
    filled, closed = 0.0, True
    for run in runs:
        size = sum(run.sizes)
        alone = run.whole and size >= limit / 2 and (size < limit or len(run.sizes) == 1)
        if alone:
            groups.append([(run, len(run.sizes))])
            closed = True
            continue
        for bytes_ in run.sizes:
            if closed or filled + bytes_ >= limit or groups[-1][-1][0].kind != run.kind:
                groups.append([])
                filled, closed = 0.0, False
            if groups[-1] and groups[-1][-1][0] is run:
                groups[-1][-1] = (run, groups[-1][-1][1] + 1)
            else:
                groups[-1].append((run, 1))
            filled += bytes_
    return _described(info, groups, how)


def _described(info: DatasetInfo, groups: Sequence[list[tuple[_Run, int]]], how: How) -> list[OutputFile]:
    files, first = [], 0
    taken: dict[int, int] = {}
    for place, group in zip(places(info), groups, strict=False):
        whole = len(group) == 1 and group[0][0].whole and group[0][1] == len(group[0][0].sizes)
        size = 0.0
        for run, count in group:
            begin = taken.get(id(run), 0)
            size += sum(run.sizes[begin : begin + count])
            taken[id(run)] = begin + count
        count = sum(count for _, count in group)
        sources = list(dict.fromkeys(run.file for run, _ in group))
        files.append(OutputFile(place, first, count, "whole" if whole else how, size, sources))
        first += count
    return files


def _encoded_files(recipe: Recipe, key: str) -> list[OutputFile]:
    origin = recipe.origin(key)
    clips = [kept.clip(origin) if origin in kept.source.clips else None for kept in recipe.kept]
    paths = dict.fromkeys(clip.file if clip else kept.rows.file for clip, kept in zip(clips, recipe.kept, strict=True))
    size = sum(clip.bytes if clip else 0 for clip in clips)
    return [OutputFile((0, 0), 0, len(clips), "encoded", size, list(paths))]


def places(info: DatasetInfo) -> Iterator[tuple[int, int]]:
    """The (chunk, file) numbers in their order."""
    place = (0, 0)
    while True:
        yield place
        place = info.next_file(*place)


def group_sizes(sizes: Iterable[float], limit: float) -> list[int]:
    """How many items go into each file, a new one beginning where the sum of `sizes` would reach `limit`."""
    counts: list[int] = []
    filled = 0.0
    for size in sizes:
        if not counts or filled + size >= limit:
            counts.append(0)
            filled = 0.0
        counts[-1] += 1
        filled += size
    return counts

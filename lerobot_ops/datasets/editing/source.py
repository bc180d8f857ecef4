"""A dataset opened for editing: where each episode's frames are, checked before anything is written."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import EPISODES_PATH, TASKS_PATH, DatasetInfo, load_info
from lerobot_ops.datasets.tables import episodes_files, load_episodes, load_tasks, plain_values, read_parquet
from lerobot_ops.datasets.validation.video import TOLERANCE_S, examine
from lerobot_ops.datasets.videos.video import VideoProbe
from lerobot_ops.errors import DatasetError

_NUMBERS = ["episode_index", "task_index", "index"]
_BATCH = 1 << 16
_VALIDATE = "run `lerobot-ops validate` on it: it lists everything that is wrong"


@dataclass(frozen=True, slots=True)
class Rows:
    """An episode's rows in a data file."""

    file: Path
    first: int
    """The number of its first row in the file."""
    count: int
    tasks: list[tuple[int, int]]
    """Runs of frames with one task: the first frame of the run in the episode, and its task index."""
    bytes: float
    """About the size that it has on disk."""
    index: int | None
    """The `index` of its first row, if those of the others follow it."""
    in_file: int
    """How many rows the file has."""


@dataclass(frozen=True, slots=True)
class Clip:
    """An episode's part of a video file."""

    file: Path
    from_timestamp: float
    frames: int
    video: VideoProbe
    """The whole file, without the arrays about its frames."""
    is_steady: bool
    """Whether frame k of the file is shown at k/fps."""
    bytes: float


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset to take episodes from."""

    root: Path
    info: DatasetInfo
    tasks: list[str]
    episodes: pa.Table
    """The episodes table without its statistics, row i being episode i."""
    files: list[tuple[Path, int]]
    """The files of the episodes table, and the number of the first row of each."""
    rows: list[Rows]
    """Per episode."""
    clips: dict[str, list[Clip]]
    """Camera -> per episode."""


@dataclass(frozen=True)
class Kept:
    """An episode, or a range of its frames, that the edited dataset keeps.

    Raises DatasetError when the episode or the range does not exist.
    """

    source: Source
    episode: int
    first: int = 0
    """The first frame that is kept."""
    frames: int | None = None
    """How many frames from `first`; None: to the end of the episode."""

    def __post_init__(self) -> None:
        episodes = len(self.source.rows)
        if not 0 <= self.episode < episodes:
            raise DatasetError(
                "the dataset has no such episode",
                file=self.source.root,
                field="episode",
                found=self.episode,
                expected=f"0 to {episodes - 1}",
            )
        length = self.source.rows[self.episode].count
        if not (0 <= self.first < length and 1 <= self.count <= length - self.first):
            raise DatasetError(
                "an episode has no such frames",
                file=self.source.root,
                field=f"episode {self.episode}",
                found=f"{self.count} frames from frame {self.first}",
                expected=f"at least 1 of its frames 0 to {length - 1}",
            )

    @property
    def count(self) -> int:
        """How many frames are kept."""
        return self.source.rows[self.episode].count - self.first if self.frames is None else self.frames

    @property
    def whole(self) -> bool:
        """Whether every frame of the episode is kept."""
        return self.count == self.source.rows[self.episode].count

    @property
    def rows(self) -> Rows:
        """The rows that are kept."""
        rows = self.source.rows[self.episode]
        if self.whole:
            return rows
        before = max(run for run, (first, _) in enumerate(rows.tasks) if first <= self.first)
        tasks = [(max(0, first - self.first), task) for first, task in rows.tasks[before:]]
        tasks = [(first, task) for first, task in tasks if first < self.count]
        return replace(
            rows,
            first=rows.first + self.first,
            count=self.count,
            tasks=tasks,
            bytes=rows.bytes * self.count / rows.count,
            index=None,
        )

    @property
    def tasks(self) -> list[str]:
        """The distinct tasks of the frames that are kept, in the order of their appearance."""
        return [self.source.tasks[task] for task in dict.fromkeys(task for _, task in self.rows.tasks)]

    def clip(self, key: str) -> Clip:
        """The part of a video that is kept; `key` is the source's name of the camera."""
        clip = self.source.clips[key][self.episode]
        if self.whole:
            return clip
        share = self.count / self.source.rows[self.episode].count
        start = (round(clip.from_timestamp * self.source.info.fps) + self.first) / self.source.info.fps
        return replace(clip, from_timestamp=start, frames=self.count, bytes=clip.bytes * share)


def open_source(root: Path, cameras: Sequence[str] | None = None) -> Source:
    """Open the dataset in `root`; `cameras` are those whose videos will be kept (all, if None).

    Raises DatasetError when a file is missing or unreadable, or when the episodes table, the data and the videos
    disagree about where an episode is.
    """
    info = load_info(root)
    (episodes, files), tasks = _episodes(root), load_tasks(root)
    numbers = _column(root, episodes, "episode_index")
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise DatasetError(
            "the rows of the episodes table are not episodes 0, 1, 2 …",
            file=root / "meta/episodes",
            field="episode_index",
            found=str(numbers[:10].tolist()),
            fix=_VALIDATE,
        )
    if not len(numbers):
        raise DatasetError(
            "the dataset has no episodes", file=root / "meta/episodes", found="0 rows", fix="leave it out"
        )
    keys = info.video_keys if cameras is None else [key for key in info.video_keys if key in cameras]
    return Source(
        root=root,
        info=info,
        tasks=tasks,
        episodes=episodes,
        files=files,
        rows=_rows(root, info, episodes, len(tasks)),
        clips={key: _clips(root, info, episodes, key) for key in keys},
    )


def _episodes(root: Path) -> tuple[pa.Table, list[tuple[Path, int]]]:
    """The episodes table without its statistics, which may be larger than all the rest, and its files: see `Source`."""
    parts, files, rows = [], [], 0
    for path in episodes_files(root):
        try:
            with pq.ParquetFile(path) as file:
                names = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
                parts.append(file.read(names))
        except (pa.ArrowException, OSError):
            parts.append(read_parquet(path))  # says what is wrong with it
        files.append((path, rows))
        rows += parts[-1].num_rows
    if not parts:
        return load_episodes(root), []  # says that there is none
    return pa.concat_tables(parts, promote_options="permissive"), files


def _rows(root: Path, info: DatasetInfo, episodes: pa.Table, tasks: int) -> list[Rows]:
    chunks, files, lengths = (
        _column(root, episodes, name).tolist() for name in ("data/chunk_index", "data/file_index", "length")
    )
    read: _DataFile | None = None
    rows = []
    for number, (chunk, file, length) in enumerate(zip(chunks, files, lengths, strict=True)):
        path = root / info.data_file(chunk, file)
        if read is None or path != read.path:
            read = _DataFile(path)
        pieces = read.pieces(number)
        found = sum(count for _, count, _, _ in pieces)
        if len(pieces) != 1 or found != length:
            raise DatasetError(
                "the episodes table and the data disagree",
                file=path,
                field=f"episode {number}",
                found=f"{found} rows" + (f" in {len(pieces)} pieces" if len(pieces) > 1 else ""),
                expected=f"{length} rows in one piece",
                fix=_VALIDATE,
            )
        first, count, runs, index = pieces[0]
        used = sorted({task for _, task in runs})
        if used[0] < 0 or used[-1] >= tasks:
            raise DatasetError(
                "a frame has a task that the task table does not have",
                file=path,
                field=f"task_index of episode {number}",
                found=str(used),
                expected=f"0 to {tasks - 1}, the rows of {TASKS_PATH}",
                fix=_VALIDATE,
            )
        rows.append(Rows(path, first, count, runs, read.row_bytes * count, index, read.rows))
    return rows


class _DataFile:
    """Which rows of a data file are whose: runs of rows of one episode and one task, whose `index` counts on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: dict[int, list[tuple[int, int, int, int]]] = {}
        """Episode -> first row, rows, task and first index of each of its runs."""
        self.rows = 0
        try:
            with pq.ParquetFile(path, buffer_size=2**20) as file:
                lacking = [name for name in _NUMBERS if name not in file.schema_arrow.names]
                if lacking:
                    raise DatasetError("a table lacks a column", file=path, field=lacking[0], fix=_VALIDATE)
                for batch in file.iter_batches(_BATCH, columns=_NUMBERS):
                    self._add({name: batch.column(name) for name in _NUMBERS})
        except (pa.ArrowException, OSError):
            read_parquet(path)  # says what is wrong with it
            raise
        self.row_bytes = path.stat().st_size / max(1, self.rows)

    def pieces(self, episode: int) -> list[tuple[int, int, list[tuple[int, int]], int | None]]:
        """The first row, the rows, the runs of one task, and the first index if the others follow, of each piece."""
        pieces: list[tuple[int, int, list[tuple[int, int]], int | None]] = []
        for first, count, task, index in self._runs.get(episode, []):
            if pieces and pieces[-1][0] + pieces[-1][1] == first:
                begin, before, runs, start = pieces.pop()
                if runs[-1][1] != task:
                    runs.append((before, task))
                start = start if start is not None and start + before == index else None
                pieces.append((begin, before + count, runs, start))
            else:
                pieces.append((first, count, [(0, task)], index))
        return pieces

    def _add(self, columns: dict[str, pa.Array]) -> None:
        for name, column in columns.items():
            if column.null_count or not pa.types.is_integer(column.type):
                found = f"{column.type} with {column.null_count} nulls"
                expected = "int64 in every row"
                raise DatasetError("a column is not usable", file=self.path, field=name, found=found, expected=expected)
        episode, task, index = (plain_values(columns[name]) for name in _NUMBERS)
        changes = (np.diff(episode) != 0) | (np.diff(task) != 0) | (np.diff(index) != 1)
        bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(episode)]
        for begin, end in itertools.pairwise(bounds if len(episode) else []):
            run = (self.rows + begin, end - begin, int(task[begin]), int(index[begin]))
            self._runs.setdefault(int(episode[begin]), []).append(run)
        self.rows += len(episode)


def _clips(root: Path, info: DatasetInfo, episodes: pa.Table, key: str) -> list[Clip]:
    names = ("chunk_index", "file_index", "from_timestamp")
    chunks, files, begins = (_column(root, episodes, f"videos/{key}/{name}") for name in names)
    lengths = _column(root, episodes, "length")
    videos: dict[Path, tuple[VideoProbe, bool, int]] = {}
    clips = []
    for number, (chunk, file, begin, length) in enumerate(zip(chunks, files, begins, lengths, strict=True)):
        path = root / info.video_file(key, int(chunk), int(file))
        if path not in videos:
            videos[path] = _video(path, info.fps)
        video, is_steady, size = videos[path]
        first = round(float(begin) * info.fps)
        if first < 0 or first + length > video.frames:
            raise DatasetError(
                "a video has fewer frames than its episodes",
                file=path,
                field=f"episode {number}",
                found=f"{video.frames} frames",
                expected=f"frames {first} to {first + length}",
                fix=_VALIDATE,
            )
        share = int(length) / video.frames
        clips.append(Clip(path, float(begin), int(length), video, is_steady, size * share))
    return clips


def _video(path: Path, fps: int) -> tuple[VideoProbe, bool, int]:
    """A video file without the arrays about its frames, whether frame k is shown at k/fps, and its bytes."""
    video = examine(path)
    is_steady = bool(np.abs(video.times - np.arange(video.frames) / fps).max() < TOLERANCE_S)
    nothing = np.empty(0)
    return replace(video, times=nothing, keyframes=nothing), is_steady, path.stat().st_size


def _column(root: Path, episodes: pa.Table, name: str) -> np.ndarray:
    place = root / EPISODES_PATH.format(chunk_index=0, file_index=0)
    if name not in episodes.column_names:
        raise DatasetError("the episodes table lacks a column", file=place, field=name, fix=_VALIDATE)
    column = episodes.column(name)
    number = pa.types.is_integer(column.type) or (name.endswith("_timestamp") and pa.types.is_floating(column.type))
    if column.null_count or not number:
        found = f"{column.type} with {column.null_count} nulls"
        raise DatasetError("a column is not usable", file=place, field=name, found=found, fix=_VALIDATE)
    return plain_values(column.combine_chunks())

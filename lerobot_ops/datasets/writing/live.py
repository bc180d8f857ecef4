"""A dataset while it is recorded: whole and readable at every instant, growing by an episode at a time.

Every episode has a data file, a video per camera, a file of the episodes table and one of pixel counts of its own. It
exists from the moment at which its file of the episodes table gets its name; all that it points at is on disk by then.
`meta/info.json` and `meta/stats.json` follow. `.recording/` says where the recording began and holds what is not yet
part of the dataset; `compaction` makes a dataset without it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.artifacts import fsync_directory, fsync_file, fsync_tree, link_or_copy, make_directory
from lerobot_ops.datasets.histograms import HISTOGRAMS_PATH, load_histogram_file, write_histograms
from lerobot_ops.datasets.info import EPISODES_PATH, TASKS_PATH, DatasetInfo, load_info, write_info
from lerobot_ops.datasets.joining import Place, default_columns
from lerobot_ops.datasets.statistics import numeric_stats
from lerobot_ops.datasets.tables import (
    Stats,
    episodes_files,
    load_episodes,
    load_stats,
    load_tasks,
    write_data,
    write_episodes_file,
    write_stats,
    write_tasks,
)
from lerobot_ops.datasets.videos.video import probe
from lerobot_ops.datasets.writing.beginning import DATA, EPISODES, HISTOGRAMS, RECORDING, Beginning
from lerobot_ops.datasets.writing.episode import Recorded, Settings, to_arrow
from lerobot_ops.datasets.writing.running_stats import RunningStats, exact_stats
from lerobot_ops.errors import DatasetError


class LiveDataset:
    """The dataset at `root`, to which `commit` adds episodes; made of what is on disk.

    Opening removes what an interrupted commit left in the places of the next episode, and brings the counters and
    statistics up to date.
    """

    def __init__(self, root: Path, beginning: Beginning, settings: Settings) -> None:
        self.root, self.beginning, self.settings = root, beginning, settings
        self._stale = True
        self.refresh()

    @property
    def info(self) -> DatasetInfo:
        return self.settings.info

    @property
    def folder(self) -> Path:
        """Where episodes are prepared."""
        return self.root / RECORDING

    def file(self, kind: str, place: Place) -> str:
        """The path of a file below the root."""
        chunk, file = place
        if kind == DATA:
            return self.info.data_file(chunk, file)
        if kind in (EPISODES, HISTOGRAMS):
            template = EPISODES_PATH if kind == EPISODES else HISTOGRAMS_PATH
            return template.format(chunk_index=chunk, file_index=file)
        return self.info.video_file(kind, chunk, file)

    def files(self, kind: str) -> list[Path]:
        """The files of this recording's episodes, one for each."""
        numbers = range(self.beginning.episodes, self.episodes)
        return [self.root / self.file(kind, self.beginning.place(kind, number, self.info)) for number in numbers]

    def refresh(self) -> None:
        """Read again what is on disk, unless it is known."""
        if not self._stale:
            return
        rows = _episode_rows(self.root)
        self.episodes: int = len(rows)
        self.frames: int = int(rows.column("dataset_to_index")[-1].as_py()) if len(rows) else 0
        self._remove_orphans()
        self.tasks = self._tasks_in_use(rows)
        self.totals = self._totals()
        self._stale = False
        self._write_summary()

    def commit(self, episode: Recorded) -> None:
        """Make an episode part of the dataset, durably; its folder is no longer needed then.

        When this fails or is interrupted, the episode is in the dataset whole or not at all, and can be tried again.
        """
        self.refresh()
        self._stale = True
        number = self.episodes
        info = self._described(episode)
        tasks = list(dict.fromkeys([*self.tasks, *episode.tasks]))
        files, stats = self._prepare(number, episode, info, tasks)
        if len(tasks) > len(self.tasks):
            self._write_tasks(tasks)
        for source, target in files.items():
            _place(source, target)
        self._point_at(episode.folder / "episodes.parquet", number)
        self.settings.info = info
        self.episodes, self.frames, self.tasks = number + 1, self.frames + episode.frames, tasks
        self.totals.add(stats, episode.histograms)
        self._write_summary()
        self._stale = False

    def take_back(self) -> None:
        """Take the last episode out of the dataset, durably; interrupted, it is in it whole or not at all."""
        self.refresh()
        self._stale = True
        row = self.root / self.file(EPISODES, self.beginning.place(EPISODES, self.episodes - 1, self.info))
        row.unlink()
        fsync_directory(row.parent)
        self.refresh()

    def stats(self) -> Stats:
        """What is in `stats.json`."""
        stats = self.totals.numeric | self.totals.cameras(self.settings.level_values)
        return {name: own for name, own in stats.items() if all(np.isfinite(value).all() for value in own.values())}

    def _prepare(
        self, number: int, episode: Recorded, info: DatasetInfo, tasks: list[str]
    ) -> tuple[dict[Path, Path], Stats]:
        """Write the episode's files into its folder; return where they belong, and its statistics."""
        folder, numbers = episode.folder, {task: place for place, task in enumerate(tasks)}
        indices = np.array([numbers[task] for task in episode.tasks])
        defaults = default_columns(number, self.frames, indices, info.fps)
        columns = {
            name: to_arrow(defaults[name], feature) if name in defaults else episode.table.column(name)
            for name, feature in info.columns.items()
        }
        write_data(folder / "data.parquet", [pa.table(columns)], info.columns)
        stats = episode.stats | {name: numeric_stats(values) for name, values in defaults.items()}
        place = {kind: self.beginning.place(kind, number, info) for kind in self.beginning.places}
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": list(dict.fromkeys(episode.tasks)),
            "length": episode.frames,
            "data/chunk_index": place[DATA][0],
            "data/file_index": place[DATA][1],
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + episode.frames,
            "stats": {name: stats[name] for name in info.features if name in stats},
        }
        files: dict[Path, Path] = {}
        for key in info.video_keys:
            files[episode.clip(key)] = self.root / self.file(key, place[key])
            row |= {f"videos/{key}/chunk_index": place[key][0], f"videos/{key}/file_index": place[key][1]}
            row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": episode.frames / info.fps}
        if episode.histograms:
            write_histograms(folder / "counts.parquet", [(number, episode.histograms)])
            files[folder / "counts.parquet"] = self.root / self.file(HISTOGRAMS, place[HISTOGRAMS])
        files[folder / "data.parquet"] = self.root / self.file(DATA, place[DATA])  # last: some readers read every one
        write_episodes_file(folder / "episodes.parquet", [row], info, place[EPISODES])
        return files, stats

    def _point_at(self, row: Path, number: int) -> None:
        """The instant from which an episode exists: everything that its row points at is on disk."""
        target = self.root / self.file(EPISODES, self.beginning.place(EPISODES, number, self.info))
        make_directory(target.parent)
        fsync_file(row)
        row.replace(target)
        fsync_directory(target.parent)

    def _described(self, episode: Recorded) -> DatasetInfo:
        """The info with what its first video shows of every camera."""
        features = dict(self.info.features)
        for key in self.info.video_keys:
            block = features[key].info or {}
            if "video.codec" not in block:
                # depth_unit comes behind the encoder's settings, as LeRobot has it
                made = probe(episode.clip(key)).info() | self.settings.encoding(key).info()
                features[key] = features[key].model_copy(update={"info": {**block, **made}})
        return self.info.model_copy(update={"features": features})

    def _write_summary(self) -> None:
        """Bring info.json and stats.json up to date."""
        splits = self.info.splits
        if not splits.keys() - {"train"}:
            splits = {"train": f"0:{self.episodes}"} if self.episodes else {}
        totals = {"total_episodes": self.episodes, "total_frames": self.frames, "total_tasks": len(self.tasks)}
        self.settings.info = self.info.model_copy(update={"splits": splits, **totals})
        if self.episodes > self.beginning.episodes or load_info(self.root).total_episodes != self.episodes:
            write_info(self.root, self.info)
            write_stats(self.root, self.stats())

    def _write_tasks(self, tasks: list[str]) -> None:
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        write_tasks(draft, tasks)
        fsync_tree(draft)
        (draft / TASKS_PATH).replace(self.root / TASKS_PATH)
        fsync_directory((self.root / TASKS_PATH).parent)

    def _tasks_in_use(self, rows: pa.Table) -> list[str]:
        """The tasks; those of an episode that was not committed are removed."""
        if not len(rows):
            return []
        tasks = load_tasks(self.root)
        used = {task for cell in rows.column("tasks")[self.beginning.episodes :].to_pylist() for task in cell}
        last = max([self.beginning.tasks] + [place + 1 for place, task in enumerate(tasks) if task in used])
        if last < len(tasks):
            self._write_tasks(tasks[:last])
        return tasks[:last]

    def _totals(self) -> RunningStats:
        numeric = {name: own for name, own in load_stats(self.root).items() if name in self.info.numeric}
        if int(np.ravel(numeric.get("index", {}).get("count", [0]))[0]) != self.frames:
            numeric = exact_stats(self.root, self.info) if self.episodes else {}
        base = {
            name: {key: np.asarray(value) for key, value in own.items()} for name, own in self.beginning.stats.items()
        }
        totals = RunningStats(numeric, base)
        for path in sorted(self.root.glob("meta/histograms/*/*.parquet")):
            for number, histograms in load_histogram_file(path).items():
                known = number >= self.beginning.episodes
                totals.count({name: own for name, own in histograms.items() if known or name not in base})
        return totals

    def _remove_orphans(self) -> None:
        for path in self.root.glob("meta/.*.partial-*"):
            path.unlink()
        for kind in self.beginning.places:
            for path in _from(self, kind, self.beginning.place(kind, self.episodes, self.info)):
                path.unlink()


def recorded_folders(live: LiveDataset) -> dict[int, Path]:
    """The episodes that wait for their turn, by their index; what was not complete is removed."""
    found: dict[int, Path] = {}
    for folder in sorted(live.folder.iterdir()):
        if folder.is_dir():
            if folder.name.isdigit() and int(folder.name) >= live.episodes:
                found[int(folder.name)] = folder
            else:
                shutil.rmtree(folder)
    return found


def _from(live: LiveDataset, kind: str, place: Place) -> Iterator[Path]:
    """The files at `place` and behind it, as far as they are numbered without a gap."""
    while (path := live.root / live.file(kind, place)).exists():
        yield path
        place = live.info.next_file(*place)


def _episode_rows(root: Path) -> pa.Table:
    names = ["episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"]
    if not episodes_files(root):
        return pa.table({name: [] for name in names})
    rows = load_episodes(root, names)
    begin, end = (rows.column(f"dataset_{name}_index").to_numpy() for name in ("from", "to"))
    in_order = np.array_equal(rows.column("episode_index").to_numpy(), np.arange(len(rows)))
    if not in_order or not np.array_equal(begin[1:], end[:-1]) or begin[0] != 0:
        raise DatasetError(
            "the episodes table is not in order, so nothing can be added",
            file=root / "meta/episodes",
            fix="run `lerobot-ops validate`, and `lerobot-ops repair` into a new directory",
        )
    return rows


def _place(source: Path, target: Path) -> None:
    """Make `source` the file `target` as well, durably."""
    make_directory(target.parent)
    target.unlink(missing_ok=True)
    link_or_copy(source, target)
    fsync_file(target)
    fsync_directory(target.parent)

"""What can be saved of a damaged dataset, as a dataset to edit: good tables, and links to its videos.

The frames decide: an episode is saved when its rows are whole and finite and each camera has a frame for every row.
The episodes table, when there is one, says where its videos are; where it is missing or contradicts itself, they are
where episodes of these lengths lie one behind the other.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.histograms import HISTOGRAMS_PATH, Histograms, load_histograms, write_histograms
from lerobot_ops.datasets.images import decode_image
from lerobot_ops.datasets.info import DEFAULT_FEATURES, DatasetInfo, load_info, write_info
from lerobot_ops.datasets.joining import default_columns
from lerobot_ops.datasets.repairing.rows import Run, read_runs
from lerobot_ops.datasets.repairing.tables import EpisodesTable, TaskTable
from lerobot_ops.datasets.repairing.videos import Clip, Clips, as_filmed, readable_videos, with_size
from lerobot_ops.datasets.tables import column_array, data_schema, write_data, write_episodes, write_tasks
from lerobot_ops.datasets.videos.video import decode_frames, probe
from lerobot_ops.errors import DatasetError


@dataclass
class Restored:
    """What was saved, and a sentence for everything that was mended or lost."""

    episodes: int = 0
    frames: int = 0
    done: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def restore(root: Path, folder: Path, *, keep_statistics: bool) -> Restored:
    """Write what can be saved of the dataset in `root` into `folder`.

    Raises DatasetError when meta/info.json cannot be read or there is no data.
    """
    return _Restoration(root, folder, keep_statistics).run()


class _Restoration:
    def __init__(self, root: Path, folder: Path, keep_statistics: bool) -> None:
        self._root, self._folder, self._keep_statistics = root, folder, keep_statistics
        self._result = Restored()
        self._info = load_info(root)
        self._table = EpisodesTable(root, self._info, self._result.done)
        self._tasks = TaskTable(root, self._result.done)
        self._rows: list[dict[str, Any]] = []
        self._histograms: list[tuple[int, Histograms]] = []
        self._known_histograms = self._load_histograms()

    def run(self) -> Restored:
        info, runs = read_runs(self._root, self._info, self._folder, self._result.done, self._result.lost)
        self._info = info = self._as_seen(info, runs)
        rows = self._table.match(runs)
        self._clips = Clips(self._root, info, runs, rows, self._result.done)
        file = (0, 0)
        for path in dict.fromkeys(run.file for run in runs):
            mine = [(number, run) for number, run in enumerate(runs) if run.file == path]
            saved = list(self._saved(path, mine, rows, file))
            if saved:
                write_data(self._folder / info.data_file(*file), saved, info.columns)
                file = info.next_file(*file)
        self._write_meta()
        return self._result

    def _as_seen(self, info: DatasetInfo, runs: list[Run]) -> DatasetInfo:
        """The info with the rate and the sizes that the first episode and the videos show."""
        if not runs:
            return info
        part = runs[0].read(info).slice(runs[0].first, runs[0].count)
        times = part.column("timestamp").to_numpy() if "timestamp" in part.column_names else np.empty(0)
        info = as_filmed(self._root, info, times, self._result.done)
        features = dict(info.features)
        for key in info.video_keys:
            if not any(abs(video.fps - info.fps) < 0.01 for video in readable_videos(self._root, info, key)):
                del features[key]
                self._result.lost.append(f"the camera {key}: none of its videos can be used; it was removed")
        for key in info.image_keys:
            picture = _decoded(part.column(key)[0])
            if isinstance(picture, np.ndarray) and picture.shape[1:] != features[key].size[:2]:
                features[key] = with_size(features[key], *picture.shape[1:])
                self._result.done.append(f"info.json now says that {key} has the size of its pictures")
        has_video = any(feature.dtype == "video" for feature in features.values())
        return info.model_copy(update={"features": features, "video_path": info.video_path if has_video else None})

    def _saved(
        self, path: Path, runs: list[tuple[int, Run]], rows: list[int | None], file: tuple[int, int]
    ) -> Iterator[pa.Table]:
        """The tables of those episodes of a data file that can be saved; their rows of the episodes table are noted."""
        table = runs[0][1].read(self._info)
        for number, run in runs:
            part = table.slice(run.first, run.count)
            clips = {key: self._clips.of(key, number) for key in self._info.video_keys}
            problem = run.problem or self._problem(part, clips)
            if problem:
                self._result.lost.append(f"episode {run.number}: {problem}")
                continue
            self._note(run, rows[number], {key: clip for key, clip in clips.items() if clip}, file)
            yield self._renumbered(part, run, rows[number])

    def _problem(self, part: pa.Table, clips: dict[str, Clip | None]) -> str | None:
        """Why an episode cannot be saved."""
        for name, feature in self._info.columns.items():
            if name in DEFAULT_FEATURES:
                continue  # they are numbered anew
            column = part.column(name)
            if column.null_count:
                return f"{name} has {column.null_count} empty rows"
            if feature.is_numeric and np.dtype(feature.dtype).kind == "f":
                if not np.isfinite(column_array(column, feature)).all():
                    return f"{name} holds NaN or infinity"
            elif feature.dtype == "image":
                for picture in map(_decoded, (column[0], column[-1])):
                    if isinstance(picture, str):
                        return f"a picture of {name} cannot be decoded ({picture})"
                    if picture.shape[1:] != feature.size[:2]:
                        return f"a picture of {name} has another size than the first one"
        for key, clip in clips.items():
            if clip is None:
                return f"the videos of {key} do not hold all of its frames"
            try:
                decode_frames(clip.path, clip.from_timestamp, [0, part.num_rows - 1], self._info.fps)
            except (DatasetError, OSError, ValueError) as error:
                return f"the video of {key} cannot be decoded ({_first_line(error)})"
        return None

    def _renumbered(self, part: pa.Table, run: Run, row: int | None) -> pa.Table:
        """An episode's rows with the default features that its place gives it."""
        number, begin = self._result.episodes, self._result.frames
        old = part.column("task_index").to_numpy() if "task_index" in part.column_names else np.zeros(run.count, int)
        tasks = self._tasks.renumbered(old, self._table.tasks(row))
        self._rows[-1]["tasks"] = [self._tasks.used[task] for task in dict.fromkeys(tasks.tolist())]
        defaults = default_columns(number, begin, tasks, self._info.fps)
        self._result.episodes, self._result.frames = number + 1, begin + run.count
        columns = {
            name: pa.array(defaults[name]) if name in defaults else part.column(name) for name in self._info.columns
        }
        return pa.table(columns).cast(data_schema(self._info.columns))

    def _note(self, run: Run, row: int | None, clips: dict[str, Clip], file: tuple[int, int]) -> None:
        """Enter a saved episode in the new episodes table."""
        number, begin = self._result.episodes, self._result.frames
        entry: dict[str, Any] = {
            "episode_index": number,
            "length": run.count,
            "data/chunk_index": file[0],
            "data/file_index": file[1],
            "dataset_from_index": begin,
            "dataset_to_index": begin + run.count,
        }
        for key, clip in clips.items():
            entry |= clip.pointers(key, run.count / self._info.fps)
        entry |= self._table.extras(row)
        if self._keep_statistics and row is not None:
            entry["stats"] = self._table.camera_stats(row)
            if row in self._known_histograms:
                self._histograms.append((number, self._known_histograms[row]))
        self._rows.append(entry)

    def _write_meta(self) -> None:
        info, features = self._info, dict(self._info.features)
        for key in info.video_keys:
            used = self._clips.files(key)
            for path in used:
                link = self._folder / path.relative_to(self._root)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(path.absolute(), link)
            block = features[key].info or {}
            found = probe(used[0]).info() if used else {}
            wrong = sorted(name for name, value in found.items() if name in block and block[name] != value)
            if wrong:
                self._result.done.append(f"info.json now says of {key} what its videos are ({', '.join(wrong)})")
            features[key] = features[key].model_copy(update={"info": {**block, **found}})
        if self._rows:
            write_episodes(self._folder, self._rows, info)
            write_histograms(self._folder / HISTOGRAMS_PATH.format(chunk_index=0, file_index=0), self._histograms)
        write_tasks(self._folder, self._tasks.used)
        totals = {"total_episodes": self._result.episodes, "total_frames": self._result.frames}
        totals |= {"total_tasks": len(self._tasks.used)}
        splits = {"train": f"0:{self._result.episodes}"}
        write_info(self._folder, info.model_copy(update={"features": features, "splits": splits, **totals}))

    def _load_histograms(self) -> dict[int, Histograms]:
        try:
            return load_histograms(self._root) if self._keep_statistics else {}
        except DatasetError:
            return {}


def _decoded(cell: Any) -> np.ndarray | str:
    """A picture [channels, height, width], or why it cannot be decoded."""
    try:
        return decode_image(cell["bytes"].as_buffer())
    except (OSError, DatasetError, AttributeError, ValueError) as error:
        return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

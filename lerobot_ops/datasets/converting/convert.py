"""Converting a LeRobotDataset v2.0 or v2.1 into v3.0: videos move as packets, the rest is written anew.

Source of the layout: LeRobot's converter (v2.1 to v3.0). Statistics of numbers are computed from the frames, quantiles
included. Those of cameras are the episodes' own, which have no quantiles: policies that normalise images by quantiles
need `camera_quantiles`, which looks at every frame. Where an episode has none (v2.0), its frames are looked at anyway.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from lerobot_ops.artifacts import staged
from lerobot_ops.config import Config
from lerobot_ops.datasets.converting.legacy import LegacyDataset, LegacyEpisode, load_legacy
from lerobot_ops.datasets.histograms import HISTOGRAMS_PATH, Histograms, write_histograms
from lerobot_ops.datasets.images import decode_image
from lerobot_ops.datasets.info import MEGABYTE, DatasetInfo, Feature, write_info
from lerobot_ops.datasets.remote import local_root
from lerobot_ops.datasets.statistics import CameraStats, Histogram, all_numeric_stats, merge_stats
from lerobot_ops.datasets.tables import (
    Stats,
    column_array,
    write_data,
    write_episodes,
    write_stats,
    write_tasks,
)
from lerobot_ops.datasets.videos.decoder import open_video
from lerobot_ops.datasets.videos.video import Piece, VideoProbe, cut_and_join, probe
from lerobot_ops.errors import DatasetError

Place = tuple[int, int]
"""Chunk and file."""
_NEEDED = {"min", "max", "mean", "std", "count"}


class ConvertConfig(Config):
    """A conversion of a dataset v2.0 or v2.1 into v3.0, always into a new directory."""

    root: str
    """The dataset: a directory, or OWNER/NAME@v2.1 on the Hugging Face Hub."""
    new_root: Path
    """The directory to write; it must not exist."""
    camera_quantiles: bool = False
    """Decode every frame for the quantiles of cameras, which v2.1 does not have."""
    data_files_size_in_mb: int = Field(default=100, gt=0)
    """Where the next data file begins."""
    video_files_size_in_mb: int = Field(default=200, gt=0)
    """Where the next video file begins."""


@dataclass(frozen=True)
class Conversion:
    """What was converted."""

    source: Path
    version: str
    root: Path
    episodes: int
    frames: int
    data_files: int
    video_files: int
    counted: tuple[str, ...]
    """The cameras whose frames were looked at for statistics."""
    without_quantiles: tuple[str, ...]
    """The cameras whose statistics have no quantiles."""
    left_out: tuple[str, ...]
    """Columns of the data that are no feature."""

    def __str__(self) -> str:
        lines = [
            f"{self.root}: converted from {self.version} to v3.0: {self.episodes} episodes, {self.frames} frames,"
            f" {self.data_files} data file(s), {self.video_files} video file(s), no frame encoded anew"
        ]
        if self.without_quantiles:
            names = ", ".join(self.without_quantiles)
            lines.append(
                f"no quantiles of {names}: {self.version} has none; add --camera_quantiles=true to compute them"
            )
        if self.left_out:
            lines.append(f"left out, because meta/info.json does not name them: {', '.join(self.left_out)}")
        return "\n".join(lines)


def convert(config: ConvertConfig, on_episode: Callable[[], None] = lambda: None) -> Conversion:
    """Write the dataset as v3.0 into `new_root`, whole or not at all; the source stays as it is.

    `on_episode` is called after each episode. Raises DatasetError naming the file and the field that cannot be
    converted, ArtifactError when `new_root` exists or cannot be written.
    """
    source = load_legacy(local_root(config.root))
    sizes = {"data_files_size_in_mb": config.data_files_size_in_mb}
    sizes |= {"video_files_size_in_mb": config.video_files_size_in_mb}
    info = source.info.model_copy(update=sizes)
    with staged(config.new_root) as partial:
        return _Converter(source, info, partial, config, on_episode).run()


class _Converter:
    """One conversion: tables, then videos, then what is known of them all."""

    def __init__(
        self,
        source: LegacyDataset,
        info: DatasetInfo,
        root: Path,
        config: ConvertConfig,
        on_episode: Callable[[], None],
    ) -> None:
        self._source, self._info, self._root, self._config = source, info, root, config
        self._on_episode = on_episode
        self._numeric: dict[str, list[np.ndarray]] = {name: [] for name in info.numeric}
        self._counts: dict[int, Histograms] = {}
        self._rows: list[dict[str, Any]] = [
            {"episode_index": episode.number, "tasks": episode.tasks, "length": episode.length} | episode.extra
            for episode in source.episodes
        ]

    def run(self) -> Conversion:
        data_files = self._write_data()
        features, video_files = dict(self._info.features), 0
        for key in self._info.video_keys:
            probed, count = self._write_videos(key)
            features[key] = _described(features[key], probed)
            video_files += count
        overall = self._overall()
        write_stats(self._root, overall)
        write_tasks(self._root, self._source.tasks)
        write_episodes(self._root, self._rows, self._info)
        write_histograms(self._root / HISTOGRAMS_PATH.format(chunk_index=0, file_index=0), self._counts.items())
        write_info(self._root, self._info.model_copy(update={"features": features}))
        cameras, first = self._info.camera_keys, self._source.data_file(0)
        return Conversion(
            source=self._source.root,
            version=self._source.version,
            root=self._config.new_root,
            episodes=len(self._rows),
            frames=self._info.total_frames,
            data_files=data_files,
            video_files=video_files,
            counted=tuple(name for name in cameras if any(name in counts for counts in self._counts.values())),
            without_quantiles=tuple(name for name in cameras if "q50" not in overall.get(name, {})),
            left_out=tuple(name for name in pq.read_schema(first).names if name not in self._info.columns),
        )

    def _write_data(self) -> int:
        """Write the data files, one row group per episode, and enter rows and statistics in the episodes' rows."""
        episodes = self._source.episodes
        files = [self._source.data_file(episode.number) for episode in episodes]
        groups = _groups([_size(file) for file in files], self._info.data_files_size_in_mb)
        place: Place = (0, 0)
        for group in groups:
            tables = self._tables([episodes[number] for number in group], place)
            write_data(self._root / self._info.data_file(*place), tables, self._info.columns)
            place = self._info.next_file(*place)
        return len(groups)

    def _tables(self, episodes: Sequence[LegacyEpisode], place: Place) -> Iterator[pa.Table]:
        for episode in episodes:
            begin = self._rows[episode.number - 1]["dataset_to_index"] if episode.number else 0
            table = self._renumbered(episode, begin)
            columns = {name: self._column(episode, table, name) for name in self._info.numeric}
            for name, values in columns.items():
                self._numeric[name].append(values)
            stats = all_numeric_stats(columns, self._info.numeric) | self._camera_stats(episode, table)
            self._rows[episode.number] |= {
                "data/chunk_index": place[0],
                "data/file_index": place[1],
                "dataset_from_index": begin,
                "dataset_to_index": begin + episode.length,
                "stats": {name: stats[name] for name in self._info.features if name in stats},
            }
            yield table
            self._on_episode()

    def _renumbered(self, episode: LegacyEpisode, begin: int) -> pa.Table:
        """An episode's rows with the `index`, `episode_index` and `task_index` that v3.0 wants."""
        table = self._source.table(episode)
        path, tasks = self._source.data_file(episode.number), []
        for index in table.column("task_index").to_pylist():
            if index not in self._source.positions:
                known = sorted(self._source.positions)
                raise DatasetError(
                    "a frame has a task that is not in the tasks",
                    file=path,
                    field="task_index",
                    found=index,
                    expected=f"one of {known[:12]}",
                )
            tasks.append(self._source.positions[index])
        numbers = {
            "index": np.arange(begin, begin + episode.length),
            "episode_index": np.full(episode.length, episode.number),
            "task_index": np.array(tasks),
        }
        for name, values in numbers.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values.astype(np.int64)))
        return table

    def _column(self, episode: LegacyEpisode, table: pa.Table, name: str) -> np.ndarray:
        try:
            column = table.column(name)
            if column.null_count:
                raise ValueError(f"{column.null_count} empty values")
            values = column_array(column, self._info.features[name])
        except (DatasetError, pa.ArrowException, ValueError) as error:
            raise DatasetError(
                "a column does not hold what its feature says",
                file=self._source.data_file(episode.number),
                field=name,
                found=error.found if isinstance(error, DatasetError) else str(error).splitlines()[0],
                expected=f"{self._info.features[name].dtype} of shape {list(self._info.features[name].shape)}",
            ) from None
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            frame = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DatasetError(
                "a value is not finite, so there are no statistics",
                file=self._source.data_file(episode.number),
                field=name,
                found=f"{values[frame]} in frame {frame}",
                fix="leave this episode out, or mend the value",
            )
        return values

    def _camera_stats(self, episode: LegacyEpisode, table: pa.Table) -> Stats:
        """The episode's own statistics of its cameras, or those of its frames."""
        found: Stats = {}
        for name in self._info.camera_keys:
            feature, own = self._info.features[name], episode.stats.get(name, {})
            usable = set(own) >= _NEEDED and own["mean"].size == feature.size[2]
            if usable and not self._config.camera_quantiles:
                found[name] = {statistic: value.reshape(-1, 1, 1) for statistic, value in own.items()}
                found[name]["count"] = own["count"].astype(np.int64).reshape(1)
                continue
            frames = self._video_frames(episode, name) if feature.dtype == "video" else _images(table, name)
            counted = _counted(frames, feature.size[2])
            found[name] = counted.stats()
            self._counts.setdefault(episode.number, {})[name] = counted
        return found

    def _video_frames(self, episode: LegacyEpisode, key: str) -> Iterator[np.ndarray]:
        with open_video(self._source.video_file(episode.number, key)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number < episode.length:
                    yield frame.to_ndarray(format="rgb24")

    def _write_videos(self, key: str) -> tuple[VideoProbe, int]:
        """Join a camera's videos; return what is in the first one, and how many files there are."""
        episodes = self._source.episodes
        clips = [self._source.video_file(episode.number, key) for episode in episodes]
        probes = [probe(clip) for clip in clips]
        for episode, clip, found in zip(episodes, clips, probes, strict=True):
            _check_clip(episode, clip, found, self._info.fps)
        breaks = {n for n in range(1, len(clips)) if probes[n].signature != probes[n - 1].signature}
        groups = _groups([_size(clip) for clip in clips], self._info.video_files_size_in_mb, breaks)
        place: Place = (0, 0)
        for group in groups:
            pieces = [Piece(clips[number], 0.0, episodes[number].length) for number in group]
            starts = cut_and_join(pieces, self._root / self._info.video_file(key, *place), self._info.fps)
            for number, start in zip(group, starts, strict=True):
                end = (round(start * self._info.fps) + episodes[number].length) / self._info.fps
                self._rows[number] |= {
                    f"videos/{key}/chunk_index": place[0],
                    f"videos/{key}/file_index": place[1],
                    f"videos/{key}/from_timestamp": start,
                    f"videos/{key}/to_timestamp": end,
                }
            place = self._info.next_file(*place)
        return probes[0], len(groups)

    def _overall(self) -> Stats:
        numeric = {name: np.concatenate(parts) for name, parts in self._numeric.items()}
        overall = all_numeric_stats(numeric, self._info.numeric)
        for name in self._info.camera_keys:
            counts = [self._counts.get(number, {}).get(name) for number in range(len(self._rows))]
            if all(count is not None for count in counts):
                whole = [count for count in counts if count is not None]
                overall[name] = sum(whole[1:], whole[0]).stats()
            else:
                overall[name] = merge_stats([row["stats"][name] for row in self._rows])
        return overall


def _groups(sizes: Sequence[int], limit_in_mb: int, breaks: Collection[int] = ()) -> list[list[int]]:
    """The items of each file: a new one begins where the limit would be reached, and at each of `breaks`."""
    groups: list[list[int]] = []
    filled = 0
    for number, size in enumerate(sizes):
        if not groups or number in breaks or filled + size >= limit_in_mb * MEGABYTE:
            groups.append([])
            filled = 0
        groups[-1].append(number)
        filled += size
    return groups


def _size(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size
    raise DatasetError("a file of the dataset is missing", file=file)


def _check_clip(episode: LegacyEpisode, clip: Path, found: VideoProbe, fps: int) -> None:
    if found.frames < episode.length:
        raise DatasetError(
            "a video has fewer frames than its episode",
            file=clip,
            found=f"{found.frames} frames",
            expected=f"{episode.length} frames",
            fix="delete this episode with a LeRobot that reads its version, or record it again",
        )
    off = np.abs(found.times[: episode.length] - np.arange(episode.length) / fps).max()
    if off > 0.5 / fps:
        raise DatasetError(
            "a video is not shown at the rate of the dataset",
            file=clip,
            field="fps",
            found=f"a frame {off:.3f} s away from its time",
            expected=f"frames at multiples of 1/{fps} s",
        )


def _described(feature: Feature, first: VideoProbe) -> Feature:
    """The feature with what its first video really is; what else was known of it stays."""
    return feature.model_copy(update={"info": (feature.info or {}) | first.info() | {"is_depth_map": feature.is_depth}})


def _counted(frames: Iterator[np.ndarray], channels: int) -> Histogram:
    counted = CameraStats(channels)
    for frame in frames:
        counted.add(frame)
    return counted.histogram()


def _images(table: pa.Table, name: str) -> Iterator[np.ndarray]:
    for batch in table.column(name).chunks:
        for content in batch.field("bytes"):
            yield decode_image(content.as_buffer()).transpose(1, 2, 0)

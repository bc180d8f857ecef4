"""A LeRobotDataset v2.0 or v2.1 on disk: one parquet and one mp4 per episode, and JSON lines about them."""

import json
import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.info import (
    DEFAULT_FEATURES,
    INFO_PATH,
    VIDEO_PATH,
    DatasetInfo,
    make_info,
)
from lerobot_ops.datasets.tables import Stats, read_parquet
from lerobot_ops.errors import DatasetError

VERSIONS = ("v2.0", "v2.1")
TASKS_PATH = "meta/tasks.jsonl"
EPISODES_PATH = "meta/episodes.jsonl"
EPISODES_STATS_PATH = "meta/episodes_stats.jsonl"
_FIELDS = {"episode_chunk": 0, "episode_index": 0, "video_key": "key"}


@dataclass(frozen=True)
class LegacyEpisode:
    """One episode as `meta/` describes it."""

    number: int
    tasks: list[str]
    length: int
    extra: dict[str, Any]
    """What another tool wrote about it."""
    stats: Stats
    """Of its features, without quantiles; empty in v2.0, which has none per episode."""


@dataclass(frozen=True)
class LegacyDataset:
    """A dataset of the older format; see `load_legacy`."""

    root: Path
    version: str
    info: DatasetInfo
    """What v3.0 says of it, with the paths and totals of v3.0."""
    tasks: list[str]
    positions: dict[int, int]
    """A frame's `task_index` -> its place in `tasks`."""
    episodes: list[LegacyEpisode]
    data_path: str
    video_path: str | None
    episodes_per_chunk: int

    def data_file(self, episode: int) -> Path:
        return self.root / self.data_path.format(
            episode_chunk=episode // self.episodes_per_chunk, episode_index=episode
        )

    def video_file(self, episode: int, key: str) -> Path:
        assert self.video_path is not None
        chunk = episode // self.episodes_per_chunk
        return self.root / self.video_path.format(episode_chunk=chunk, episode_index=episode, video_key=key)

    def table(self, episode: LegacyEpisode) -> pa.Table:
        """An episode's rows, `info.columns` alone; raises DatasetError naming the file and the column at fault."""
        path = self.data_file(episode.number)
        table = read_parquet(path, [*self.info.columns])
        if table.num_rows != episode.length:
            raise DatasetError(
                "an episode's data and its entry disagree",
                file=path,
                field=f"{EPISODES_PATH} length of episode {episode.number}",
                found=f"{table.num_rows} rows",
                expected=f"{episode.length} rows",
            )
        return table


def load_legacy(root: Path | str) -> LegacyDataset:
    """Read what `meta/` says of a dataset v2.0 or v2.1; raises DatasetError that names the file and the field."""
    root = Path(root)
    content = _json(root / INFO_PATH)
    version = content.get("codebase_version")
    if version not in VERSIONS:
        raise DatasetError(
            "this version of the format is not converted",
            file=root / INFO_PATH,
            field="codebase_version",
            found=version,
            expected=" or ".join(VERSIONS),
            fix="it needs no conversion" if str(version).startswith("v3.") else "convert it to v2.1 with LeRobot first",
        )
    tasks, positions = _tasks(root)
    episodes = _episodes(root)
    info = _info(root, content, episodes, len(tasks))
    templates = {name: _template(content, name, root) for name in ("data_path", "video_path")}
    data_path = templates["data_path"]
    if data_path is None:
        raise DatasetError("the dataset's info lacks a field", file=root / INFO_PATH, field="data_path")
    if info.video_keys and templates["video_path"] is None:
        raise DatasetError("the dataset's info lacks a field", file=root / INFO_PATH, field="video_path")
    per_chunk = info.chunks_size
    return LegacyDataset(root, version, info, tasks, positions, episodes, data_path, templates["video_path"], per_chunk)


def _info(root: Path, content: dict[str, Any], episodes: list[LegacyEpisode], tasks: int) -> DatasetInfo:
    fps = content.get("fps")
    if not isinstance(fps, int | float) or not math.isfinite(fps) or fps != int(fps):
        raise DatasetError(
            "v3.0 needs a whole number of frames per second", file=root / INFO_PATH, field="fps", found=fps
        )
    entries = content.get("features")
    if not isinstance(entries, dict):
        raise DatasetError("the dataset's info lacks a field", file=root / INFO_PATH, field="features")
    features = {name: _feature(entry, int(fps)) for name, entry in entries.items()}
    lacking = [name for name in DEFAULT_FEATURES if name not in features]
    if lacking:
        raise DatasetError("the dataset lacks a feature", file=root / INFO_PATH, field=f"features.{lacking[0]}")
    kept = {name: content[name] for name in ("chunks_size", "robot_type", "splits") if content.get(name) is not None}
    try:
        return make_info(
            fps=int(fps),
            features=features,
            video_path=VIDEO_PATH if content.get("video_path") is not None else None,
            total_episodes=len(episodes),
            total_frames=sum(episode.length for episode in episodes),
            total_tasks=tasks,
            **kept,
        )
    except DatasetError as error:
        raise DatasetError(
            "the dataset's info has a bad field",
            file=root / INFO_PATH,
            field=error.field,
            found=error.found,
            expected=error.expected,
        ) from None


def _feature(entry: Any, fps: int) -> Any:
    """v3.0's entry: features that are no video say their rate, too."""
    if isinstance(entry, dict) and entry.get("dtype") != "video":
        return entry | {"fps": fps}
    return entry


def _tasks(root: Path) -> tuple[list[str], dict[int, int]]:
    path = root / TASKS_PATH
    found: dict[int, str] = {}
    for line, entry in _lines(path):
        index, task = _field(entry, "task_index", int, path, line), _field(entry, "task", str, path, line)
        if index in found:
            raise DatasetError("two tasks have one number", file=path, field=f"line {line}, task_index", found=index)
        found[index] = task
    ordered = sorted(found)
    tasks = list(dict.fromkeys(found[index] for index in ordered))  # v3.0 knows a task by its text
    return tasks, {index: tasks.index(found[index]) for index in ordered}


def _episodes(root: Path) -> list[LegacyEpisode]:
    path = root / EPISODES_PATH
    stats = _episodes_stats(root)
    episodes: list[LegacyEpisode] = []
    for line, entry in _lines(path):
        number, tasks, length = (
            _field(entry, name, kind, path, line)
            for name, kind in (("episode_index", int), ("tasks", list), ("length", int))
        )
        extra = {name: value for name, value in entry.items() if name not in ("episode_index", "tasks", "length")}
        episodes.append(LegacyEpisode(number, [*map(str, tasks)], length, extra, stats.get(number, {})))
    episodes.sort(key=lambda episode: episode.number)
    for place, episode in enumerate(episodes):
        if episode.number != place or episode.length < 1:
            raise DatasetError(
                "the episodes are not numbered from 0 without a gap, or one is empty",
                file=path,
                field="episode_index",
                found=f"episode {episode.number} of {episode.length} frames",
                expected=f"episode {place}",
            )
    if not episodes:
        raise DatasetError("the dataset has no episodes", file=path)
    return episodes


def _episodes_stats(root: Path) -> dict[int, Stats]:
    path = root / EPISODES_STATS_PATH
    if not path.exists():
        return {}
    found: dict[int, Stats] = {}
    for line, entry in _lines(path):
        number = _field(entry, "episode_index", int, path, line)
        found[number] = _stats(_field(entry, "stats", dict, path, line), path, f"line {line}, stats")
    return found


def _stats(content: Mapping[str, Any], path: Path, where: str) -> Stats:
    """Statistics as JSON holds them; raises DatasetError when they are no numbers."""
    try:
        return {
            feature: {name: np.atleast_1d(np.array(value, np.float64)) for name, value in stats.items()}
            for feature, stats in content.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DatasetError("statistics cannot be read", file=path, field=where, found=str(error)) from None


def _template(content: Mapping[str, Any], name: str, root: Path) -> str | None:
    """A path template of the older format, which must not lead out of the dataset."""
    template = content.get(name)
    if template is None:
        return None
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        path = Path(template.format(**_FIELDS))
        fits = fields <= set(_FIELDS) and "episode_index" in fields
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        fits, path = False, Path()
    if not fits or path.is_absolute() or ".." in path.parts:
        raise DatasetError(
            "the dataset's info has a bad field",
            file=root / INFO_PATH,
            field=name,
            found=template,
            expected="a path template inside of the dataset, of episode_chunk, episode_index and video_key",
        )
    return str(template)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            "there is no dataset here", file=path, expected=f"a LeRobotDataset {' or '.join(VERSIONS)}"
        ) from None
    except ValueError as error:
        raise DatasetError("a file of the dataset cannot be read", file=path, found=str(error)) from None
    if not isinstance(content, dict):
        raise DatasetError("a file of the dataset cannot be read", file=path, expected="a JSON object")
    return content


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of the lines of a file of JSON lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatasetError("a file of the dataset is missing", file=path) from None
    except UnicodeDecodeError as error:
        raise DatasetError("a file of the dataset cannot be read", file=path, found=str(error)) from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DatasetError(
                "a file of the dataset cannot be read", file=path, field=f"line {number}", found=str(error)
            ) from None
        if not isinstance(entry, dict):
            raise DatasetError(
                "a file of the dataset cannot be read",
                file=path,
                field=f"line {number}",
                found=line[:80],
                expected="a JSON object",
            )
        yield number, entry


def _field(entry: Mapping[str, Any], name: str, kind: type, path: Path, line: int) -> Any:
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DatasetError(
            "an entry lacks a field, or it is of another type",
            file=path,
            field=f"line {line}, {name}",
            found=value,
            expected=kind.__name__,
        )
    return value

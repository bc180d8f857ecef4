"""Where the frames of a damaged dataset's episodes are in its videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_ops.datasets.info import DatasetInfo, Feature
from lerobot_ops.datasets.repairing.rows import Run
from lerobot_ops.datasets.tables import load_episodes
from lerobot_ops.datasets.videos.video import VideoProbe, probe
from lerobot_ops.errors import DatasetError


def video_at(path: Path) -> VideoProbe | None:
    """What is in a video; None when it cannot be read."""
    try:
        return probe(path)
    except (DatasetError, OSError, ValueError):
        return None


def readable_videos(root: Path, info: DatasetInfo, key: str) -> list[VideoProbe]:
    """What is in the videos of a camera that can be read."""
    folder = "/".join(info.video_file(key, 0, 0).split("/")[:-2])
    videos = map(video_at, sorted(root.glob(f"{escape(folder)}/*/*.mp4")))
    return [video for video in videos if video is not None]


def as_filmed(root: Path, info: DatasetInfo, timestamps: np.ndarray, done: list[str]) -> DatasetInfo:
    """The info with the rate and the sizes that the videos have, where all of a camera agree.

    The rate is taken from the videos only if the `timestamps` of an episode's frames are of that rate, too.
    """
    sizes: dict[str, set[tuple[int, int]]] = {}
    rates: set[float] = set()
    for key in info.video_keys:
        for video in readable_videos(root, info, key):
            sizes.setdefault(key, set()).add((video.height, video.width))
            rates.add(round(video.fps, 3))
    features = dict(info.features)
    for key, found in sizes.items():
        height, width, _ = info.features[key].size
        if len(found) == 1 and found != {(height, width)}:
            features[key] = with_size(features[key], *next(iter(found)))
            done.append(f"info.json now says that {key} has the size of its videos")
    rate = rates.pop() if len(rates) == 1 else float(info.fps)
    if rate != info.fps and rate == int(rate) and np.allclose(timestamps, np.arange(len(timestamps)) / rate, atol=1e-4):
        done.append(f"fps is {rate:g}, as the videos and the timestamps say, and not {info.fps}")
        info = info.model_copy(update={"fps": int(rate)})
    return info.model_copy(update={"features": features})


def with_size(feature: Feature, height: int, width: int) -> Feature:
    """A camera's feature with another size, its shape laid out as before."""
    *_, channels = feature.size
    last = feature.shape[-1] == channels
    shape = (height, width, channels) if last else (channels, height, width)
    return feature.model_copy(update={"shape": shape if len(feature.shape) == 3 else (height, width)})


@dataclass(frozen=True)
class Clip:
    """An episode's part of a video file."""

    path: Path
    place: tuple[int, int]
    """The file's (chunk, file) number."""
    begin: int
    """Its first frame in the file."""
    fps: int

    @property
    def from_timestamp(self) -> float:
        return self.begin / self.fps

    def pointers(self, key: str, seconds: float) -> dict[str, Any]:
        """The columns of the episodes table that say where it is."""
        return {
            f"videos/{key}/chunk_index": self.place[0],
            f"videos/{key}/file_index": self.place[1],
            f"videos/{key}/from_timestamp": self.from_timestamp,
            f"videos/{key}/to_timestamp": self.from_timestamp + seconds,
        }


class Clips:
    """Finds the clips of all `runs`; `rows` are their rows of the episodes table."""

    def __init__(
        self, root: Path, info: DatasetInfo, runs: Sequence[Run], rows: Sequence[int | None], done: list[str]
    ) -> None:
        self._root, self._info, self._runs = root, info, runs
        self._known_keyframes: dict[tuple[str, tuple[int, int]], set[int]] = {}
        self._found = {key: self._clips(key, rows, done) for key in info.video_keys}

    def of(self, key: str, number: int) -> Clip | None:
        """The clip of a camera in the run with this number; None when its frames are not all there."""
        return self._found[key][number]

    def files(self, key: str) -> list[Path]:
        """The files that hold clips of a camera."""
        return sorted({clip.path for clip in self._found[key] if clip is not None})

    def _clips(self, key: str, rows: Sequence[int | None], done: list[str]) -> list[Clip | None]:
        frames = self._frames(key)
        pointed = self._pointed_at(key, rows, frames)
        if all(pointed):
            return pointed
        # If the frames of the videos and the rows of the data are as many, nothing is missing in between.
        as_many = sum(frames.values()) == sum(run.count for run in self._runs)
        counted = self._one_behind_the_other(key, frames, on_keyframes=not as_many)
        if any(counted) and ((as_many and all(counted)) or not any(pointed)):
            done.append(f"where the episodes are in the videos of {key} was found out from their lengths")
            return counted
        return pointed

    def _frames(self, key: str) -> dict[tuple[int, int], int]:
        """How many frames the readable video files of a camera have, in their order."""
        found: dict[tuple[int, int], int] = {}
        place, gap = (0, 0), 0
        while gap < self._info.chunks_size:  # numbers may be left out, but not as many as a directory has files
            path = self._root / self._info.video_file(key, *place)
            gap = 0 if path.exists() else gap + 1
            if path.exists():
                found[place] = self._frames_of(path, self._info.features[key].size)
            place = self._info.next_file(*place)
        return found

    def _frames_of(self, path: Path, size: tuple[int, int, int]) -> int:
        """The frames of a video that can be read and is of the declared rate and size; none of another."""
        video = video_at(path)
        if video is None or abs(video.fps - self._info.fps) > 0.01 or (video.height, video.width) != size[:2]:
            return 0
        return video.frames

    def _pointed_at(
        self, key: str, rows: Sequence[int | None], frames: dict[tuple[int, int], int]
    ) -> list[Clip | None]:
        """The clips that the episodes table names, as far as they exist and belong to one episode only."""
        names = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        try:
            columns = [load_episodes(self._root, [f"videos/{key}/{name}"]).column(0).to_pylist() for name in names]
        except (DatasetError, ValueError):
            return [None] * len(self._runs)
        claims: dict[int, tuple[tuple[int, int], int, int]] = {}  # run -> file, first frame, frames that it should have
        for number, (run, row) in enumerate(zip(self._runs, rows, strict=True)):
            if row is None or row >= len(columns[0]) or any(column[row] is None for column in columns):
                continue
            chunk, file, start, stop = (column[row] for column in columns)
            if not np.isfinite([start, stop]).all():
                continue
            begin = round(start * self._info.fps)
            if begin >= 0 and begin + run.count <= frames.get((int(chunk), int(file)), 0):
                claims[number] = (int(chunk), int(file)), begin, round((stop - start) * self._info.fps)
        clips: list[Clip | None] = [None] * len(self._runs)
        taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, (place, begin, spans) in claims.items():
            end = begin + self._runs[number].count
            inside = [start for other, start, _ in claims.values() if other == place and begin < start < end]
            if inside and min(inside) == begin + spans:
                continue  # its video has fewer frames than it has, and the next episode begins behind those
            others = taken.setdefault(place, [])
            if not any(begin < to and start < end for start, to in others):
                others.append((begin, end))
                clips[number] = self._clip(key, place, begin)
        return clips

    def _one_behind_the_other(
        self, key: str, frames: dict[tuple[int, int], int], *, on_keyframes: bool
    ) -> list[Clip | None]:
        """The clips if every file is filled from its begin and no episode is missing.

        With `on_keyframes` they end where an episode does not begin on one, because something is missing before it.
        """
        clips: list[Clip | None] = []
        left = list(frames.items())
        begin = 0
        for run in self._runs:
            if left and begin == left[0][1]:
                left, begin = left[1:], 0
            lost = not left or begin + run.count > left[0][1] or run.problem
            if not lost and on_keyframes and begin not in self._keyframes(key, left[0][0]):
                lost, clips[-1:] = True, [None] * bool(clips)  # the one before ends somewhere else, too
            if lost:
                clips.append(None)
                left = []  # what follows cannot be told apart any more
                continue
            clips.append(self._clip(key, left[0][0], begin))
            begin += run.count
        return clips

    def _keyframes(self, key: str, place: tuple[int, int]) -> set[int]:
        if (key, place) not in self._known_keyframes:
            video = video_at(self._root / self._info.video_file(key, *place))
            self._known_keyframes = {(key, place): set() if video is None else set(video.keyframes.tolist())}
        return self._known_keyframes[key, place]

    def _clip(self, key: str, place: tuple[int, int], begin: int) -> Clip:
        return Clip(self._root / self._info.video_file(key, *place), place, begin, self._info.fps)

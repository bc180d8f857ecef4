"""One episode while it is recorded: its frames checked, its video encoded, its statistics gathered as they come.

On disk it is a directory: `frames.parquet` (the user's columns and `task`), a `<key>.mp4` per camera, `stats.parquet`.
"""

import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.encoding import VideoEncoding, VideoWriter
from lerobot_ops.datasets.info import DEFAULT_FEATURES, DatasetInfo, Feature
from lerobot_ops.datasets.statistics import CameraStats, numeric_stats
from lerobot_ops.datasets.tables import Stats, arrow_type, episode_stats, read_parquet
from lerobot_ops.errors import DatasetError

FRAMES_FILE = "frames.parquet"
STATS_FILE = "stats.parquet"


class EpisodeWriter:
    """Takes the frames of one episode; made by `DatasetWriter.episode`."""

    def __init__(self, folder: Path, info: DatasetInfo, encoding: VideoEncoding) -> None:
        self.discarded = False
        self._folder, self._fps = folder, info.fps
        self._features = {name: feature for name, feature in info.features.items() if name not in DEFAULT_FEATURES}
        self._values: dict[str, list[Any]] = defaultdict(list)
        self._tasks: list[str] = []
        self._camera_stats = {name: CameraStats() for name, feature in self._features.items() if feature.is_camera}
        self._videos: dict[str, VideoWriter] = {}
        for name in info.video_keys:
            height, width, _ = info.features[name].shape
            path = folder / f"{name}.mp4"
            self._videos[name] = VideoWriter(path, fps=info.fps, height=height, width=width, encoding=encoding)

    @property
    def num_frames(self) -> int:
        return len(self._tasks)

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Append one frame: an array of the declared dtype and shape for every feature, and `task`, a sentence.

        Scalar features are arrays of shape (1,), strings are `str`, cameras uint8 (height, width, channels). Index,
        timestamp and the other default features are set by the writer. Raises DatasetError naming the field that is
        missing, unknown, of another dtype or shape, or not finite; the frame is not added then.
        """
        _check_frame(frame, self._features)
        for name, feature in self._features.items():
            value = frame[name]
            if feature.is_camera:
                self._camera_stats[name].add(value)
            if feature.dtype == "video":
                self._videos[name].add(value)
            elif feature.dtype == "image":
                self._values[name].append({"bytes": _png(value), "path": f"frame-{self.num_frames:06d}.png"})
            else:
                self._values[name].append(value.copy() if isinstance(value, np.ndarray) else value)
        self._tasks.append(frame["task"])

    def discard(self) -> None:
        """Drop this episode: nothing of it is saved."""
        self.discarded = True

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for video in self._videos.values():
            video.close()
        if error is None and not self.discarded:
            if not self._tasks:
                raise DatasetError("an episode has no frames", expected="1 or more", fix="add frames, or discard it")
            short = [name for name, video in self._videos.items() if video.frames != self.num_frames]
            if short:
                raise DatasetError("a video has not got every frame", field=short[0], fix="record the episode again")
            self._save()

    def _save(self) -> None:
        arrays: dict[str, pa.Array] = {}
        stats: Stats = {name: camera.result() for name, camera in self._camera_stats.items()}
        for name, feature in self._features.items():
            if feature.is_numeric:
                values = np.stack(self._values[name])
                stats[name] = numeric_stats(values)
                arrays[name] = to_arrow(values, feature)
            elif feature.dtype != "video":
                arrays[name] = pa.array(self._values[name], arrow_type(feature))
        arrays["task"] = pa.array(self._tasks, pa.string())
        pq.write_table(pa.table(arrays), self._folder / FRAMES_FILE)
        row = {f"stats/{name}/{key}": [value.tolist()] for name, found in stats.items() for key, value in found.items()}
        pq.write_table(pa.table(row), self._folder / STATS_FILE)


def load_saved(folder: Path) -> tuple[pa.Table, Stats]:
    """What `EpisodeWriter` saved: the frames with their `task`, and the statistics of the user's features."""
    return read_parquet(folder / FRAMES_FILE), episode_stats(read_parquet(folder / STATS_FILE).to_pylist()[0])


def to_arrow(values: np.ndarray, feature: Feature) -> pa.Array:
    """Values [frames, *shape] as an arrow array of the feature's type."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if feature.shape == (1,):
        return flat
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(flat, type=arrow_type(feature))
    for size in reversed(feature.shape):
        flat = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, size, dtype=np.int32)), flat)
    return flat


def _check_frame(frame: Mapping[str, Any], features: Mapping[str, Feature]) -> None:
    expected = {*features, "task"}
    if frame.keys() != expected:
        wrong = sorted(expected.symmetric_difference(frame.keys()))[0]
        problem = "a frame lacks a feature" if wrong in expected else "a frame has a feature that the dataset has not"
        raise DatasetError(problem, field=wrong, expected=", ".join(sorted(expected)))
    if not isinstance(frame["task"], str) or not frame["task"]:
        raise DatasetError("a frame has no task", field="task", found=repr(frame["task"]), expected="a sentence")
    for name, feature in features.items():
        value = frame[name]
        if feature.dtype == "string":
            if not isinstance(value, str):
                raise DatasetError("a frame has a bad value", field=name, found=type(value).__name__, expected="str")
            continue
        dtype = "uint8" if feature.is_camera else feature.dtype
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != feature.shape:
            found = f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise DatasetError("a frame has a bad value", field=name, found=found, expected=f"{dtype}{feature.shape}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DatasetError("a frame has a bad value", field=name, found=value.tolist(), expected="finite numbers")


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()

"""One episode while it is recorded: its frames checked, its cameras encoded and counted as they come."""

import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.histograms import Histograms, load_histogram_file, write_histograms
from lerobot_ops.datasets.info import DEFAULT_FEATURES, DatasetInfo, Feature
from lerobot_ops.datasets.language import EVENTS, PERSISTENT, Row, language_array, language_rows
from lerobot_ops.datasets.statistics import PIXEL_VALUES, Histogram, numeric_stats
from lerobot_ops.datasets.tables import Stats, arrow_type, column_array, read_parquet
from lerobot_ops.datasets.videos.depth import DepthRange, Unit
from lerobot_ops.datasets.videos.encoding import DepthEncoding, VideoEncoding
from lerobot_ops.datasets.videos.video_writer import VideoWriter
from lerobot_ops.datasets.writing.camera_thread import CameraThread, Sink, rooms
from lerobot_ops.datasets.writing.frame import DEPTH_UNITS, checked_frame
from lerobot_ops.datasets.writing.image_spool import ImageSpool
from lerobot_ops.errors import DatasetError

_FRAMES, _HISTOGRAMS, _UNITS = "frames.parquet", "histograms.parquet", "depth_units"


@dataclass
class Settings:
    """How the episodes of a recording are made."""

    info: DatasetInfo
    video: VideoEncoding
    depth: DepthEncoding
    queue: int = 30
    """Frames of a camera that may wait to be encoded."""
    threads: int | None = None
    """Threads of each encoder."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def features(self) -> dict[str, Feature]:
        """The user's features."""
        return {name: feature for name, feature in self.info.features.items() if name not in DEFAULT_FEATURES}

    def encoding(self, name: str) -> VideoEncoding:
        """How the camera `name` is encoded."""
        return self.depth if self.info.features[name].is_depth else self.video

    def range(self, name: str) -> DepthRange | None:
        """What the levels of a depth camera stand for; None for a colour camera."""
        feature = self.info.features[name]
        if not feature.is_depth:
            return None
        return self.depth.range if feature.dtype == "video" else DepthRange.of(feature.info or {})

    def level_values(self, name: str) -> np.ndarray:
        """What the levels of a camera's pixels stand for in its statistics."""
        depth = self.range(name)
        if depth is None:
            return PIXEL_VALUES
        unit: Unit = "m" if (self.info.features[name].info or {}).get("depth_unit") == "m" else "mm"
        return depth.table(unit).astype(np.float64)

    @property
    def units(self) -> dict[str, str]:
        """The units of the depth cameras, as far as they are known."""
        blocks = {name: feature.info or {} for name, feature in self.info.features.items() if feature.is_depth}
        return {name: block["depth_unit"] for name, block in blocks.items() if block.get("depth_unit")}

    def note_units(self, units: Mapping[str, str]) -> None:
        """Keep the units of the depth cameras that have none yet."""
        with self.lock:
            features = dict(self.info.features)
            for name in units.keys() - self.units.keys():
                block = {**(features[name].info or {}), "depth_unit": units[name]}
                features[name] = features[name].model_copy(update={"info": block})
            self.info = self.info.model_copy(update={"features": features})


@dataclass(frozen=True)
class Recorded:
    """An episode that is complete in `folder`, but no part of the dataset yet."""

    folder: Path
    table: pa.Table
    """The user's columns and `task`, one row per frame."""
    stats: Stats
    """Of the user's features."""
    histograms: Histograms
    units: dict[str, str]
    """Of the depth cameras."""

    @property
    def frames(self) -> int:
        return int(self.table.num_rows)

    @property
    def tasks(self) -> list[str]:
        """The task of every frame."""
        return list(self.table.column("task").to_pylist())

    def clip(self, name: str) -> Path:
        """The video of a camera."""
        return self.folder / f"{name}.mp4"

    def save(self) -> None:
        """Write what only memory holds into the folder, for `load`."""
        pq.write_table(self.table.replace_schema_metadata({_UNITS: json.dumps(self.units)}), self.folder / _FRAMES)
        write_histograms(self.folder / _HISTOGRAMS, [(0, self.histograms)])
        for spool in self.folder.glob("*.images"):
            spool.unlink()  # what is in it is in the table

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> "Recorded":
        """The episode that `save` has written."""
        table = read_parquet(folder / _FRAMES)
        units = saved_units(folder)
        settings.note_units(units)
        histograms = load_histogram_file(folder / _HISTOGRAMS).get(0, {}) if settings.info.camera_keys else {}
        numeric = {name: feature for name, feature in settings.features.items() if feature.is_numeric}
        columns = {name: column_array(table.column(name), feature) for name, feature in numeric.items()}
        return cls(folder, table, _stats(settings, columns, histograms), histograms, units)


def saved_units(folder: Path) -> dict[str, str]:
    """The units of the depth cameras of the episode that `Recorded.save` has written into `folder`."""
    metadata = pq.read_schema(folder / _FRAMES).metadata or {}
    return dict(json.loads(metadata.get(_UNITS.encode(), b"{}")))


class EpisodeWriter:
    """Takes the frames of one episode; made by `DatasetWriter.episode`."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.discarded = False
        self._folder, self._settings, self._features = folder, settings, settings.features
        self._values: dict[str, list[Any]] = {name: [] for name in (*self._columns(), "task")}
        self._persistent: list[dict[str, Any]] = []
        self._cameras: dict[str, CameraThread] = {}
        self._recorded: Recorded | None = None

    @property
    def num_frames(self) -> int:
        return len(self._values["task"])

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Append one frame: a value for every feature, and `task`, a sentence; see `frame.checked_frame`.

        Index, timestamp and the other default features are set by the writer. It waits when a camera's queue is full;
        no frame is dropped. Raises DatasetError naming the field that is missing, unknown, of another dtype or shape,
        or not finite, and the frame is not added then; or naming the camera whose encoder has failed.
        """
        values = checked_frame(frame, self._features)
        if not self.num_frames:
            depth = [name for name, feature in self._features.items() if feature.is_depth]
            self._settings.note_units({name: DEPTH_UNITS[values[name].dtype.name] for name in depth})
            self._features = self._settings.features
            checked_frame(frame, self._features)  # of a unit that another thread's first frame has just decided
            self._start_cameras()
        with rooms(self._cameras):
            for name, camera in self._cameras.items():
                camera.put(values[name])
            for name, column in self._values.items():
                column.append(values[name])

    def set_language(self, rows: Sequence[Row]) -> None:
        """What is said about the whole episode, for a dataset with `language_persistent`; see `language_rows`."""
        if PERSISTENT not in self._features:
            raise DatasetError("the dataset has no persistent language", field=PERSISTENT)
        self._persistent = language_rows(PERSISTENT, rows, self._settings.info.camera_keys)

    def discard(self) -> None:
        """Drop this episode: nothing of it is saved."""
        self.discarded = True

    def finish(self) -> Recorded:
        """Wait for the encoders and check that every video has every frame; once finished it can be called again."""
        if self._recorded is None:
            if not self.num_frames:
                raise DatasetError("an episode has no frames", expected="1 or more", fix="add frames, or discard it")
            for camera in self._cameras.values():
                camera.finish()
            self._check_counts()
            self._recorded = self._record()
        return self._recorded

    def remove(self) -> None:
        """Stop what is being encoded, and remove the folder."""
        for camera in self._cameras.values():
            camera.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def _columns(self) -> list[str]:
        """The features whose values are kept in memory."""
        return [name for name, feature in self._features.items() if not feature.is_camera and name != PERSISTENT]

    def _start_cameras(self) -> None:
        for name, feature in self._features.items():
            if feature.is_camera and name not in self._cameras:
                depth = self._settings.range(name)
                opener = _Opener(self._folder, name, self._settings)
                self._cameras[name] = CameraThread(name, opener.open, depth=depth, maxsize=self._settings.queue)

    def _check_counts(self) -> None:
        """Every camera and every column has every frame, even if `add_frame` was interrupted."""
        found = {name: len(column) for name, column in self._values.items()}
        found |= {name: _frames_in(camera) for name, camera in self._cameras.items()}
        for name, frames in found.items():
            if frames != self.num_frames:
                raise DatasetError(
                    "a feature has not got every frame of the episode",
                    field=name,
                    found=f"{frames} frames",
                    expected=f"{self.num_frames} frames",
                    fix="discard the episode and record it again",
                )

    def _record(self) -> Recorded:
        arrays: dict[str, pa.Array | pa.ChunkedArray] = {}
        numeric: dict[str, np.ndarray] = {}
        for name, feature in self._features.items():
            if feature.is_numeric:
                numeric[name] = np.stack(self._values[name])
                arrays[name] = to_arrow(numeric[name], feature)
            elif feature.dtype == "image":
                sink = self._cameras[name].sink
                assert isinstance(sink, ImageSpool)
                arrays[name] = sink.column()
            elif name == PERSISTENT:
                arrays[name] = language_array(name, [self._persistent] * self.num_frames)
            elif name == EVENTS:
                arrays[name] = language_array(name, self._values[name])
            elif feature.dtype == "string":
                arrays[name] = pa.array(self._values[name], pa.string())
        arrays["task"] = pa.array(self._values["task"], pa.string())
        histograms = {name: camera.histogram() for name, camera in self._cameras.items()}
        stats = _stats(self._settings, numeric, histograms)
        return Recorded(self._folder, pa.table(arrays), stats, histograms, self._settings.units)


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


@dataclass(frozen=True)
class _Opener:
    """Opens the file of a camera, in the camera's thread."""

    folder: Path
    name: str
    settings: Settings

    def open(self) -> Sink:
        feature = self.settings.info.features[self.name]
        if feature.dtype == "image":
            return ImageSpool(self.folder / f"{self.name}.images", depth=feature.is_depth)
        height, width, _ = feature.size
        return VideoWriter(
            self.folder / f"{self.name}.mp4",
            fps=self.settings.info.fps,
            height=height,
            width=width,
            encoding=self.settings.encoding(self.name),
            threads=self.settings.threads,
        )


def _stats(settings: Settings, numeric: Mapping[str, np.ndarray], histograms: Mapping[str, Histogram]) -> Stats:
    """Statistics of the user's features, in their order."""
    stats: Stats = {}
    for name in settings.features:
        if name in numeric:
            stats[name] = numeric_stats(numeric[name])
        elif name in histograms:
            stats[name] = histograms[name].stats(settings.level_values(name))
    return stats


def _frames_in(camera: CameraThread) -> int:
    """The frames in a camera's closed file; a video's are counted by the file itself."""
    if not isinstance(camera.sink, VideoWriter):
        return camera.frames
    with av.open(str(camera.sink.path)) as container:
        return int(container.streams.video[0].frames)

"""The frames of a view's cameras, decoded: from videos, or from images in the data files."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lerobot_ops.datasets.columns import DataRows
from lerobot_ops.datasets.images import ImageColumn
from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.videos.decoder import Decoder, decoder_of
from lerobot_ops.datasets.videos.depth import DepthRange, Unit
from lerobot_ops.datasets.view import View
from lerobot_ops.errors import DatasetError

Empty = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]
_WHITE = np.float32(255)
_MILLIMETRES = np.float32(1000)


class Camera(Protocol):
    """Whatever frames come from."""

    def read(self, rows: np.ndarray, *, scaled: bool = False, empty: Empty = np.empty) -> np.ndarray:
        """The frames at `rows` int[n] of the view, in any order: uint8 [n, channels, height, width].

        `scaled` ones are float32 in [0, 1]; depth is float32 distances, and is never scaled. `empty` makes the array
        that frames are decoded into.
        """
        ...

    def stored(self, rows: np.ndarray) -> np.ndarray:
        """The same frames, but a depth camera's as they are stored: uint16 levels, or distances in any unit."""
        ...

    def distances(self, stored: np.ndarray) -> np.ndarray:
        """What a depth camera's `stored` frames stand for."""
        ...


class VideoCamera:
    """A camera whose frames are in mp4 files."""

    def __init__(
        self,
        view: View,
        name: str,
        feature: Feature,
        tolerance_s: float,
        unit: Unit,
        decoder: Callable[[Path], Decoder] = decoder_of,
    ) -> None:
        self._view, self._name, self._tolerance_s, self._decoder = view, name, tolerance_s, decoder
        self._feature, self._is_depth = feature, feature.is_depth
        self._distances = DepthRange.of(feature.info or {}).table(unit) if self._is_depth else None
        chosen = view.episodes
        chunk, file, self._starts = (
            view.table[f"videos/{name}/{field}"][chosen] for field in ("chunk_index", "file_index", "from_timestamp")
        )
        self._files, self._file = np.unique(np.stack([chunk, file], axis=1), axis=0, return_inverse=True)
        self._file = self._file.reshape(-1)

    def read(self, rows: np.ndarray, *, scaled: bool = False, empty: Empty = np.empty) -> np.ndarray:
        if self._is_depth:
            return self.distances(self._read(rows))
        return self._read(rows, scaled=scaled, empty=empty)

    def stored(self, rows: np.ndarray) -> np.ndarray:
        return self._read(rows)

    def distances(self, stored: np.ndarray) -> np.ndarray:
        assert self._distances is not None
        return self._distances[stored]

    def _read(self, rows: np.ndarray, *, scaled: bool = False, empty: Empty = np.empty) -> np.ndarray:
        frames: np.ndarray | None = None
        for path, here, times in self._parts(rows):
            decoder = self._decoder(path)
            wanted, first, again = _sorted(times)
            for place, shown in zip(here[first], decoder.at(wanted.tolist(), self._tolerance_s), strict=True):
                planes = [decoder.pixels(shown, "gray12le")] if self._is_depth else decoder.planes(shown)
                if frames is None:
                    dtype = np.dtype(np.float32) if scaled else planes[0].dtype
                    frames = empty((len(rows), len(planes), *planes[0].shape), dtype)
                put(planes, frames[place], path)
            if frames is not None and len(first) < len(here):
                frames[here] = frames[here[first][again]]
        return none_of(self._feature) if frames is None else frames

    def _parts(self, rows: np.ndarray) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
        """Every video file that `rows` lie in, the places of these rows, and their times in the file."""
        episode, offset = self._view.locate(rows)
        times = self._starts[episode] + offset / self._view.info.fps
        files = self._file[episode]
        for number in files if len(rows) == 1 else np.unique(files):
            here = np.flatnonzero(files == number)
            chunk, file = self._files[number]
            yield self._view.root / self._view.info.video_file(self._name, int(chunk), int(file)), here, times[here]


class ImageCamera:
    """A camera whose frames are encoded images in the data files."""

    def __init__(self, data: DataRows, name: str, feature: Feature, unit: Unit) -> None:
        self._data, self._name, self._feature, self._unit = data, name, feature, unit
        self._column: ImageColumn | None = None

    def read(self, rows: np.ndarray, *, scaled: bool = False, empty: Empty = np.empty) -> np.ndarray:
        frames = self._read(rows, scaled=scaled, empty=empty)
        return self.distances(frames) if self._feature.is_depth else frames

    def stored(self, rows: np.ndarray) -> np.ndarray:
        return self._read(rows)

    def distances(self, stored: np.ndarray) -> np.ndarray:
        return in_unit(stored, self._feature, self._unit)

    def _read(self, rows: np.ndarray, *, scaled: bool = False, empty: Empty = np.empty) -> np.ndarray:
        if self._column is None:
            self._column = ImageColumn(self._data.places.files, self._name)
        frames: np.ndarray | None = None
        for place, (file, row) in enumerate(zip(*self._data.locate(rows), strict=True)):
            picture = self._column.frame(int(file), int(row))
            if frames is None:
                dtype = np.dtype(np.float32) if scaled else picture.dtype
                frames = empty((len(rows), *picture.shape), dtype)
            put(picture, frames[place], self._data.places.files[file])
        return none_of(self._feature) if frames is None else frames

    def __getstate__(self) -> dict[str, Any]:
        """Another process unpacks the images for itself."""
        return self.__dict__ | {"_column": None}


def _sorted(times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different times, ascending, where each is first in `times`, and which of them each of `times` is."""
    if len(times) == 1:
        return times, np.zeros(1, np.int64), np.zeros(1, np.int64)
    different, first, again = np.unique(times, return_index=True, return_inverse=True)
    return different, first, again.reshape(-1)


def none_of(feature: Feature) -> np.ndarray:
    """No frames of a camera."""
    height, width, channels = feature.size
    return np.empty((0, channels, height, width), np.float32 if feature.is_depth else np.uint8)


def put(planes: Sequence[np.ndarray] | np.ndarray, target: np.ndarray, file: Path) -> None:
    """Copy a frame's channels into their place, and scale them when the place is float32 and they are bytes."""
    if (len(planes), *planes[0].shape) != target.shape:
        found, expected = ((len(frame), *frame[0].shape) for frame in (planes, target))
        raise DatasetError("a camera's frames have different sizes", file=file, found=found, expected=expected)
    for plane, place in zip(planes, target, strict=True):
        if plane.dtype == np.uint8 and place.dtype == np.float32:
            np.divide(plane, _WHITE, out=place)
        else:
            place[...] = plane


def in_unit(distances: np.ndarray, feature: Feature, unit: Unit) -> np.ndarray:
    """Distances of a depth feature, or their statistics, in `unit`; unchanged when nobody recorded their unit."""
    stored = (feature.info or {}).get("depth_unit")
    if stored not in ("m", "mm") or stored == unit:
        return distances
    return distances * _MILLIMETRES if stored == "m" else distances / _MILLIMETRES

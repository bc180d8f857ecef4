"""Statistics of the cameras of edited episodes: kept where they still hold, else from the pixels."""

import bisect
import io
import itertools
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.rows import RowReader
from lerobot_ops.datasets.editing.source import Clip, Kept, Source
from lerobot_ops.datasets.histograms import HISTOGRAM_COLUMNS, Histograms, fits, histograms_in
from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.statistics import PIXEL_VALUES, CameraStats, Histogram
from lerobot_ops.datasets.tables import STATISTICS, read_parquet
from lerobot_ops.datasets.videos.decoder import open_video
from lerobot_ops.datasets.videos.depth import LEVELS, DepthRange, Unit
from lerobot_ops.errors import DatasetError

Found = tuple[dict[str, np.ndarray], Histogram | None]
"""Statistics of a camera in one episode, and the pixel counts behind them if they are known."""


class CameraStatistics:
    """Gives the statistics of each camera of each episode that a recipe keeps."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._sources: dict[int, _Known] = {}

    def names(self, name: str) -> list[str]:
        """The statistics that some episode has of the camera `name` of the output."""
        recipe = self._recipe
        origin = recipe.origin(name)
        keeps = recipe.histograms == "keep" and name not in recipe.computed and name not in recipe.encodings
        if not keeps or not all(kept.whole for kept in recipe.kept):
            return list(STATISTICS)
        found: dict[str, None] = {}
        for source in {id(kept.source): kept.source for kept in recipe.kept}.values():
            found |= dict.fromkeys(self._known(source).names(origin) or STATISTICS)
        return list(found)

    def of(self, kept: Kept, name: str, table: pa.Table, encoded: Histogram | None = None) -> Found:
        """Of the camera `name` of the output; `table` are the rows as written, `encoded` its new pixel counts."""
        recipe = self._recipe
        feature, origin = recipe.info.features[name], recipe.origin(name)
        values = level_values(feature)
        if encoded is not None:
            return encoded.stats(values), encoded
        if recipe.histograms == "keep" and kept.whole and name not in recipe.computed:
            known = self._known(kept.source)
            stats = known.stats(kept.episode, origin)
            histogram = known.histograms(kept.episode).get(origin)
            if histogram is not None and fits(histogram, values, stats):
                return histogram.stats(values), histogram
            if stats:
                return stats, None
        if feature.dtype == "image" and feature.is_depth:
            return _of_depth_images(table.column(name), feature)
        counted = count_video(kept, origin) if feature.dtype == "video" else count_images(table.column(name))
        return counted.stats(values), counted

    def _known(self, source: Source) -> "_Known":
        if id(source) not in self._sources:
            self._sources[id(source)] = _Known(source)
        return self._sources[id(source)]


def level_values(feature: Feature) -> np.ndarray:
    """What the levels of a camera's pixels stand for in its statistics."""
    if not feature.is_depth:
        return PIXEL_VALUES
    info = feature.info or {}
    unit: Unit = "m" if info.get("depth_unit") == "m" else "mm"
    return DepthRange.of(info).distances(np.arange(LEVELS), unit).astype(np.float64)


def count_video(kept: Kept, key: str) -> Histogram:
    """The pixels of every frame that is kept of a video; `key` is the source's name of the camera."""
    depth = kept.source.info.features[key].is_depth
    stats = CameraStats(1, LEVELS) if depth else CameraStats()
    for picture in pictures(kept.clip(key), kept.count, kept.source.info.fps, "gray12le" if depth else "rgb24"):
        stats.add(picture.reshape(*picture.shape[:2], -1))
    return stats.histogram()


def count_images(column: pa.ChunkedArray) -> Histogram:
    """The pixels of every image in a column of the data."""
    stats = CameraStats()
    for cell in column:
        with Image.open(io.BytesIO(cell["bytes"].as_py())) as image:
            stats.add(np.asarray(image.convert("RGB")))
    return stats.histogram()


def _of_depth_images(column: pa.ChunkedArray, feature: Feature) -> Found:
    """The statistics of depth images by the levels nearest to their values; the counts only if the info has the unit.

    Whole numbers are millimetres, others metres.
    """
    depth, stats = DepthRange.of(feature.info or {}), CameraStats(1, LEVELS)
    unit: Unit = "mm"
    for cell in column:
        with Image.open(io.BytesIO(cell["bytes"].as_py())) as image:
            distances = np.asarray(image)
        unit = "m" if distances.dtype.kind == "f" else "mm"
        stats.add(depth.levels(distances, unit)[..., None])
    counted = stats.histogram()
    is_known = (feature.info or {}).get("depth_unit", "mm") == unit
    return counted.stats(depth.table(unit).astype(np.float64)), counted if is_known else None


def pictures(clip: Clip, count: int, fps: int, pixels: str) -> Iterator[np.ndarray]:
    """The decoded frames of a clip, one after the other, in FFmpeg's layout `pixels`."""
    first, found = round(clip.from_timestamp * fps), 0
    with open_video(clip.file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        base = float(stream.time_base or 0)
        for back in (1, 16, first):  # some files seek by decoding time, which may pass the keyframe
            container.seek(round(max(0, first - back) / fps / base), stream=stream, backward=True)
            for frame in container.decode(stream):
                number = round(frame.pts * base * fps)
                if first + found == number:
                    yield frame.to_ndarray(format=pixels)
                    found += 1
                if found == count or number > first + found:
                    break
            if found:
                break
    if found < count:
        raise DatasetError(
            "a video has fewer frames than its episode",
            file=clip.file,
            found=f"{found} frames from second {clip.from_timestamp:g}",
            expected=f"{count} frames",
        )


class _Known:
    """What a source knows about its cameras."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stats, self._counts = RowReader(), RowReader()
        self._columns: dict[Path, list[str]] = {}

    @cached_property
    def _places(self) -> dict[int, tuple[Path, int, int]]:
        """Episode -> where its pixel counts are: file, first row, rows."""
        places: dict[int, tuple[Path, int, int]] = {}
        for path in sorted(self._source.root.glob("meta/histograms/*/*.parquet")):
            numbers = read_parquet(path, ["episode_index"]).column("episode_index").to_pylist()
            first = 0
            for number, rows in itertools.groupby(numbers):
                count = len(list(rows))
                places[number] = path, first, count
                first += count
        return places

    def histograms(self, episode: int) -> Histograms:
        """The pixel counts of an episode's cameras, as far as they are known."""
        if episode not in self._places:
            return {}
        path, first, count = self._places[episode]
        return histograms_in(self._counts.rows(path, first, count, HISTOGRAM_COLUMNS), path).get(episode, {})

    def names(self, camera: str) -> list[str]:
        """The statistics of a camera that the episodes table has."""
        prefix = f"stats/{camera}/"
        names = [name for path, _ in self._source.files for name in self._camera_columns(path)]
        return list(dict.fromkeys(name.removeprefix(prefix) for name in names if name.startswith(prefix)))

    def stats(self, episode: int, camera: str) -> dict[str, np.ndarray]:
        """The statistics of a camera in the episodes table; empty if it has none."""
        number = bisect.bisect_right(self._source.files, episode, key=lambda file: file[1]) - 1
        path, first = self._source.files[number]
        columns = self._camera_columns(path)
        row = self._stats.rows(path, episode - first, 1, columns) if columns else pa.table({})
        prefix = f"stats/{camera}/"
        values = {name: row.column(name)[0].as_py() for name in columns if name.startswith(prefix)}
        return {
            name.removeprefix(prefix): np.atleast_1d(np.array(value))
            for name, value in values.items()
            if value is not None
        }

    def _camera_columns(self, path: Path) -> list[str]:
        if path not in self._columns:
            wanted = tuple(f"stats/{key}/" for key in self._source.info.camera_keys)
            self._columns[path] = [name for name in pq.read_schema(path).names if name.startswith(wanted)]
        return self._columns[path]

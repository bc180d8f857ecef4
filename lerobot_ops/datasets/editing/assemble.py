"""Writing a dataset of episodes that other datasets hold: rows renumbered, videos moved as packets."""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.editing.cameras import CameraStatistics
from lerobot_ops.datasets.editing.encode import encode_episodes
from lerobot_ops.datasets.editing.episodes import EpisodesTable
from lerobot_ops.datasets.editing.numeric import matrix_of, matrix_stats
from lerobot_ops.datasets.editing.overall import Overall
from lerobot_ops.datasets.editing.plan import OutputFile, Plan, extra_columns, group_sizes, places, plan
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.rows import RowMaker
from lerobot_ops.datasets.histograms import HISTOGRAMS_PATH, Histograms, write_histograms
from lerobot_ops.datasets.info import MEGABYTE, DatasetInfo, write_info
from lerobot_ops.datasets.statistics import Histogram
from lerobot_ops.datasets.tables import Stats, column_array, write_stats, write_tasks
from lerobot_ops.datasets.videos.mp4 import copy_file
from lerobot_ops.datasets.videos.video import Piece, cut_and_join, probe
from lerobot_ops.errors import DatasetError

_CLIPS = ".clips"
"""Where episodes that are encoded anew wait until they are joined."""
_HISTOGRAMS_PER_FILE = 500
"""Episodes: 6 kB each for a camera."""


def assemble(root: Path, recipe: Recipe) -> DatasetInfo:
    """Write the dataset that `recipe` describes into the directory `root`; return its info.

    Numeric statistics are computed from the frames; those of cameras are the episodes' own as far as they still hold.
    Raises DatasetError when a frame is not finite, because such a dataset has no statistics.
    """
    return write_plan(root, plan(recipe))


def write_plan(root: Path, made: Plan) -> DatasetInfo:
    """Write what was planned into the directory `root`; return its info."""
    recipe = made.recipe
    pointers: list[dict[str, Any]] = [{} for _ in recipe.kept]
    features = dict(recipe.info.features)
    encoded: dict[str, list[Histogram]] = {}
    with ThreadPoolExecutor(1) as disk:  # videos go to disk while the tables are made
        flushed = []
        for key, files in made.videos.items():
            if key in recipe.encodings:
                encoded[key], about = _encode(root, key, made, pointers)
                features[key] = features[key].model_copy(update={"info": about})
                continue
            for file in files:
                _write_video(root, key, file, made, pointers)
                flushed.append(disk.submit(_flush, root / recipe.info.video_file(key, *file.place)))
        info = recipe.info.model_copy(update={"features": features})
        overall = _write_tables(root, made, info, pointers, encoded)
        for each in flushed:
            each.result()
    write_stats(root, overall)
    write_tasks(root, made.tasks)
    totals = {"total_episodes": len(recipe.kept), "total_frames": made.frames, "total_tasks": len(made.tasks)}
    info = info.model_copy(update={"splits": {"train": f"0:{len(recipe.kept)}"}, **totals})
    write_info(root, info)
    if recipe.finish:
        recipe.finish(root)
    return info


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _write_video(root: Path, key: str, file: OutputFile, made: Plan, pointers: list[dict[str, Any]]) -> None:
    kept = made.recipe.kept[file.first : file.first + file.count]
    clips = [episode.clip(made.recipe.origin(key)) for episode in kept]
    if file.how == "whole":
        target = root / made.recipe.info.video_file(key, *file.place)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(clips[0].file, target)
        starts = [clip.from_timestamp for clip in clips]
        _enter(key, file.place, file.first, starts, [episode.count for episode in kept], made.recipe.info, pointers)
        return
    pieces = [Piece(clip.file, clip.from_timestamp, episode.count) for clip, episode in zip(clips, kept, strict=True)]
    _join(root, key, file.place, file.first, pieces, made.recipe.info, pointers)


def _join(
    root: Path,
    key: str,
    place: tuple[int, int],
    first: int,
    pieces: Sequence[Piece],
    info: DatasetInfo,
    pointers: list[dict[str, Any]],
) -> None:
    """Join the clips of the episodes from `first` and enter where they are in `pointers`."""
    starts = cut_and_join(pieces, root / info.video_file(key, *place), info.fps)
    _enter(key, place, first, starts, [piece.frames for piece in pieces], info, pointers)


def _enter(
    key: str,
    place: tuple[int, int],
    first: int,
    starts: Sequence[float],
    lengths: Sequence[int],
    info: DatasetInfo,
    pointers: list[dict[str, Any]],
) -> None:
    for number, (start, frames) in enumerate(zip(starts, lengths, strict=True), first):
        pointers[number] |= {
            f"videos/{key}/chunk_index": place[0],
            f"videos/{key}/file_index": place[1],
            f"videos/{key}/from_timestamp": start,
            f"videos/{key}/to_timestamp": (round(start * info.fps) + frames) / info.fps,
        }


def _encode(root: Path, key: str, made: Plan, pointers: list[dict[str, Any]]) -> tuple[list[Histogram], dict[str, Any]]:
    """Encode a camera anew, episode by episode; return the pixel counts and the `info` block of the feature."""
    recipe, folder = made.recipe, root / _CLIPS
    folder.mkdir()
    clips, counts = encode_episodes(
        recipe.kept, recipe.origin(key), folder, recipe.encodings[key], recipe.workers, recipe.encoder_threads
    )
    before = recipe.info.features[key].info or {}
    unit = {name: before[name] for name in ("depth_unit",) if name in before}
    about = probe(clips[0]).info() | recipe.encodings[key].info() | unit
    first = 0
    sizes = [clip.stat().st_size for clip in clips]
    limit = recipe.info.video_files_size_in_mb * MEGABYTE
    for place, count in zip(places(recipe.info), group_sizes(sizes, limit), strict=False):
        pieces = [Piece(clips[n], 0.0, recipe.kept[n].count) for n in range(first, first + count)]
        _join(root, key, place, first, pieces, recipe.info, pointers)
        first += count
    shutil.rmtree(folder)
    return counts, about


def _write_tables(
    root: Path,
    made: Plan,
    info: DatasetInfo,
    pointers: list[dict[str, Any]],
    encoded: dict[str, list[Histogram]],
) -> Stats:
    """Write the data, the episodes table and the pixel counts; return the statistics of the whole dataset."""
    recipe = made.recipe
    maker = RowMaker(recipe, made.tasks, made.row_tasks)
    cameras = CameraStatistics(recipe)
    gathered = Overall(info, made.frames)
    names = {key: cameras.names(key) for key in info.camera_keys}
    counted = _HistogramFiles(root, info)
    with EpisodesTable(root, info, names, extra_columns(recipe.kept)) as episodes:
        for file in made.data:
            path = root / info.data_file(*file.place)
            path.parent.mkdir(parents=True, exist_ok=True)
            with _DataFile(path, maker.schema, file) as data:
                for number in range(file.first, file.first + file.count):
                    kept = recipe.kept[number]
                    rows = maker.rows(number, int(made.begins[number]))
                    data.add(rows)
                    numeric = _matrix(rows, info, made, number)
                    found = {}
                    for key in info.camera_keys:
                        found[key] = cameras.of(kept, key, rows, encoded[key][number] if key in encoded else None)
                    stats = matrix_stats(numeric)
                    gathered.add(numeric, stats, found)
                    counted.add(number, {key: each[1] for key, each in found.items() if each and each[1]})
                    seen = {key: each[0] for key, each in found.items() if each}
                    episodes.add(_row(made, number, file.place, pointers[number]), stats, seen)
    counted.flush()
    return gathered.stats([root / info.data_file(*file.place) for file in made.data])


class _HistogramFiles:
    """Writes the pixel counts of the episodes, some hundred episodes to a file."""

    def __init__(self, root: Path, info: DatasetInfo) -> None:
        self._root, self._places = root, places(info)
        self._held: list[tuple[int, Histograms]] = []

    def add(self, number: int, histograms: Histograms) -> None:
        """Add what is known of an episode."""
        if histograms:
            self._held.append((number, histograms))
        if len(self._held) == _HISTOGRAMS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            chunk, file = next(self._places)
            write_histograms(self._root / HISTOGRAMS_PATH.format(chunk_index=chunk, file_index=file), self._held)
        self._held = []


class _DataFile:
    """A data file that is written episode by episode, or taken over whole; then what is added is not looked at."""

    def __init__(self, path: Path, schema: pa.Schema, file: OutputFile) -> None:
        self._writer: pq.ParquetWriter | None = None
        if file.how == "whole":
            copy_file(file.sources[0], path)
        else:
            self._writer = pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=True)

    def add(self, rows: pa.Table) -> None:
        """Add an episode, as a row group of its own, as LeRobot does."""
        if self._writer is not None:
            self._writer.write_table(rows, row_group_size=rows.num_rows)

    def __enter__(self) -> "_DataFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _row(made: Plan, number: int, place: tuple[int, int], pointers: dict[str, Any]) -> dict[str, Any]:
    begin, end = made.begins[number : number + 2].tolist()
    row = {"episode_index": number, "tasks": made.tasks_of(number), "length": end - begin}
    row |= {"data/chunk_index": place[0], "data/file_index": place[1]}
    return row | {"dataset_from_index": begin, "dataset_to_index": end} | pointers


def _matrix(rows: pa.Table, info: DatasetInfo, made: Plan, number: int) -> np.ndarray:
    """The numeric columns of an episode: see `matrix_of`."""
    columns = {name: column_array(rows.column(name), feature) for name, feature in info.numeric.items()}
    matrix = matrix_of(columns, info.numeric)
    if not np.isfinite(matrix).all():
        kept = made.recipe.kept[number]
        name = next(name for name, values in columns.items() if not np.isfinite(values).all())
        raise DatasetError(
            "an episode has values that are not finite, so the dataset has no statistics",
            file=kept.rows.file,
            field=f"{name} of episode {kept.episode}",
            found="NaN or infinity",
            fix="delete this episode, or remove this feature",
        )
    return matrix

"""Writing a dataset of episodes that other datasets hold: rows renumbered, videos moved as packets."""

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lerobot_ops.datasets.edit_source import Clip, Kept
from lerobot_ops.datasets.info import MEGABYTE, DatasetInfo, Feature, write_info
from lerobot_ops.datasets.joining import fill_files
from lerobot_ops.datasets.statistics import camera_stats, numeric_stats, overall_stats, sample_indices
from lerobot_ops.datasets.tables import (
    Stats,
    column_array,
    data_schema,
    episode_stats,
    episodes_files,
    read_parquet,
    write_data,
    write_episodes,
    write_stats,
    write_tasks,
)
from lerobot_ops.datasets.video import Piece, cut_and_join, decode_frames
from lerobot_ops.errors import DatasetError

_POINTERS = ("data/", "videos/", "stats/", "meta/episodes/")
_OWN = {"episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"}


def assemble(root: Path, kept: Sequence[Kept], info: DatasetInfo) -> DatasetInfo:
    """Write the dataset of the episodes `kept`, in their order, into the directory `root`; return its info.

    `info` says which features it has and how large files may be; its counters are set here. Numeric statistics are
    computed anew from the frames; those of cameras are the episodes' own. Raises DatasetError when a frame is not
    finite, because such a dataset has no statistics.
    """
    tasks = task_table(kept)
    rows = _rows(kept)
    columns = _write_data_files(root, kept, rows, tasks, info)
    for key in info.video_keys:
        _write_video_files(root, key, kept, rows, info)
    stats = [_episode_stats(episode, row, columns, info) for episode, row in zip(kept, rows, strict=True)]
    write_stats(root, overall_stats(stats, columns, info.features))
    write_tasks(root, tasks)
    write_episodes(root, [row | {"stats": own} for row, own in zip(rows, stats, strict=True)], info)
    _append_extra_columns(root, extra_columns(kept))
    frames = rows[-1]["dataset_to_index"]
    totals = {"total_episodes": len(rows), "total_frames": frames, "total_tasks": len(tasks)}
    info = info.model_copy(update={"splits": {"train": f"0:{len(rows)}"}, **totals})
    write_info(root, info)
    return info


def task_table(kept: Sequence[Kept]) -> list[str]:
    """The tasks of the frames that are kept, in the order of the sources' task tables."""
    used = {task for episode in kept for task in episode.tasks}
    sources = {id(episode.source): episode.source for episode in kept}.values()
    return list(dict.fromkeys(task for source in sources for task in source.tasks if task in used))


def extra_columns(kept: Sequence[Kept]) -> pa.Table:
    """The columns of the sources' episodes tables that the format does not know, for the episodes that are kept.

    Raises pyarrow.ArrowException when a column has types in two sources that do not fit together.
    """
    parts = []
    for _, group in itertools.groupby(kept, key=lambda episode: id(episode.source)):
        numbers = list(group)
        table = numbers[0].source.episodes
        names = [name for name in table.column_names if name not in _OWN and not name.startswith(_POINTERS)]
        parts.append(table.select(names).take([episode.episode for episode in numbers]))
    if not any(part.num_columns for part in parts):
        return pa.table({})
    return pa.concat_tables(parts, promote_options="permissive")


def _rows(kept: Sequence[Kept]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    begin = 0
    for number, episode in enumerate(kept):
        end = begin + episode.rows.count
        row = {"episode_index": number, "tasks": episode.tasks, "length": episode.rows.count}
        rows.append(row | {"dataset_from_index": begin, "dataset_to_index": end})
        begin = end
    return rows


def _write_data_files(
    root: Path, kept: Sequence[Kept], rows: list[dict[str, Any]], tasks: list[str], info: DatasetInfo
) -> dict[str, np.ndarray]:
    """Write the data parquet, enter the places in `rows`, and return the numeric columns of all frames."""
    places = fill_files([episode.rows.bytes for episode in kept], info.data_files_size_in_mb * MEGABYTE, info)
    for row, (chunk, file) in zip(rows, places, strict=True):
        row |= {"data/chunk_index": chunk, "data/file_index": file}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in info.numeric}
    for place in dict.fromkeys(places):
        numbers = [number for number, there in enumerate(places) if there == place]
        tables = _episode_tables(
            [kept[number] for number in numbers], [rows[number] for number in numbers], tasks, info
        )
        write_data(root / info.data_file(*place), _noting(tables, parts, info), info.columns)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _noting(
    tables: Iterator[tuple[Kept, pa.Table]], parts: dict[str, list[np.ndarray]], info: DatasetInfo
) -> Iterator[pa.Table]:
    """The tables as they pass, their numeric columns noted in `parts`."""
    for episode, table in tables:
        for name, feature in info.numeric.items():
            values = column_array(table.column(name), feature)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise DatasetError(
                    "an episode has values that are not finite, so the dataset has no statistics",
                    file=episode.rows.file,
                    field=f"{name} of episode {episode.episode}",
                    found="NaN or infinity",
                    fix="delete this episode, or remove this feature",
                )
            parts[name].append(values)
        yield table


def _episode_tables(
    kept: Sequence[Kept], rows: Sequence[dict[str, Any]], tasks: list[str], info: DatasetInfo
) -> Iterator[tuple[Kept, pa.Table]]:
    """Each episode's data, renumbered; a data file is read once for neighbouring episodes."""
    schema = data_schema(info.columns)
    numbers = {task: number for number, task in enumerate(tasks)}
    path, table = None, None
    renumbering, renumber = None, np.empty(0, np.int64)
    for episode, row in zip(kept, rows, strict=True):
        here = episode.rows
        if table is None or path != here.file:
            path, table = here.file, read_parquet(here.file, list(info.columns))
        part = table.slice(here.first, here.count)
        if renumbering is not episode.source:
            renumbering = episode.source
            renumber = np.array([numbers.get(task, -1) for task in renumbering.tasks], np.int64)
        columns = {name: part.column(name) for name in info.columns}
        columns["index"] = pa.array(np.arange(row["dataset_from_index"], row["dataset_to_index"]))
        columns["episode_index"] = pa.array(np.full(here.count, row["episode_index"], np.int64))
        columns["task_index"] = pa.array(renumber[part.column("task_index").to_numpy()])
        try:
            yield episode, pa.table(columns).cast(schema)
        except pa.ArrowException as error:
            raise DatasetError(
                "a data file has other types than its info declares", file=here.file, found=str(error).splitlines()[0]
            ) from None


def _write_video_files(
    root: Path, key: str, kept: Sequence[Kept], rows: list[dict[str, Any]], info: DatasetInfo
) -> None:
    """Join a camera's videos and enter the places in `rows`."""
    clips = [episode.clip(key) for episode in kept]
    places = _video_places(clips, info)
    for place in dict.fromkeys(places):
        numbers = [number for number, there in enumerate(places) if there == place]
        pieces = [Piece(clips[n].file, clips[n].from_timestamp, rows[n]["length"]) for n in numbers]
        starts = cut_and_join(pieces, root / info.video_file(key, *place), info.fps)
        for number, start in zip(numbers, starts, strict=True):
            end = (round(start * info.fps) + rows[number]["length"]) / info.fps
            rows[number] |= {
                f"videos/{key}/chunk_index": place[0],
                f"videos/{key}/file_index": place[1],
                f"videos/{key}/from_timestamp": start,
                f"videos/{key}/to_timestamp": end,
            }


def _video_places(clips: Sequence[Clip], info: DatasetInfo) -> list[tuple[int, int]]:
    """The (chunk, file) of each clip: a new file at the size limit, and where the encoder's settings change."""
    limit = info.video_files_size_in_mb * MEGABYTE
    place, filled, signature = (0, 0), 0.0, clips[0].video.signature
    places = []
    for clip in clips:
        if filled and (filled + clip.bytes >= limit or clip.video.signature != signature):
            place, filled = info.next_file(*place), 0.0
        filled, signature = filled + clip.bytes, clip.video.signature
        places.append(place)
    return places


def _episode_stats(episode: Kept, row: dict[str, Any], columns: dict[str, np.ndarray], info: DatasetInfo) -> Stats:
    """Numeric statistics from the frames, camera statistics from the source, in the order of the features."""
    begin, end = row["dataset_from_index"], row["dataset_to_index"]
    stats: Stats = {}
    for name, feature in info.features.items():
        if feature.is_numeric:
            stats[name] = numeric_stats(columns[name][begin:end])
        elif feature.is_camera:
            found = _source_stats(episode, name) or _computed_stats(episode, name, feature)
            stats |= {name: found} if found else {}
    return stats


def _source_stats(episode: Kept, name: str) -> dict[str, np.ndarray]:
    table = episode.source.episodes
    columns = [column for column in table.column_names if column.startswith(f"stats/{name}/")]
    row = table.select(columns).slice(episode.episode, 1).to_pylist()[0]
    return episode_stats(row).get(name, {})


def _computed_stats(episode: Kept, name: str, feature: Feature) -> dict[str, np.ndarray]:
    """Statistics of a camera that the source has none of; a depth camera stays without."""
    if feature.is_depth:
        return {}
    rows = episode.rows
    frames = sample_indices(rows.count)
    if feature.dtype == "video":
        clip = episode.clip(name)
        return camera_stats(decode_frames(clip.file, clip.from_timestamp, frames, episode.source.info.fps))
    cells = read_parquet(rows.file, [name]).column(name).slice(rows.first, rows.count).take(frames).to_pylist()
    return camera_stats(_picture(cell["bytes"]) for cell in cells)


def _picture(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _append_extra_columns(root: Path, extra: pa.Table) -> None:
    """Put the columns of `extra`, one row per episode, behind those of the written episodes table."""
    first = 0
    for path in episodes_files(root) if extra.num_columns else ():
        table = read_parquet(path)
        for name in extra.column_names:
            table = table.append_column(extra.schema.field(name), extra.column(name).slice(first, table.num_rows))
        first += table.num_rows
        path.unlink()  # the table above maps the old file, which stays until it is closed
        pq.write_table(table, path, compression="snappy", use_dictionary=True)

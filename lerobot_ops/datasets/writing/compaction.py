"""The end of a recording: the episodes' small files joined into files that fill up, as LeRobot leaves a dataset.

Files from before the recording stay the same files; only the last of each kind, if it is not full, is filled up.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.artifacts import link_or_copy, replacing
from lerobot_ops.datasets.info import INFO_PATH, MEGABYTE, STATS_PATH, TASKS_PATH, write_info
from lerobot_ops.datasets.joining import Place, fill_files, steps_on
from lerobot_ops.datasets.tables import (
    EPISODES_PER_FILE,
    read_parquet,
    write_data,
    write_stats,
    write_tasks,
)
from lerobot_ops.datasets.videos.video import Piece, cut_and_join, probe, signature_of
from lerobot_ops.datasets.writing.beginning import DATA, EPISODES, HISTOGRAMS, RECORDING
from lerobot_ops.datasets.writing.live import LiveDataset
from lerobot_ops.datasets.writing.running_stats import exact_stats

_Pointers = dict[str, list[int] | list[float]]
"""Columns of the episodes table, a value for each episode."""
_REWRITTEN = {INFO_PATH, STATS_PATH, TASKS_PATH}


def compact(live: LiveDataset) -> None:
    """Put a dataset of rolled-over files in the place of `live`, in one step; see `artifacts.replacing`.

    Needs the disk space of the new episodes once more while it works, and time in proportion to them; but all numbers
    are read, because the overall statistics are exact. Raises DatasetError when a file of the dataset cannot be read;
    the recording is as it was then.
    """
    with replacing(live.root) as draft:
        draft.chmod(stat.S_IMODE(live.root.stat().st_mode))
        pointers = _write_data(live, draft)
        for key in live.info.video_keys:
            pointers |= _write_videos(live, draft, key)
        _write_tables(live, draft, EPISODES, EPISODES_PER_FILE, pointers)
        if live.info.camera_keys:
            _write_tables(live, draft, HISTOGRAMS, EPISODES_PER_FILE * len(live.info.camera_keys), {})
        _take_over(live, draft)
        stats = live.stats() | exact_stats(draft, live.info)
        write_stats(draft, stats)
        write_tasks(draft, live.tasks)
        write_info(draft, live.info)


def _take_over(live: LiveDataset, draft: Path) -> None:
    """Link every file from before the recording that has not been written anew, whatever it is."""
    own = {path for kind in live.beginning.places for path in live.files(kind)}
    for folder, folders, names in os.walk(live.root):
        if Path(folder) == live.root:
            folders.remove(RECORDING)
        for name in [*names, *(name for name in folders if Path(folder, name).is_symlink())]:
            path = Path(folder, name)
            target = draft / path.relative_to(live.root)
            if path not in own and str(path.relative_to(live.root)) not in _REWRITTEN and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, target)


def _last(live: LiveDataset, kind: str) -> tuple[Place, Path] | None:
    """The last file from before the recording."""
    place = live.beginning.places[kind]
    if place == (0, 0):
        return None
    before = steps_on(place, -1, live.info)
    path = live.root / live.file(kind, before)
    return (before, path) if path.exists() else None


def _write_data(live: LiveDataset, draft: Path) -> _Pointers:
    files, info = live.files(DATA), live.info
    sizes, first, begun = [float(path.stat().st_size) for path in files], live.beginning.places[DATA], None
    last = _last(live, DATA)
    if last and pq.read_schema(last[1]).equals(pq.read_schema(files[0]), check_metadata=True):
        (first, begun), sizes = last, [last[1].stat().st_size, *sizes]
    places = fill_files(sizes, info.data_files_size_in_mb * MEGABYTE, info, first=first)
    for place, items in _grouped(places, files, begun):
        if items != [begun]:
            write_data(draft / live.file(DATA, place), _row_groups(items), info.columns)
    return _pointers(DATA, places[len(places) - len(files) :])


def _row_groups(files: Sequence[Path]) -> Iterator[pa.Table]:
    for path in files:
        with pq.ParquetFile(path, memory_map=True) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)


def _write_videos(live: LiveDataset, draft: Path, key: str) -> _Pointers:
    clips, info = live.files(key), live.info
    sizes, kinds = [float(path.stat().st_size) for path in clips], [signature_of(path) for path in clips]
    first, begun = live.beginning.places[key], None
    last = _last(live, key)
    if last and signature_of(last[1]) == kinds[0] and _is_steady(last[1], info.fps):
        (first, begun), sizes, kinds = last, [last[1].stat().st_size, *sizes], [kinds[0], *kinds]
    places = fill_files(sizes, info.video_files_size_in_mb * MEGABYTE, info, first=first, kinds=kinds)
    lengths = dict(zip(clips, _lengths(live), strict=True))
    starts: list[float] = []
    for place, items in _grouped(places, clips, begun):
        if items != [begun]:
            pieces = [Piece(item, 0.0, lengths[item] if item in lengths else probe(item).frames) for item in items]
            found = cut_and_join(pieces, draft / live.file(key, place), info.fps)
            starts += found[1:] if items[0] == begun else found
    ends = [(round(start * info.fps) + lengths[clip]) / info.fps for start, clip in zip(starts, clips, strict=True)]
    pointers = {**_pointers(f"videos/{key}", places[len(places) - len(clips) :])}
    return pointers | {f"videos/{key}/from_timestamp": starts, f"videos/{key}/to_timestamp": ends}


def _is_steady(path: Path, fps: int) -> bool:
    """Whether frame k of a video is shown at k/fps, so that joining it anew moves no frame."""
    times = probe(path).times
    return bool(np.abs(times - np.arange(len(times)) / fps).max() < 1e-4)


def _lengths(live: LiveDataset) -> list[int]:
    return [int(read_parquet(path, ["length"]).column("length")[0].as_py()) for path in live.files(EPISODES)]


def _write_tables(live: LiveDataset, draft: Path, kind: str, most_rows: int, pointers: _Pointers) -> None:
    """Join the new files of a table of episodes, its columns in `pointers` (a value per episode) replaced."""
    files = live.files(kind)
    place, rows = live.beginning.places[kind], []
    last = _last(live, kind)
    if last and pq.read_metadata(last[1]).num_rows < most_rows and _fits(last[1], files[0]):
        place, rows = last[0], [read_parquet(last[1])]
    for number, path in enumerate(files):
        table = read_parquet(path)
        if rows and sum(map(len, rows)) + len(table) > most_rows:
            _write_table(draft / live.file(kind, place), rows)
            place, rows = live.info.next_file(*place), []
        own = {name: values[number] for name, values in pointers.items()}
        if kind == EPISODES:
            own |= {"meta/episodes/chunk_index": place[0], "meta/episodes/file_index": place[1]}
        for name, value in own.items():
            column = table.schema.get_field_index(name)
            table = table.set_column(column, table.schema.field(column), pa.array([value], table.schema.types[column]))
        rows.append(table)
    _write_table(draft / live.file(kind, place), rows)


def _fits(last: Path, new: Path) -> bool:
    """Whether the rows of `new` can follow those of `last`: columns that they lack will be null."""
    old, own = pq.read_schema(last), pq.read_schema(new)
    return all(name in old.names and old.field(name).type == own.field(name).type for name in own.names)


def _write_table(path: Path, rows: Sequence[pa.Table]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.concat_tables(rows, promote_options="default")
    pq.write_table(table, path, compression="snappy", use_dictionary=True)


def _grouped(places: Sequence[Place], files: Sequence[Path], begun: Path | None) -> Iterator[tuple[Place, list[Path]]]:
    """The files that go into each place; `begun` is in front of them if there is one."""
    items = files if begun is None else [begun, *files]
    for place in dict.fromkeys(places):
        yield place, [item for item, there in zip(items, places, strict=True) if there == place]


def _pointers(kind: str, places: Sequence[Place]) -> _Pointers:
    return {
        f"{kind}/chunk_index": [chunk for chunk, _ in places],
        f"{kind}/file_index": [file for _, file in places],
    }

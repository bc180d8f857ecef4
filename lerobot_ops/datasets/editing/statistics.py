"""Computing a dataset's statistics anew, also those of actions that are relative to the state."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lerobot_ops.artifacts import write_json
from lerobot_ops.datasets.arrays import nested
from lerobot_ops.datasets.editing.numeric import matrix_stats
from lerobot_ops.datasets.editing.quantiles import streamed_quantiles
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.rows import RowReader
from lerobot_ops.datasets.editing.source import Kept, open_source
from lerobot_ops.datasets.editing.write import EditPlan, EditResult, write
from lerobot_ops.datasets.info import INFO_PATH, RELATIVE_ACTIONS_PATH, DatasetInfo, load_info
from lerobot_ops.datasets.statistics import QUANTILE_NAMES, merge_stats
from lerobot_ops.datasets.tables import STATISTICS, column_array, episodes_files, load_stats, write_stats
from lerobot_ops.errors import DatasetError, did_you_mean

ACTION, STATE = "action", "observation.state"
GRIPPER = ("gripper",)
_AT_ONCE = 1 << 22
"""Values that are held at a time, 32 MB of them."""

Parts = Callable[[], Iterator[np.ndarray]]


def recompute_stats(
    source: Path,
    target: Path,
    *,
    skip_image_video: bool = True,
    relative_action: bool = False,
    relative_exclude_joints: Sequence[str] | None = None,
    chunk_size: int = 50,
    dry_run: bool = False,
) -> EditResult | EditPlan:
    """Write the dataset `source` to `target` with statistics of its frames, in `stats.json` and for every episode.

    Cameras keep those that they have unless `skip_image_video` is false; then every frame is decoded, and the counts
    of its pixels are kept in `meta/histograms`. With `relative_action` those of `action` are over all chunks of
    `chunk_size` actions that lie in one episode, minus the state at the chunk's first frame: what a policy learns that
    predicts relative actions. Joints whose name contains one of `relative_exclude_joints` ("gripper", if None) stay
    absolute. An episode that is shorter than a chunk counts for nothing but its own statistics, which are those of the
    one chunk that it is.

    Raises DatasetError when there is no action, no state of its size, or no episode as long as a chunk.
    """
    info = load_info(source)
    mask = relative_mask(source, info, relative_exclude_joints) if relative_action else None
    opened = open_source(source)
    kept = [Kept(opened, number) for number in range(len(opened.rows))]
    if mask is not None and not 1 <= chunk_size <= max(episode.count for episode in kept):
        raise DatasetError(
            "no episode is as long as a chunk",
            file=source,
            field="chunk_size",
            found=chunk_size,
            expected=f"1 to {max(episode.count for episode in kept)}, the frames of the longest episode",
        )

    def finish(root: Path) -> None:
        assert mask is not None
        excluded = list(GRIPPER if relative_exclude_joints is None else relative_exclude_joints)
        _write_relative(root, kept, mask, chunk_size)
        write_json(root / RELATIVE_ACTIONS_PATH, {"exclude_joints": excluded, "chunk_size": chunk_size})

    histograms: Any = "keep" if skip_image_video else "recompute"
    recipe = Recipe(kept, opened.info, histograms=histograms, finish=None if mask is None else finish)
    return write({target: recipe}, dry_run)[0]


def relative_mask(source: Path, info: DatasetInfo, exclude_joints: Sequence[str] | None) -> np.ndarray:
    """float32 [dimensions of the action]: 1 where it is relative to the state, 0 for the excluded joints."""
    for name in (ACTION, STATE):
        if name not in info.features or not info.features[name].is_numeric or len(info.features[name].shape) != 1:
            raise DatasetError(
                "relative actions need an action and a state",
                file=source / INFO_PATH,
                field=name,
                found=", ".join(info.features),
                expected="a vector of numbers",
            )
    size, state = (info.features[name].shape[0] for name in (ACTION, STATE))
    if state < size:
        raise DatasetError(
            "the state has fewer dimensions than the action that is relative to it",
            file=source / INFO_PATH,
            field=STATE,
            found=state,
            expected=f"{size} or more",
        )
    names = _joints(info.features[ACTION].names)[:size]
    words = [word.lower() for word in (GRIPPER if exclude_joints is None else exclude_joints) if word]
    for word in words if exclude_joints is not None and names else ():
        if not any(word in name for name in names):
            fix = did_you_mean(word, names)
            raise DatasetError("no joint has this name", file=source / INFO_PATH, field=ACTION, found=word, fix=fix)
    excluded = [any(word in name for word in words) for name in names]
    return 1 - np.array(excluded + [False] * (size - len(excluded)), np.float32)


def relative_chunks(actions: np.ndarray, states: np.ndarray, mask: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """All chunks of `size` actions in an episode minus the state at their beginning: float32 [chunks * size, dims].

    `actions` [frames, dims], `states` [frames, dims or more]; given in parts, because they are many.
    """
    actions, offsets = actions.astype(np.float32), states[:, : len(mask)].astype(np.float32) * mask
    windows = np.lib.stride_tricks.sliding_window_view(actions, size, axis=0)  # [chunks, dims, size]
    step = max(1, _AT_ONCE // (size * len(mask)))
    for first in range(0, len(windows), step):
        part = windows[first : first + step].transpose(0, 2, 1)
        yield (part - offsets[first : first + len(part), None]).reshape(-1, len(mask))


def _write_relative(root: Path, kept: Sequence[Kept], mask: np.ndarray, chunk_size: int) -> None:
    """Put the statistics of relative actions where those of the actions are."""
    reader = RowReader()

    def chunks(episode: Kept) -> Iterator[np.ndarray]:
        rows, features = reader.read(episode, [ACTION, STATE]), episode.source.info.features
        actions, states = (column_array(rows.column(name), features[name]) for name in (ACTION, STATE))
        yield from relative_chunks(actions, states, mask, min(chunk_size, episode.count))

    def everything() -> Iterator[np.ndarray]:
        for episode in kept:
            if episode.count >= chunk_size:
                yield from chunks(episode)

    episodes = []
    for episode in kept:
        size = min(chunk_size, episode.count)
        count = (episode.count - size + 1) * size
        episodes.append(_stats(lambda episode=episode: chunks(episode), count * len(mask)))  # type: ignore[misc]
    whole = [stats for stats, episode in zip(episodes, kept, strict=True) if episode.count >= chunk_size]
    overall = _stats(everything, sum(int(stats["count"][0]) for stats in whole) * len(mask))
    write_stats(root, load_stats(root) | {ACTION: overall})
    first = 0
    for path in episodes_files(root):
        first += _replace(path, episodes[first:])


def _stats(read: Parts, values: int) -> dict[str, np.ndarray]:
    """Statistics of the rows that `read` gives, which are `values` numbers in all; each [dims], but for count [1]."""
    if values <= _AT_ONCE:
        return matrix_stats(np.concatenate(list(read())).T.astype(np.float64))
    merged: dict[str, np.ndarray] = {}
    for part in read():
        rows = part.astype(np.float64)
        own = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
        own["count"] = np.array([len(rows)])
        merged = merge_stats([merged, own]) if merged else own
    return merged | dict(zip(QUANTILE_NAMES, streamed_quantiles(read), strict=True))


def _replace(path: Path, episodes: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Put the statistics of the action into a file of the episodes table; return how many episodes it has."""
    with pq.ParquetFile(path) as file:
        table, groups = file.read(), file.metadata.row_group(0).num_rows
    for name in STATISTICS:
        column = nested(np.stack([stats[name] for stats in itertools.islice(episodes, table.num_rows)]))
        place = table.column_names.index(f"stats/{ACTION}/{name}")
        table = table.set_column(place, table.column_names[place], column)
    pq.write_table(table, path, row_group_size=groups, compression="snappy", use_dictionary=True)
    return int(table.num_rows)


def _joints(names: object) -> list[str]:
    """The names of a vector's dimensions in lower case; some datasets keep them in groups."""
    if isinstance(names, Mapping):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return [str(name).lower() for name in names] if isinstance(names, list) else []

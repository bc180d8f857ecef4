"""Reading a LeRobotDataset v3.0 from the Hub, or a disk, from one end to the other without downloading it first.

Only `meta/` is fetched whole. Of the data and video files the byte ranges of the episodes at hand are, and an item is
decoded when it is handed out. Items are those of `reader.LeRobotDataset`, windows and padding included.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from lerobot_ops.datasets.info import DatasetInfo, Feature, load_info
from lerobot_ops.datasets.remote import Repository, fetch_meta, lerobot_home, repository_at
from lerobot_ops.datasets.stream_episode import Clip, Item, ItemFormat, StreamedEpisode
from lerobot_ops.datasets.stream_files import StreamFiles
from lerobot_ops.datasets.tables import Stats, load_episodes, load_stats, load_tasks
from lerobot_ops.errors import DatasetError, did_you_mean

_OPEN_GROUPS = 4
"""So many groups of episodes, each in files of its own, are read in turn: mixed well with few files open."""


class StreamingLeRobotDataset(IterableDataset[Item]):
    """The frames of a dataset in one pass, each exactly once, shared out over processes and workers.

    `place` is a directory or OWNER/NAME[@REVISION] on the Hub. With `shuffle` the episodes come in random order and
    their frames are mixed over at least `buffer_size` of them; only rows wait there, frames are decoded when they are
    handed out. The order depends on `seed`, the epoch (see `set_epoch`) and the number of workers alone. Every worker
    of a DataLoader and every rank of torch.distributed gets its own share, to a frame of the same size. The other
    options are those of `reader.LeRobotDataset`. Raises DatasetError, or PrerequisiteError when the Hub does not give.
    """

    def __init__(
        self,
        place: Path | str,
        *,
        revision: str | None = None,
        episodes: Iterable[int] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        image_transforms: Callable[[torch.Tensor], torch.Tensor] | None = None,
        return_uint8: bool = False,
        shuffle: bool = True,
        buffer_size: int = 1000,
        seed: int = 42,
    ) -> None:
        self.root, self._repository = _meta_of(place, revision)
        self.info: DatasetInfo = load_info(self.root)
        self.fps: int = self.info.fps
        self.features: dict[str, Feature] = self.info.features
        self.tasks: list[str] = load_tasks(self.root)
        self._table = _episode_table(self.root, self.info)
        self.episodes: np.ndarray = _chosen(episodes, len(self._table["length"]), self.root)
        """int64[E]: the episodes of this view, ascending."""
        deltas = _delta_frames(delta_timestamps or {}, self.info, tolerance_s)
        self._format = ItemFormat(self.info, self.tasks, deltas, tolerance_s, return_uint8, image_transforms)
        self._shuffle, self._buffer_size, self._seed = shuffle, buffer_size, seed
        # Shared with the workers of a DataLoader, which may outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._rank = _rank_of_process()

    @property
    def num_frames(self) -> int:
        """Of all processes."""
        return int(self._table["length"][self.episodes].sum())

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    @cached_property
    def stats(self) -> Stats:
        """Feature -> statistic -> array, over the whole dataset; empty when the dataset has none."""
        return load_stats(self.root)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass, also for workers that are running already."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """The frames of this process."""
        begin, end = _share(0, self.num_frames, *self._current_rank())
        return end - begin

    def __iter__(self) -> Iterator[Item]:
        begin, end = _share(0, self.num_frames, *self._current_rank())
        worker = get_worker_info()
        if worker is not None:
            begin, end = _share(begin, end, worker.id, worker.num_workers)
        cameras = max(1, len(self.info.video_keys))
        files = StreamFiles(self.root, self._repository, open_videos=(_OPEN_GROUPS + 2) * cameras)
        try:
            yield from self._items(files, begin, end)
        finally:
            files.close()

    def _items(self, files: StreamFiles, begin: int, end: int) -> Iterator[Item]:
        """The items of frames `begin` to `end` of this epoch's order of episodes."""
        random = np.random.default_rng([self._seed, int(self._epoch)])
        order = self._mixed(random) if self._shuffle else self.episodes
        pieces = _pieces(order, self._table["length"], begin, end)
        if not self._shuffle:
            for piece in pieces:
                episode = self._load(files, piece.episode)
                yield from (episode.item(row) for row in range(piece.begin, piece.end))
            return
        random = np.random.default_rng([self._seed, int(self._epoch), begin])
        for block in _blocks(pieces, self._buffer_size):
            loaded = [self._load(files, piece.episode) for piece in block]
            rows = [(episode, row) for episode, piece in enumerate(block) for row in range(piece.begin, piece.end)]
            for place in random.permutation(len(rows)):
                episode, row = rows[place]
                yield loaded[episode].item(row)

    def _mixed(self, random: np.random.Generator) -> np.ndarray:
        """The episodes in random order, such that neighbours lie in few files."""
        names = ["data/chunk_index", "data/file_index"]
        names += [
            f"videos/{key}/{field}" for key in self.info.video_keys[:1] for field in ("chunk_index", "file_index")
        ]
        files = np.stack([self._table[name][self.episodes] for name in names], axis=1)
        _, group = np.unique(files, axis=0, return_inverse=True)
        groups = [random.permutation(self.episodes[group.ravel() == number]) for number in range(group.max() + 1)]
        waiting = [groups[number].tolist() for number in random.permutation(len(groups))]
        order: list[int] = []
        while waiting:
            sizes = np.array([len(rest) for rest in waiting[:_OPEN_GROUPS]])
            chosen = int(random.choice(len(sizes), p=sizes / sizes.sum()))
            order.append(waiting[chosen].pop())
            if not waiting[chosen]:
                del waiting[chosen]
        return np.array(order)

    def _load(self, files: StreamFiles, episode: int) -> StreamedEpisode:
        row = {name: values[episode] for name, values in self._table.items()}
        path = self.info.data_file(int(row["data/chunk_index"]), int(row["data/file_index"]))
        begin, length = int(row["row"]), int(row["length"])
        table = files.rows(path, [*self.info.columns], begin, begin + length)
        clips = {
            key: Clip(
                self.info.video_file(key, int(row[f"videos/{key}/chunk_index"]), int(row[f"videos/{key}/file_index"])),
                float(row[f"videos/{key}/from_timestamp"]),
            )
            for key in self.info.video_keys
        }
        return StreamedEpisode(files, self._format, table, clips)

    def _current_rank(self) -> tuple[int, int]:
        """This process's place among those that train together; a DataLoader's worker has its parent's."""
        found = _rank_of_process()
        return self._rank if found == (0, 1) and get_worker_info() is not None else found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rank": self._current_rank()}


def _share(begin: int, end: int, part: int, parts: int) -> tuple[int, int]:
    """One of `parts` shares of the frames `begin` to `end`; they differ by one frame at most."""
    return begin + (end - begin) * part // parts, begin + (end - begin) * (part + 1) // parts


class _Piece(NamedTuple):
    """Frames `begin` to `end` of an episode."""

    episode: int
    begin: int
    end: int


def _pieces(order: Sequence[int] | np.ndarray, lengths: np.ndarray, begin: int, end: int) -> Iterator[_Piece]:
    """What lies between frames `begin` and `end` when the episodes stand in `order`."""
    start = 0
    for episode in order:
        length = int(lengths[episode])
        first, last = max(begin - start, 0), min(end - start, length)
        if first < last:
            yield _Piece(int(episode), first, last)
        start += length


def _blocks(pieces: Iterable[_Piece], size: int) -> Iterator[list[_Piece]]:
    """Pieces of at least `size` frames together."""
    block: list[_Piece] = []
    frames = 0
    for piece in pieces:
        block.append(piece)
        frames += piece.end - piece.begin
        if frames >= size:
            yield block
            block, frames = [], 0
    if block:
        yield block


def _meta_of(place: Path | str, revision: str | None) -> tuple[Path, Repository | None]:
    """The directory of `meta/`, and the repository, at its commit, when the rest is there."""
    repository = repository_at(place, revision)
    if repository is None:
        return Path(place), None
    if repository.revision is None and (lerobot_home() / repository.name / "meta/info.json").is_file():
        return lerobot_home() / repository.name, None
    root = fetch_meta(repository)
    return root, Repository(repository.name, root.name)


def _episode_table(root: Path, info: DatasetInfo) -> dict[str, np.ndarray]:
    """The columns of the episodes table that streaming needs, and `row`: where an episode begins in its data file."""
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index"]
    fields = ("chunk_index", "file_index", "from_timestamp")
    names += [f"videos/{key}/{field}" for key in info.video_keys for field in fields]
    table = load_episodes(root, names)
    columns = {name: table.column(name).to_numpy() for name in names}
    length = columns["dataset_to_index"] - columns["dataset_from_index"]
    if not np.array_equal(columns["episode_index"], np.arange(table.num_rows)) or (length != columns["length"]).any():
        raise DatasetError(
            "the episodes table is not in order, or its lengths and row ranges disagree",
            file=root / "meta/episodes",
            fix="validate the dataset to see which episodes are wrong",
        )
    places = np.stack([columns["data/chunk_index"], columns["data/file_index"]], axis=1)
    _, first, file = np.unique(places, axis=0, return_index=True, return_inverse=True)
    columns["row"] = columns["dataset_from_index"] - columns["dataset_from_index"][first][file.ravel()]
    return columns


def _chosen(episodes: Iterable[int] | None, total: int, root: Path) -> np.ndarray:
    if episodes is None:
        return np.arange(total)
    chosen = np.unique(np.fromiter(episodes, dtype=np.int64))
    wrong = chosen[(chosen < 0) | (chosen >= total)]
    if len(wrong) or not len(chosen):
        raise DatasetError(
            "the dataset has no such episode" if len(wrong) else "no episode is chosen",
            file=root,
            field="episodes",
            found=wrong.tolist(),
            expected=f"0 to {total - 1}",
        )
    return chosen


def _delta_frames(
    deltas: Mapping[str, Sequence[float]], info: DatasetInfo, tolerance_s: float
) -> dict[str, np.ndarray]:
    """Delta timestamps as numbers of frames; raises DatasetError when they do not fall on frames."""
    found: dict[str, np.ndarray] = {}
    for name, times in deltas.items():
        if name not in info.features:
            raise DatasetError(
                "delta timestamps for an unknown feature", field=name, fix=did_you_mean(name, info.features)
            )
        frames = np.asarray(times, np.float64) * info.fps
        if not len(frames) or (np.abs(frames - np.round(frames)) / info.fps > tolerance_s).any():
            raise DatasetError(
                "delta timestamps do not fall on frames",
                field=name,
                found=list(times),
                expected=f"multiples of 1/{info.fps} s, within {tolerance_s:g} s",
            )
        found[name] = np.round(frames).astype(np.int64)
    return found


def _rank_of_process() -> tuple[int, int]:
    """(rank, ranks) of torch.distributed, or (0, 1)."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()

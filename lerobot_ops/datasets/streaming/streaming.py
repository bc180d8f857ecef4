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

from lerobot_ops.datasets.cameras import VideoCamera, in_unit
from lerobot_ops.datasets.info import DatasetInfo, Feature, load_info
from lerobot_ops.datasets.remote import Repository, fetch_meta, lerobot_home, repository_at
from lerobot_ops.datasets.streaming.episode import Item, ItemFormat, StreamedEpisode
from lerobot_ops.datasets.streaming.files import StreamFiles
from lerobot_ops.datasets.tables import Stats, load_stats, load_tasks
from lerobot_ops.datasets.videos.depth import Unit
from lerobot_ops.datasets.view import EpisodeFilter, View, delta_indices, view_of
from lerobot_ops.errors import DatasetError

_MADE_AT_ONCE = 32
"""Items that are made in the order of their frames, then handed out in theirs: a video is decoded forwards only."""
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
        episode_filter: EpisodeFilter | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        image_transforms: Callable[[torch.Tensor], torch.Tensor] | None = None,
        return_uint8: bool = False,
        depth_output_unit: Unit = "mm",
        shuffle: bool = True,
        buffer_size: int = 1000,
        seed: int = 42,
    ) -> None:
        self.root, self._repository = _meta_of(place, revision)
        self.info: DatasetInfo = load_info(self.root)
        self.fps: int = self.info.fps
        self.features: dict[str, Feature] = self.info.features
        self.tasks: list[str] = load_tasks(self.root)
        self._view: View = view_of(self.root, self.info, episodes, episode_filter)
        self.episodes: np.ndarray = self._view.episodes
        """int64[E]: the episodes of this view, ascending."""
        self._row_in_file = _rows_in_files(self._view.table)
        self._format = ItemFormat(
            info=self.info,
            tasks=self.tasks,
            deltas=delta_indices(delta_timestamps or {}, self.info, tolerance_s),
            tolerance_s=tolerance_s,
            return_uint8=return_uint8,
            depth_output_unit=depth_output_unit,
            image_transforms=image_transforms,
        )
        self._shuffle, self._buffer_size, self._seed = shuffle, buffer_size, seed
        # Shared with the workers of a DataLoader, which may outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._rank = _rank_of_process()

    @property
    def num_frames(self) -> int:
        """Of all processes."""
        return self._view.frames

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    @cached_property
    def stats(self) -> Stats:
        """Feature -> statistic -> array, over the whole dataset; empty when the dataset has none."""
        stats, unit = load_stats(self.root), self._format.depth_output_unit
        for name, feature in self.features.items():
            if feature.is_depth and name in stats:
                values = {key: in_unit(value, feature, unit) for key, value in stats[name].items() if key != "count"}
                stats[name] |= values
        return stats

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
        files = StreamFiles(self.root, self._repository)
        try:
            with files.errors():
                yield from self._items(files, begin, end)
        finally:
            files.close()

    def _items(self, files: StreamFiles, begin: int, end: int) -> Iterator[Item]:
        """The items of frames `begin` to `end` of this epoch's order of episodes."""
        made, random = self._format, np.random.default_rng([self._seed, int(self._epoch)])
        order = self._mixed(random) if self._shuffle else self.episodes
        cameras = {
            key: VideoCamera(
                self._view, key, self.features[key], made.tolerance_s, made.depth_output_unit, files.decoder
            )
            for key in self.info.video_keys
        }
        pieces = _pieces(order, self._view.table["length"], begin, end)
        if not self._shuffle:
            for piece in pieces:
                episode = self._load(files, cameras, piece.episode)
                yield from (episode.item(row) for row in range(piece.begin, piece.end))
            return
        random = np.random.default_rng([self._seed, int(self._epoch), begin])
        for block in _blocks(pieces, self._buffer_size):
            files.make_room(self._videos_of([piece.episode for piece in block]))
            yield from _shuffled([(self._load(files, cameras, piece.episode), piece) for piece in block], random)

    def _mixed(self, random: np.random.Generator) -> np.ndarray:
        """The episodes in random order, such that neighbours lie in few files."""
        names = ["data/chunk_index", "data/file_index"]
        names += [
            f"videos/{key}/{field}" for key in self.info.video_keys[:1] for field in ("chunk_index", "file_index")
        ]
        files = np.stack([self._view.table[name][self.episodes] for name in names], axis=1)
        _, group = np.unique(files, axis=0, return_inverse=True)
        groups = [random.permutation(self.episodes[group.ravel() == number]) for number in range(group.max() + 1)]
        waiting = [groups[number].tolist() for number in random.permutation(len(groups))]
        order: list[int] = []
        for draw in random.random(len(self.episodes)).tolist():
            place = draw * sum(map(len, waiting[:_OPEN_GROUPS]))
            chosen = 0
            while chosen + 1 < len(waiting[:_OPEN_GROUPS]) and place >= len(waiting[chosen]):
                place -= len(waiting[chosen])
                chosen += 1
            order.append(waiting[chosen].pop())
            if not waiting[chosen]:
                del waiting[chosen]
        return np.array(order)

    def _videos_of(self, episodes: list[int]) -> int:
        """How many video files these episodes lie in."""
        fields = ("chunk_index", "file_index")
        return sum(
            len({*zip(*(self._view.table[f"videos/{key}/{field}"][episodes] for field in fields), strict=True)})
            for key in self.info.video_keys
        )

    def _load(self, files: StreamFiles, cameras: Mapping[str, VideoCamera], episode: int) -> StreamedEpisode:
        table = self._view.table
        path = self.info.data_file(*(int(table[f"data/{field}"][episode]) for field in ("chunk_index", "file_index")))
        begin, length = int(self._row_in_file[episode]), int(table["length"][episode])
        rows = files.rows(self.root / path, [*self.info.columns], begin, begin + length)
        if length and rows.column("index")[0].as_py() != table["dataset_from_index"][episode]:
            raise DatasetError(
                "the frames of an episode are not where its data file should have them",
                file=self.root / path,
                field="index",
                found=f"{rows.column('index')[0]} at row {begin}",
                expected=f"{table['dataset_from_index'][episode]}",
                fix="validate the dataset: the data and the episodes table disagree",
            )
        view = View(self.root, self.info, table, np.array([episode]), np.array([0]), np.array([length]))
        first = int(self._view.first[np.searchsorted(self.episodes, episode)])
        videos = {
            name: lambda rows, scaled, camera=camera: camera.read(first + rows, scaled=scaled)
            for name, camera in cameras.items()
        }
        return StreamedEpisode(self._format, view, rows, videos)

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


def _shuffled(block: list[tuple[StreamedEpisode, _Piece]], random: np.random.Generator) -> Iterator[Item]:
    """The items of a block in random order."""
    rows = [(episode, row) for episode, piece in block for row in range(piece.begin, piece.end)]
    places = random.permutation(len(rows)).tolist()
    for start in range(0, len(rows), _MADE_AT_ONCE):
        chosen = places[start : start + _MADE_AT_ONCE]
        items = {place: rows[place][0].item(rows[place][1]) for place in sorted(chosen)}
        yield from map(items.__getitem__, chosen)


def _meta_of(place: Path | str, revision: str | None) -> tuple[Path, Repository | None]:
    """The directory of `meta/`, and the repository, at its commit, when the rest is there."""
    repository = repository_at(place, revision)
    if repository is None:
        return Path(place), None
    if repository.revision is None and (lerobot_home() / repository.name / "meta/info.json").is_file():
        return lerobot_home() / repository.name, None
    root = fetch_meta(repository)
    return root, Repository(repository.name, root.name)


def _rows_in_files(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """int64[E]: the row in its data file at which each episode of the dataset begins."""
    places = np.stack([table["data/chunk_index"], table["data/file_index"]], axis=1)
    _, first, file = np.unique(places, axis=0, return_index=True, return_inverse=True)
    begins: np.ndarray = table["dataset_from_index"] - table["dataset_from_index"][first][file.reshape(-1)]
    return begins


def _rank_of_process() -> tuple[int, int]:
    """(rank, ranks) of torch.distributed, or (0, 1)."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()

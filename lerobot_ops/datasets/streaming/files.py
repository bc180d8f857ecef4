"""The files of a dataset that is streamed: only the byte ranges that are read are fetched, and each of them once.

A remote file is read through fsspec into a sparse temporary file, block by block; it goes when the file is closed.
Only a few files are open at a time, so that neither memory nor disk grows with the dataset.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.remote import Repository
from lerobot_ops.datasets.videos.decoder import Decoder
from lerobot_ops.errors import DatasetError

T = TypeVar("T")

BLOCK = 1 << 20
"""Bytes that are fetched at once at least: a clip of some seconds, or an episode's rows."""
_OPEN_TABLES = 6
_OPEN_VIDEOS, _MOST_OPEN_VIDEOS = 12, 256


class StreamFiles:
    """The data and video files of one dataset, on disk or on the Hub; for one thread of one process."""

    def __init__(self, root: Path, repository: Repository | None) -> None:
        self._root, self._repository = root, repository
        self._file_system: Any = None
        self._tables: _Open[_Table] = _Open(_OPEN_TABLES, self._open_table)
        self._videos: _Open[Decoder] = _Open(_OPEN_VIDEOS, self._open_video)

    def rows(self, path: Path, columns: Sequence[str], begin: int, end: int) -> pa.Table:
        """Rows `begin` to `end` of a data file."""
        return self._tables[path].rows(columns, begin, end)

    def make_room(self, videos: int) -> None:
        """Keep so many videos open: those whose frames are wanted in turn."""
        self._videos.most = min(max(videos, _OPEN_VIDEOS), _MOST_OPEN_VIDEOS)

    def decoder(self, path: Path) -> Decoder:
        """The decoder of a video file, open until others take its place."""
        return self._videos[path]

    def close(self) -> None:
        self._tables.close()
        self._videos.close()

    def _open_table(self, path: Path) -> "_Table":
        return _Table(path, self._remote(path))

    def _open_video(self, path: Path) -> Decoder:
        return Decoder(path, self._remote(path))

    def _remote(self, path: Path) -> Any:
        """The open file on the Hub, or none when it is on disk."""
        if self._repository is None or path.exists():
            return None
        inside = path.relative_to(self._root).as_posix()
        if self._file_system is None:
            from huggingface_hub import HfFileSystem

            self._file_system = HfFileSystem()
        place = f"datasets/{self._repository.name}@{self._repository.revision}/{inside}"
        try:
            return self._file_system.open(place, "rb", block_size=BLOCK, cache_type="mmap")
        except FileNotFoundError:
            raise DatasetError(
                "a file of the dataset is missing on the Hub",
                file=f"{self._repository.name}/{inside}",
                fix="validate the dataset: the episodes table points at a file that is not there",
            ) from None

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Inside of it, what goes wrong with the Hub is raised as an error that says what to do."""
        if self._repository is None:
            yield
            return
        from lerobot_ops.hub.connection import hub_errors

        with hub_errors(self._repository.name, "stream the dataset", self._repository.revision):
            yield


class _Open(Generic[T]):
    """The files that were used last, at most so many."""

    def __init__(self, most: int, opened: Callable[[Path], T]) -> None:
        self.most, self._opened = most, opened
        self._files: OrderedDict[Path, T] = OrderedDict()

    def __getitem__(self, path: Path) -> T:
        if path not in self._files:
            while len(self._files) >= self.most:
                _close(self._files.popitem(last=False)[1])
            self._files[path] = self._opened(path)
        self._files.move_to_end(path)
        return self._files[path]

    def close(self) -> None:
        while self._files:
            _close(self._files.popitem()[1])


def _close(file: Any) -> None:
    file.close()


class _Table:
    """An open parquet file, and the row groups that were read last when they hold more than was asked for."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._remote = path, file
        try:
            self._file = pq.ParquetFile(file or path, pre_buffer=True)
        except FileNotFoundError:
            raise DatasetError("a file of the dataset is missing", file=path) from None
        except pa.ArrowException as error:
            raise DatasetError(
                "a file of the dataset cannot be read", file=path, found=str(error), expected="a parquet file"
            ) from None
        about = self._file.metadata
        self._ends = np.cumsum([about.row_group(number).num_rows for number in range(about.num_row_groups)])
        self._kept: tuple[range, pa.Table] | None = None

    def rows(self, columns: Sequence[str], begin: int, end: int) -> pa.Table:
        if not len(self._ends) or end > self._ends[-1]:
            raise DatasetError(
                "the data files have fewer frames than the episodes table",
                file=self._path,
                found=f"{self._ends[-1] if len(self._ends) else 0} rows",
                expected=f"{end} rows",
            )
        lacking = [name for name in columns if name not in self._file.schema_arrow.names]
        if lacking:
            raise DatasetError("a table lacks a column", file=self._path, field=lacking[0])
        first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (begin, end - 1))
        groups = range(first, last + 1)
        start = int(self._ends[first - 1]) if first else 0
        if self._kept is None or self._kept[0] != groups:
            self._kept = None
            self._kept = (groups, self._file.read_row_groups([*groups], columns=[*columns]))
        table = self._kept[1]
        if table.num_rows == end - begin:
            self._kept = None
        return table.slice(begin - start, end - begin)

    def close(self) -> None:
        self._file.close()
        if self._remote is not None:
            self._remote.close()

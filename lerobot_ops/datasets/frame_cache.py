"""Decoded frames of a dataset's cameras, kept on disk: read at the speed of memory, and shared by all processes.

A cache is a directory of its content's name with one npy file per camera, [frames, channels, height, width]. It is
written beside and renamed, so what is there is whole, and it can be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lerobot_ops.artifacts import staged
from lerobot_ops.config import content_key
from lerobot_ops.datasets.cameras import Camera, Empty, put
from lerobot_ops.datasets.info import STATS_PATH, DatasetInfo, Feature
from lerobot_ops.datasets.tables import data_files
from lerobot_ops.datasets.view import View
from lerobot_ops.errors import ArtifactError, DatasetError

logger = logging.getLogger(__name__)

FORMAT = 1
_AT_ONCE = 32
"""Frames that a thread decodes before it writes them."""


@dataclass(frozen=True)
class FrameCache:
    """Where decoded frames are kept, and their size.

    Frames of the chosen episodes are decoded once, when a dataset is opened with this, and equal what decoding gives
    unless there is a `size`. A frame takes channels * height * width bytes: 0.7 MB for 480x480, so 1.5 million frames
    a terabyte. The need is logged first, and ArtifactError raised where the disk lacks it.
    """

    path: Path | str | None = None
    """The directory of all caches; by default `lerobot-ops/frames` in the user's own cache directory."""
    size: tuple[int, int] | None = None
    """(height, width) to resize to: Pillow's bilinear filter with antialiasing; depth takes the nearest pixel."""

    def through(self, view: View, cameras: Mapping[str, Camera]) -> tuple[DatasetInfo, dict[str, Camera]]:
        """The info and cameras of a view as they are behind this cache, which is filled when it is not yet."""
        features = {name: _resized(view.info.features[name], self.size) for name in cameras}
        key = _key(view, features)
        target = self._home() / key[:32]
        with _alone(target):
            if not target.exists():
                self._fill(target, key, view, cameras, features)
        cached: dict[str, Camera] = {}
        for name, source in cameras.items():
            cached[name] = CachedCamera(target / f"{name}.npy", source)
        if self.size is None:
            return view.info, cached
        return view.info.model_copy(update={"features": view.info.features | features}), cached

    def _home(self) -> Path:
        if self.path is not None:
            return Path(self.path)
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lerobot-ops" / "frames"

    def _fill(
        self, target: Path, key: str, view: View, cameras: Mapping[str, Camera], features: Mapping[str, Feature]
    ) -> None:
        first = {name: source.stored(np.array([0])) for name, source in cameras.items()}
        shapes = {
            name: (view.frames, frames.shape[1], *(self.size or frames.shape[2:])) for name, frames in first.items()
        }
        need = sum(int(np.prod(shapes[name])) * first[name].itemsize for name in cameras)
        _check_room(target.parent, need)
        logger.info(
            "decoding %d frames of %d camera(s) into %s: %.2f GB", view.frames, len(cameras), target, need / 1e9
        )
        with staged(target, key) as partial_target, _empty_on_error(partial_target):
            work = []
            for name, source in cameras.items():
                array = _allocate(partial_target / f"{name}.npy", first[name].dtype, shapes[name])
                episodes = zip(view.first.tolist(), view.end.tolist(), strict=True)
                work += [partial(_copy, source, array, begin, end, self.size, view.root) for begin, end in episodes]
            _run(work, view.frames * len(cameras), f"decoding {need / 1e9:.2f} GB")


class CachedCamera:
    """A camera whose frames are in a file of decoded ones; what they stand for is the `source`'s affair."""

    def __init__(self, file: Path, source: Camera) -> None:
        self._file, self._source = file, source
        self._mapped: np.ndarray | None = None

    def read(self, rows: np.ndarray, *, scaled: bool = False, empty: Empty = np.empty) -> np.ndarray:
        frames = self._frames()
        if frames.dtype != np.uint8:
            return self._source.distances(frames[rows])
        found = empty((len(rows), *frames.shape[1:]), np.dtype(np.float32 if scaled else np.uint8))
        for row, target in zip(rows, found, strict=True):
            put(frames[row], target, self._file)
        return found

    def stored(self, rows: np.ndarray) -> np.ndarray:
        return self._frames()[rows]

    def distances(self, stored: np.ndarray) -> np.ndarray:
        return self._source.distances(stored)

    def _frames(self) -> np.ndarray:
        if self._mapped is None:
            try:
                # A plain array over the mapping: the subclass makes every index several times as slow.
                self._mapped = np.asarray(np.load(self._file, mmap_mode="r"))
            except FileNotFoundError:
                raise ArtifactError(
                    "the cache of decoded frames was deleted", file=self._file, fix="open the dataset again"
                ) from None
        return self._mapped

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the same file."""
        return self.__dict__ | {"_mapped": None}


def _key(view: View, features: Mapping[str, Feature]) -> str:
    """A name of what is decoded: the episodes' places, the files' names and sizes, and the cameras' statistics."""
    places = hashlib.sha256(view.episodes.tobytes())
    for name in sorted(view.table):
        places.update(name.encode() + view.table[name].tobytes())
    stats = view.root / STATS_PATH
    places.update(stats.read_bytes() if stats.exists() else b"")
    files = [(str(file.relative_to(view.root)), file.stat().st_size) for file in _files(view, features)]
    cameras = {name: feature.entry() for name, feature in features.items()}
    return content_key("decoded frames", FORMAT, view.info.fps, cameras, places.hexdigest(), files)


def _files(view: View, features: Mapping[str, Feature]) -> list[Path]:
    found: list[Path] = []
    for name, feature in features.items():
        if feature.dtype == "image":
            found += data_files(view.root)
            continue
        columns = [view.table[f"videos/{name}/{field}"][view.episodes] for field in ("chunk_index", "file_index")]
        pointers = sorted(set(zip(*(column.tolist() for column in columns), strict=True)))
        found += [view.root / view.info.video_file(name, *pointer) for pointer in pointers]
    return [file for file in dict.fromkeys(found) if file.exists()]


def _resized(feature: Feature, size: tuple[int, int] | None) -> Feature:
    if size is None:
        return feature
    names = ["height", "width", "channels"]
    return feature.model_copy(update={"shape": (*size, feature.size[2]), "names": names})


def _check_room(folder: Path, need: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ArtifactError(
            "the disk lacks room for the decoded frames",
            file=folder,
            found=f"{free / 1e9:.2f} GB free",
            expected=f"{need / 1e9:.2f} GB",
            fix="choose fewer episodes, a smaller size, or another path for the cache",
        )


def _allocate(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """A new npy file of this shape. Its room is taken at once, for a mapped file cannot say that the disk is full."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    with open(file, "rb+") as opened:
        os.posix_fallocate(opened.fileno(), 0, os.fstat(opened.fileno()).st_size)
    return np.asarray(array)


def _copy(source: Camera, target: np.ndarray, begin: int, end: int, size: tuple[int, int] | None, root: Path) -> int:
    for start in range(begin, end, _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, end))
        frames = source.stored(rows)
        frames = frames if size is None else np.stack([_resize(frame, size) for frame in frames])
        if frames.shape[1:] != target.shape[1:]:
            raise DatasetError(
                "a camera's frames have different sizes", file=root, found=frames.shape[1:], expected=target.shape[1:]
            )
        target[rows[0] : rows[-1] + 1] = frames
    return end - begin


def _resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = frame.shape[1:]
    if frame.dtype != np.uint8:  # between two distances there may be nothing
        down, across = ((np.arange(new) * old) // new for new, old in zip(size, (height, width), strict=True))
        return frame[:, down[:, None], across]
    from PIL import Image

    channels = [Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.BILINEAR) for channel in frame]
    return np.stack([np.asarray(channel) for channel in channels])


def _run(work: list[Any], total: int, title: str) -> None:
    bar = tqdm(total=total, desc=title, unit="frame", disable=None, leave=False)
    with bar, ThreadPoolExecutor(os.cpu_count(), "decode") as pool:
        pending = [pool.submit(job) for job in work]
        try:
            for future in pending:
                bar.update(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _empty_on_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for file in folder.iterdir():
            file.unlink()
        raise


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Only one process at a time is in this block for `target`; the others wait for what it makes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

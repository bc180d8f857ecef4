"""Writing a LeRobotDataset v3.0 episode by episode, so that a crash loses at most the episodes being recorded.

Each finished episode is a directory of its own, on disk before `episode` returns. `finalize` joins them in the order
of their indices into the dataset and renames it into place; the result depends on the frames and nothing else.
"""

import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lerobot_ops.artifacts import fsync_directory, fsync_tree, staged
from lerobot_ops.config import content_key
from lerobot_ops.datasets.encoding import VideoEncoding
from lerobot_ops.datasets.episode import EpisodeWriter
from lerobot_ops.datasets.info import VIDEO_PATH, Feature, make_info, with_defaults
from lerobot_ops.datasets.joining import join_episodes
from lerobot_ops.errors import ArtifactError, DatasetError

_EPISODES = ".episodes"


class DatasetWriter:
    """Records episodes and joins them into the dataset `root`, which does not exist before `finalize`.

    `features` are the user's, as LeRobot's entries or `Feature`s; the default features are added. With a `key` (see
    `config.content_key`) a writer that is made again for the same root, key and features finds in `saved` the episodes
    that an interrupted one had finished; without it an error removes everything. Threads may record different episodes
    at once. As a context manager it finalises on a normal exit.

    Raises ArtifactError when `root` exists or is being written, DatasetError for a bad feature.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        fps: int,
        features: Mapping[str, Feature | Mapping[str, Any]],
        robot_type: str | None = None,
        video: VideoEncoding | None = None,
        key: str | None = None,
        chunks_size: int = 1000,
        data_files_size_in_mb: int = 100,
        video_files_size_in_mb: int = 200,
    ) -> None:
        self.root = Path(os.path.abspath(root))
        self.video = video or VideoEncoding()
        made = with_defaults(features)
        has_video = any(feature.dtype == "video" for feature in made.values())
        self.info = make_info(
            fps=fps,
            features=made,
            chunks_size=chunks_size,
            data_files_size_in_mb=data_files_size_in_mb,
            video_files_size_in_mb=video_files_size_in_mb,
            video_path=VIDEO_PATH if has_video else None,
            robot_type=robot_type,
        )
        _check_writable(made)
        self._key = None if key is None else content_key(key, self.info.entry(), self.video)
        self._stack = contextlib.ExitStack()
        self._partial = self._stack.enter_context(staged(self.root, self._key))
        # Where the episodes wait while the joined dataset is renamed; a crash in between brings them back from there.
        self._aside = self._partial.with_name(f"{self._partial.name}.episodes")
        self._episodes = self._partial / _EPISODES
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._finalized = False
        self._saved = self._recover()

    @property
    def saved(self) -> set[int]:
        """The indices of the episodes that are safely on disk, those of an interrupted writer included."""
        with self._lock:
            return set(self._saved)

    @contextlib.contextmanager
    def episode(self, index: int) -> Iterator[EpisodeWriter]:
        """Record one episode: it is durable when the block ends, and gone if the block raises or calls `discard`.

        Indices order the episodes and may have gaps; in the dataset they are numbered from 0. Raises DatasetError when
        the episode is saved already, is open in another thread, or has no frames.
        """
        with self._lock:
            if self._finalized:
                raise DatasetError("the dataset is finalised; it takes no more episodes", file=self.root)
            if index < 0 or index in self._saved or index in self._open:
                state = "negative" if index < 0 else "saved already" if index in self._saved else "being recorded"
                raise DatasetError(
                    "an episode cannot be recorded", file=self.root, field=f"episode {index}", found=state
                )
            self._open.add(index)
        folder = self._episodes / f".{index:06d}.partial-{uuid.uuid4().hex[:12]}"
        try:
            folder.mkdir(parents=True)
            with EpisodeWriter(folder, self.info, self.video) as episode:
                yield episode
            if not episode.discarded:
                fsync_tree(folder)
                os.rename(folder, self._episodes / f"{index:06d}")
                fsync_directory(self._episodes)
                with self._lock:
                    self._saved.add(index)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self._lock:
                self._open.discard(index)

    def finalize(self) -> Path:
        """Join the saved episodes and put the dataset at `root`; raises DatasetError when there are none."""
        with self._lock:
            if self._open:
                raise DatasetError("episodes are still being recorded", file=self.root, found=sorted(self._open))
            if not self._saved:
                raise DatasetError("a dataset needs at least one episode", file=self.root, found="0 episodes saved")
            self._finalized = True
        folders = [self._episodes / f"{index:06d}" for index in sorted(self._saved)]
        try:
            _clear(self._partial, keep=_EPISODES)
            join_episodes(self._partial, folders, self.info, self.video)
            if self._key is None:
                shutil.rmtree(self._episodes)
            else:
                os.rename(self._episodes, self._aside)
        except BaseException as error:
            self._leave(error)
            raise
        self._leave(None)
        if self._key is not None:
            shutil.rmtree(self._aside)
        return self.root

    def abandon(self, error: BaseException | None = None) -> None:
        """Stop without a dataset: with a key the finished episodes stay for the next writer, without one they go."""
        self._finalized = True
        self._leave(error or ArtifactError("abandoned", file=self.root))

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.abandon(error)
        elif not self._finalized:
            self.finalize()

    def _leave(self, error: BaseException | None) -> None:
        """End the staging: rename into place, or keep or remove the partial directory because of `error`."""
        if error is None:
            self._stack.close()
            return
        with contextlib.suppress(type(error)):
            self._stack.__exit__(type(error), error, error.__traceback__)

    def _recover(self) -> set[int]:
        if self._aside.exists() and not self._episodes.exists():
            os.rename(self._aside, self._episodes)
        self._episodes.mkdir(exist_ok=True)
        saved = set()
        for folder in self._episodes.iterdir():
            if folder.name.startswith("."):
                shutil.rmtree(folder)  # an episode that was being recorded when the writer died
            else:
                saved.add(int(folder.name))
        return saved


def _check_writable(features: Mapping[str, Feature]) -> None:
    for name, feature in features.items():
        if feature.dtype == "language" or (feature.dtype == "string" and feature.shape != (1,)):
            raise DatasetError("this feature cannot be written", field=name, found=f"{feature.dtype}{feature.shape}")
        if feature.is_camera and (len(feature.shape) != 3 or feature.shape[2] != 3 or feature.is_depth):
            raise DatasetError(
                "this camera cannot be written",
                field=name,
                found=f"shape {feature.shape}" + (", depth" if feature.is_depth else ""),
                expected="colour frames of shape (height, width, 3)",
            )


def _clear(folder: Path, keep: str) -> None:
    """Remove what an interrupted `finalize` left."""
    for entry in folder.iterdir():
        if entry.name != keep:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

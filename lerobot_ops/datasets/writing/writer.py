"""Writing a LeRobotDataset v3.0 episode by episode: what is saved is in the dataset, and stays there.

While it is recorded, the dataset at `root` is whole at every instant (see `live`); `finalize` joins its small files
(see `compaction`). The result depends on the frames, their order and the settings, and on nothing else: not on threads,
crashes or the number of sessions in which a recording was made.
"""

import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lerobot_ops.artifacts import fsync_directory, fsync_tree, held, settle, staged
from lerobot_ops.datasets.info import VIDEO_PATH, DatasetInfo, Feature, make_info, with_defaults, write_info
from lerobot_ops.datasets.language import Row
from lerobot_ops.datasets.videos.encoding import DepthEncoding, VideoEncoding
from lerobot_ops.datasets.writing.beginning import Beginning, begin_again, begin_new, settings_of
from lerobot_ops.datasets.writing.compaction import compact
from lerobot_ops.datasets.writing.episode import EpisodeWriter, Recorded, Settings, saved_units
from lerobot_ops.datasets.writing.frame import check_features
from lerobot_ops.datasets.writing.live import LiveDataset, recorded_folders
from lerobot_ops.errors import ArtifactError, DatasetError

_Features = Mapping[str, Feature | Mapping[str, Any]]


class DatasetWriter:
    """Records episodes into the dataset `root`; made by `create` or `resume`, and best used in a `with` block.

    One after the other: `add_frame` as often as there are frames, then `save_episode` or `discard_episode`. Several at
    once, in threads: `episode(index)`. At the end of the block the dataset is finalised. When the block raises, Ctrl-C
    included, the episode in progress is dropped and what was saved is finalised, unless episodes wait for others that
    come before them: then the recording stays as it is, for `resume`.
    """

    def __init__(self, root: Path, beginning: Beginning, settings: Settings, stack: contextlib.ExitStack) -> None:
        self.root, self._settings, self._stack = root, settings, stack
        self._created = beginning.episodes == 0
        self._lock = threading.RLock()
        self._closed = False
        self._open: set[int] = set()
        self._current: tuple[int, EpisodeWriter] | None = None
        self._live = LiveDataset(root, beginning, settings)
        self._waiting = recorded_folders(self._live)
        for folder in self._waiting.values():
            settings.note_units(saved_units(folder))
        self._commit_waiting()

    @classmethod
    def create(
        cls,
        root: Path | str,
        *,
        fps: int,
        features: _Features,
        robot_type: str | None = None,
        video: VideoEncoding | None = None,
        depth: DepthEncoding | None = None,
        chunks_size: int = 1000,
        data_files_size_in_mb: int = 100,
        video_files_size_in_mb: int = 200,
        encoder_queue_maxsize: int = 30,
        encoder_threads: int | None = None,
    ) -> "DatasetWriter":
        """Begin a new dataset.

        `features` are the user's, as LeRobot's entries or `Feature`s; the default features are added. `video` and
        `depth` say how cameras are encoded, `encoder_queue_maxsize` how many frames of a camera may wait for that
        before `add_frame` waits, `encoder_threads` how many threads each encoder has (None: see `VideoEncoding`).

        Raises ArtifactError when `root` exists or is being written, DatasetError for a bad feature, PrerequisiteError
        for an encoder that is not there.
        """
        root = Path(os.path.abspath(root))
        made = with_defaults(features)
        info = make_info(
            fps=fps,
            features=made,
            chunks_size=chunks_size,
            data_files_size_in_mb=data_files_size_in_mb,
            video_files_size_in_mb=video_files_size_in_mb,
            video_path=VIDEO_PATH if any(feature.dtype == "video" for feature in made.values()) else None,
            robot_type=robot_type,
        )
        check_features(made)
        settings = settings_of(info, video, depth, encoder_queue_maxsize, encoder_threads)
        beginning = begin_new(settings)
        with staged(root, key="recording") as partial:
            write_info(partial, info)
            beginning.write(partial)
        return cls._on(root, beginning, settings)

    @classmethod
    def resume(
        cls,
        root: Path | str,
        *,
        fps: int | None = None,
        features: _Features | None = None,
        robot_type: str | None = None,
        video: VideoEncoding | None = None,
        depth: DepthEncoding | None = None,
        encoder_queue_maxsize: int = 30,
        encoder_threads: int | None = None,
    ) -> "DatasetWriter":
        """Go on with a dataset: an unfinished recording, one that was killed, or a finished dataset of any tool.

        Rate, features, robot and encoding are the dataset's; what is given here besides must be the same, but for the
        quality of the encoding of a finished dataset. Episodes are added in files of their own, as LeRobot does.

        Raises DatasetError when an argument differs, or when the dataset has files that its episodes table does not
        know (repair it first), and ArtifactError when another process is writing it.
        """
        root = Path(os.path.abspath(root))
        if not root.exists():
            settle(root)
        with contextlib.ExitStack() as stack:
            if root.exists():
                stack.enter_context(held(root))
                settle(root)
            asked = {"fps": fps, "robot_type": robot_type, "features": None if features is None else dict(features)}
            beginning, settings = begin_again(root, asked, video, depth, encoder_queue_maxsize, encoder_threads)
            return cls(root, beginning, settings, stack.pop_all())

    @classmethod
    def _on(cls, root: Path, beginning: Beginning, settings: Settings) -> "DatasetWriter":
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(root))
            return cls(root, beginning, settings, stack.pop_all())

    @property
    def info(self) -> DatasetInfo:
        """What `meta/info.json` says now."""
        return self._settings.info

    @property
    def num_episodes(self) -> int:
        """Episodes in the dataset; those that wait for their turn are not in it yet."""
        return self._live.episodes

    @property
    def saved(self) -> set[int]:
        """The indices of the episodes that are safely on disk, those that wait for their turn included."""
        with self._lock:
            return {*range(self._live.episodes), *self._waiting}

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Append a frame to the episode in progress, or begin the next one with it: see `EpisodeWriter.add_frame`."""
        if self._current is None:
            with self._lock:
                index = self._free_index(None)
                self._current = index, self._episode_writer(index)
        self._current[1].add_frame(frame)

    def save_episode(self, *, language_persistent: Sequence[Row] = ()) -> None:
        """Put the episode in progress into the dataset; it is durable when this returns.

        `language_persistent` is what is said about the whole episode, where the dataset has that feature. Raises
        DatasetError when there are no frames, or when a camera's encoder has failed; ArtifactError when the disk does
        not take it. Nothing of the episode is in the dataset then, and it can be saved again or discarded.
        """
        if self._current is None:
            raise DatasetError("no episode is in progress", file=self.root, fix="add frames first")
        index, episode = self._current
        if language_persistent:
            episode.set_language(language_persistent)
        self._save(index, episode.finish())
        self.discard_episode()

    def discard_episode(self) -> None:
        """Drop the episode in progress, if there is one."""
        current, self._current = self._current, None
        if current is not None:
            current[1].remove()

    def take_back_episode(self) -> None:
        """Take the episode that was saved last out of the dataset again, durably.

        Raises DatasetError when this recording has saved none (what was finalised before stays), when one is in
        progress, or when episodes wait for their turn.
        """
        with self._lock:
            known = self._live.episodes > self._live.beginning.episodes
            if self._closed or not known or self._waiting or self._in_progress():
                state = "the recording has ended" if self._closed else "none is there" if not known else "others follow"
                raise DatasetError("no episode can be taken back", file=self.root, found=state)
            self._live.take_back()

    @contextlib.contextmanager
    def episode(self, index: int | None = None) -> Iterator[EpisodeWriter]:
        """Record one episode: it is durable when the block ends, and gone if the block raises or calls `discard`.

        Threads may record different episodes at once. `index` is the episode's number in the dataset, by default the
        next one; an episode that is ready before those in front of it waits on disk for its turn, and a crash does not
        lose it (see `saved`). Gaps that are left at `finalize` close. Raises DatasetError when the episode is saved
        already, is open in another thread, or has no frames.
        """
        with self._lock:
            index = self._free_index(index)
            self._open.add(index)
        try:
            with self._episode_writer(index) as episode:
                yield episode
                if not episode.discarded:
                    self._save(index, episode.finish())
        finally:
            with self._lock:
                self._open.discard(index)

    def finalize(self) -> Path:
        """Join the files of the recording and end it; the dataset at `root` is replaced in one step.

        Raises DatasetError when an episode is in progress, or when there are no episodes.
        """
        with self._lock:
            if self._closed:
                return self.root
            if self._in_progress():
                raise DatasetError("episodes are still being recorded", file=self.root, found=self._in_progress())
            if not self.saved:
                raise DatasetError("a dataset needs at least one episode", file=self.root, found="0 episodes saved")
            self._close_gaps()
            self._live.refresh()
            if self._live.episodes > self._live.beginning.episodes:
                compact(self._live)
            else:
                shutil.rmtree(self._live.folder)
            self.close()
        return self.root

    def close(self) -> None:
        """Stop recording and leave the dataset as it is: whole, in small files, for `resume` to go on with.

        The episode in progress is dropped. A dataset without any episode is removed.
        """
        if self._closed:
            return
        self.discard_episode()
        with self._lock:
            self._closed = True
            if self._created and not self.saved:
                shutil.rmtree(self.root, ignore_errors=True)
            elif self._live.folder.exists():
                with contextlib.suppress(DatasetError, OSError):
                    self._live.refresh()
            self._stack.close()

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        unsaved = self._current is not None and error is None
        try:
            self.discard_episode()
            if error is None or (self.saved and not self._waiting):
                self.finalize()
        except (DatasetError, OSError) as problem:
            if error is None:
                raise
            error.add_note(f"the recording was not finalised: {problem}")
        finally:
            self.close()
        if unsaved:
            raise DatasetError(
                "the last episode was not saved; all others are in the dataset",
                file=self.root,
                fix="call save_episode or discard_episode before the end",
            )

    def _in_progress(self) -> list[int]:
        return sorted(self._open | ({self._current[0]} if self._current else set()))

    def _free_index(self, index: int | None) -> int:
        """The index of an episode that is about to be recorded, by default the one behind all others."""
        if self._closed:
            raise DatasetError("the recording has ended; it takes no more episodes", file=self.root)
        busy = self._in_progress()
        if index is None:
            index = max([self._live.episodes - 1, *self._waiting, *busy]) + 1
        if index < 0 or index in self.saved or index in busy:
            state = "negative" if index < 0 else "saved already" if index in self.saved else "being recorded"
            raise DatasetError("an episode cannot be recorded", file=self.root, field=f"episode {index}", found=state)
        return index

    def _episode_writer(self, index: int) -> EpisodeWriter:
        folder = self._live.folder / f"partial-{index:06d}-{uuid.uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        return EpisodeWriter(folder, self._settings)

    def _save(self, index: int, episode: Recorded) -> None:
        """Commit the episode if it is its turn, or else let it wait on disk."""
        with self._lock:
            try:
                self._live.refresh()
                if index == self._live.episodes:
                    self._live.commit(episode)
                    self._commit_waiting()
                elif index > self._live.episodes:  # else it was committed before something went wrong
                    folder = self._live.folder / f"{index:06d}"
                    episode.save()
                    fsync_tree(episode.folder)
                    os.rename(episode.folder, folder)
                    fsync_directory(self._live.folder)
                    self._waiting[index] = folder
            except OSError as error:
                raise ArtifactError(
                    f"the episode could not be saved: {error.strerror or error}",
                    file=error.filename or self.root,
                    fix="mend this and save it again; what was saved before is safe",
                ) from error

    def _commit_waiting(self) -> None:
        """Commit the waiting episodes whose turn it is."""
        while (folder := self._waiting.get(self._live.episodes)) is not None:
            index = self._live.episodes
            self._live.commit(Recorded.load(folder, self._settings))
            del self._waiting[index]
            shutil.rmtree(folder)

    def _close_gaps(self) -> None:
        """Number the waiting episodes so that none is missing in front of them, and commit them."""
        for index, folder in sorted(self._waiting.items()):
            turn = self._live.episodes
            if index != turn:
                del self._waiting[index]
                self._waiting[turn] = folder.rename(folder.with_name(f"{turn:06d}"))
                fsync_directory(folder.parent)
            self._commit_waiting()

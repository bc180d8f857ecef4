"""Every edit of a dataset as a configuration, with LeRobot's names and defaults where LeRobot has the edit.

What does the work is imported where it is used, so that the configurations alone, and the help made of them, are there
at once.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.datasets.videos.encoding import DepthEncoding, VideoEncoding

if TYPE_CHECKING:
    from lerobot_ops.datasets.editing.features import NewFeature
    from lerobot_ops.datasets.editing.write import EditPlan, EditResult

    Outcome = EditResult | EditPlan


class Operation(Config):
    """What every edit has in common."""

    @property
    def files(self) -> list[Path]:
        """The files that it reads besides the dataset."""
        return []

    def reading(self, files: Sequence[Path]) -> Self:
        """The same operation with its `files` at other places."""
        return self

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        """Edit the dataset `roots[0]`, or join all of them, into `target`; a result per dataset that it makes.

        Raises DatasetError before it writes.
        """
        raise NotImplementedError

    def _options(self, **renamed: str) -> dict[str, Any]:
        """The fields as arguments of the function behind it, which calls those in `renamed` otherwise."""
        return {renamed.get(name, name): getattr(self, name) for name in type(self).model_fields if name != "type"}


class DeleteEpisodes(Operation):
    """Keep all episodes but some."""

    type: Literal["delete_episodes"] = "delete_episodes"
    episode_indices: list[int] = []
    """The episodes to delete."""
    checks: list[str] = []
    """Delete also every episode that validation reports under one of these check ids."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing import edit as editing

        episodes = sorted({*self.episode_indices, *flagged_episodes(roots[0], self.checks)})
        return [editing.delete_episodes(roots[0], target, episodes, dry_run=dry_run)]


class Trim(Operation):
    """Drop the beginning and the end of episodes."""

    type: Literal["trim"] = "trim"
    ranges: Mapping[int, tuple[int, int]] | None = None
    """Episode to the frames that stay of it: the first, and the one after the last."""
    head_s: float = 0.0
    """Seconds to drop at the beginning, where no ranges are given."""
    tail_s: float = 0.0
    """Seconds to drop at the end, where no ranges are given."""
    episode_indices: list[int] | None = None
    """The episodes from which these seconds are dropped; unset: all."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing import edit as editing

        return [editing.trim(roots[0], target, **self._options(episode_indices="episodes"), dry_run=dry_run)]


class Split(Operation):
    """Part a dataset in several, each a directory below the output."""

    type: Literal["split"] = "split"
    splits: Mapping[str, float | list[int]]
    """Name to fraction of the episodes, or to the list of its episodes."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing import edit as editing

        targets = {name: target / name for name in self.splits}
        return editing.split(roots[0], targets, dict(self.splits), dry_run=dry_run)


class Merge(Operation):
    """Join datasets in the order given."""

    type: Literal["merge"] = "merge"
    roots: list[Path] = []
    """The datasets to join."""
    features: Literal["same", "common"] = "same"
    """`same` refuses datasets whose features differ; `common` keeps those that all have."""
    reencode: bool = False
    """Encode cameras whose videos cannot be joined as they are; otherwise they are refused. Sizes must be equal."""
    rgb_encoder: VideoEncoding = VideoEncoding()
    """How the colour cameras among them are encoded."""
    depth_encoder: DepthEncoding = DepthEncoding()
    """How the depth cameras among them are encoded; their range stays."""
    num_workers: int = Field(default=4, ge=1)
    """Episodes that are encoded at the same time."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing import edit as editing
        from lerobot_ops.datasets.editing.video import encodings_to_merge

        encodings: Mapping[str, VideoEncoding] = {}
        if self.reencode:
            encodings = encodings_to_merge(roots, self.features, self.rgb_encoder, self.depth_encoder)
        options: Any = {"features": self.features, "encodings": encodings, "num_workers": self.num_workers}
        return [editing.merge(list(roots), target, **options, dry_run=dry_run)]


class AddFeature(Config):
    """A column that is added, from a file."""

    file: Path
    """`.npy`, `.npz` or `.parquet` with a row for every frame of the dataset, in its order."""
    column: str | None = None
    """Which array or column of the file; unset: the one with the feature's name, or the only one."""
    dtype: str | None = None
    """Unset: the file's."""
    shape: list[int] | None = None
    """Of one frame's value; unset: the file's."""
    names: list[str] | None = None
    """Of the dimensions."""

    def load(self, name: str) -> "NewFeature":
        """The column called `name`; raises DatasetError when the file has no such values."""
        from lerobot_ops.datasets.editing.column_file import dtype_of, read_column
        from lerobot_ops.datasets.editing.features import NewFeature
        from lerobot_ops.datasets.info import with_defaults

        values = read_column(self.file, self.column, name)
        shape = self.shape or list(values.shape[1:]) or [1]
        rows = [len(values), *shape]
        if values.size == math.prod(rows):
            values = values.reshape(rows)
        feature = {"dtype": self.dtype or dtype_of(values), "shape": shape, "names": self.names}
        return NewFeature(with_defaults({name: feature})[name], values)


class AddFeatures(Operation):
    """Add columns from files."""

    type: Literal["add_features"] = "add_features"
    features: Mapping[str, AddFeature]
    """Name to where its values are."""

    @property
    def files(self) -> list[Path]:
        return [feature.file for feature in self.features.values()]

    def reading(self, files: Sequence[Path]) -> Self:
        placed = zip(self.features.items(), files, strict=True)
        features = {name: feature.model_copy(update={"file": file}) for (name, feature), file in placed}
        return self.model_copy(update={"features": features})

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing.features import add_features

        features = {name: feature.load(name) for name, feature in self.features.items()}
        return [add_features(roots[0], target, features, dry_run=dry_run)]


class RemoveFeature(Operation):
    """Drop columns or cameras."""

    type: Literal["remove_feature"] = "remove_feature"
    feature_names: list[str]
    """The features to drop."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing import edit as editing

        return [editing.remove_features(roots[0], target, self.feature_names, dry_run=dry_run)]


class RenameFeature(Operation):
    """Give columns or cameras other names."""

    type: Literal["rename_feature"] = "rename_feature"
    feature_names: Mapping[str, str]
    """Old name to new name."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing.features import rename_features

        return [rename_features(roots[0], target, self.feature_names, dry_run=dry_run)]


class CastFeature(Operation):
    """Give columns of numbers another dtype."""

    type: Literal["cast_feature"] = "cast_feature"
    dtypes: Mapping[str, str]
    """Feature to its new dtype."""
    allow_lossy: bool = False
    """Round values that the new dtype does not hold exactly; otherwise they are refused."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing.features import cast_features

        return [cast_features(roots[0], target, self.dtypes, allow_lossy=self.allow_lossy, dry_run=dry_run)]


class ModifyTasks(Operation):
    """Change task texts: `episode_tasks` before `task_replacements` before `new_task`."""

    type: Literal["modify_tasks"] = "modify_tasks"
    new_task: str | None = None
    """The task of every frame that the others do not change."""
    episode_tasks: Mapping[int, str] | None = None
    """Episode to its task."""
    task_replacements: Mapping[str, str] | None = None
    """Old text to new text."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing.tasks import modify_tasks

        return [modify_tasks(roots[0], target, **self._options(), dry_run=dry_run)]


class ConvertImageToVideo(Operation):
    """Keep cameras as videos that were kept as images."""

    type: Literal["convert_image_to_video"] = "convert_image_to_video"
    feature_names: list[str] | None = None
    """The cameras; unset: all that are kept as images."""
    rgb_encoder: VideoEncoding = VideoEncoding()
    depth_encoder: DepthEncoding = DepthEncoding()
    episode_indices: list[int] | None = None
    """The episodes to keep; unset: all."""
    num_workers: int = Field(default=4, ge=1)
    """Episodes that are encoded at the same time."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing.video import convert_images_to_video

        options = self._options(feature_names="names", episode_indices="episodes")
        return [convert_images_to_video(roots[0], target, **options, dry_run=dry_run)]


class ReencodeVideos(Operation):
    """Encode videos with other settings."""

    type: Literal["reencode_videos"] = "reencode_videos"
    rgb_encoder: VideoEncoding | None = VideoEncoding()
    """Of colour cameras; null leaves them as they are."""
    depth_encoder: DepthEncoding | None = DepthEncoding()
    """Of depth cameras, whose range stays; null leaves them as they are."""
    num_workers: int = Field(default=4, ge=1)
    """Episodes that are encoded at the same time."""
    encoder_threads: int | None = Field(default=None, ge=1)
    """Threads of each encoder."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing.video import reencode_videos

        return [reencode_videos(roots[0], target, **self._options(), dry_run=dry_run)]


class RecomputeStats(Operation):
    """Compute statistics anew."""

    type: Literal["recompute_stats"] = "recompute_stats"
    skip_image_video: bool = True
    """Cameras keep the statistics that they have; false decodes every frame."""
    relative_action: bool = False
    """The statistics of `action` become those of chunks of actions minus the state at the chunk's beginning."""
    relative_exclude_joints: list[str] | None = None
    """Words in the names of joints that stay absolute; unset: gripper."""
    chunk_size: int = Field(default=50, ge=1)
    """Actions of a chunk, as in the policy."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing.statistics import recompute_stats

        return [recompute_stats(roots[0], target, **self._options(), dry_run=dry_run)]


class Rechunk(Operation):
    """Keep the same frames in files of other sizes."""

    type: Literal["rechunk"] = "rechunk"
    data_files_size_in_mb: int | None = Field(default=None, ge=1)
    """Of a data file at most; unset: as it is."""
    video_files_size_in_mb: int | None = Field(default=None, ge=1)
    """Of a video file at most; unset: as it is."""
    chunks_size: int | None = Field(default=None, ge=1)
    """Files in a directory at most; unset: as it is."""

    def run(self, roots: Sequence[Path], target: Path, dry_run: bool) -> "list[Outcome]":
        from lerobot_ops.datasets.editing import edit as editing

        return [editing.rechunk(roots[0], target, **self._options(), dry_run=dry_run)]


def flagged_episodes(root: Path, checks: list[str]) -> list[int]:
    """The episodes that validation reports under one of these check ids, ascending."""
    if not checks:
        return []
    from lerobot_ops.datasets.validation.validate import validate

    findings = validate(root).findings
    return sorted({episode for finding in findings if finding.check in checks for episode in finding.episodes})

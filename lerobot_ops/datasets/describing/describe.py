"""`lerobot-ops info`: what a dataset, a checkpoint or this installation is, for a person or as JSON."""

import json
import os
import re
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field

from lerobot_ops.config import Config
from lerobot_ops.datasets.describing.checkpoint import describe_checkpoint
from lerobot_ops.datasets.describing.installation import describe_installation
from lerobot_ops.datasets.describing.text import aligned, clipped, duration_text, shortened, size_text
from lerobot_ops.datasets.info import INFO_PATH, DatasetInfo, Feature, load_info
from lerobot_ops.datasets.remote import local_root, repository_at
from lerobot_ops.datasets.statistics import QUANTILE_NAMES
from lerobot_ops.datasets.tables import load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.videos.decoder import open_video
from lerobot_ops.datasets.viewing.episode import dimension_names, integers
from lerobot_ops.errors import DatasetError
from lerobot_ops.hub.checkpoints import checkpoint_folder, pretrained_model
from lerobot_ops.versioning.digest import digest

_TASKS_SHOWN = 20
_MODEL = re.compile(r"hf:/+(?!datasets/)")


class InfoConfig(Config):
    """What to describe."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    root: Path | None = None
    """A dataset, a checkpoint, OWNER/NAME of a dataset on the Hub, or hf://OWNER/NAME of a model there; without it this
    installation."""
    digest: bool = False
    """Name the version too: the digest that DVC gives, for which every byte is read."""
    as_json: bool = Field(default=False, alias="json")
    """Print JSON."""


class FeatureSummary(Config):
    """A feature."""

    dtype: str
    shape: list[int]
    names: list[str]
    """Of its dimensions; positions where they have none, and empty for cameras."""


class CameraSummary(Config):
    """A camera."""

    codec: str
    """Of a video: codec and pixel format; `images` when its frames are in the parquet."""
    width: int
    height: int
    bytes: int | None
    """Of all its video files; None for images, which share their files with the other columns."""
    bits_per_second: float | None
    depth: bool


class DatasetSummary(Config):
    """What a dataset holds."""

    name: str
    format: str
    digest: str | None
    robot: str | None
    fps: int
    episodes: int
    frames: int
    seconds: float
    lengths: dict[str, float]
    """Frames of an episode: min, median, max; empty without episodes."""
    tasks: dict[str, int]
    """Text to number of episodes."""
    features: dict[str, FeatureSummary]
    cameras: dict[str, CameraSummary]
    files: dict[str, int]
    """Number of files below data, videos and meta."""
    bytes: dict[str, int]
    """Their sizes."""
    features_without_statistics: list[str]
    features_without_quantiles: list[str]
    """Of those that have statistics."""
    splits: dict[str, str]

    def __str__(self) -> str:
        facts = [("episodes", f"{self.episodes:,}"), ("frames", f"{self.frames:,} at {self.fps} fps")]
        facts += [("duration", duration_text(self.seconds))]
        if self.lengths:
            low, middle, high = (f"{self.lengths[name]:g}" for name in ("min", "median", "max"))
            facts += [("lengths", f"{low} to {high} frames, median {middle}")]
        facts += [("robot", self.robot or "not stated")]
        facts += [("splits", ", ".join(f"{name} {span}" for name, span in self.splits.items()) or "none")]
        facts += [("statistics", self._statistics())]
        facts += [("on disk", f"{size_text(sum(self.bytes.values()))}: {self._sizes()}")]
        facts += [("version", self.digest)] if self.digest else []
        lines = [f"{self.name}: LeRobotDataset {self.format}", *aligned(facts), "", "tasks (episodes)"]
        shown = list(self.tasks.items())[:_TASKS_SHOWN]
        lines += [f"  {count:>7,}  {clipped(text)}" for text, count in shown]
        more = len(self.tasks) - len(shown)
        lines += [f"           … and {more:,} more"] if more else []
        lines += ["", "features", *aligned(self._feature_row(name) for name in self.features)]
        return "\n".join(lines)

    def _statistics(self) -> str:
        if len(self.features_without_statistics) == len(self.features):
            return "none"
        gaps = {"none of": self.features_without_statistics, "no quantiles of": self.features_without_quantiles}
        found = [f"{what} {shortened(names)}" for what, names in gaps.items() if names]
        return "; ".join(found) or "of every feature, with quantiles"

    def _sizes(self) -> str:
        return ", ".join(
            f"{part} {size_text(size)} in {self.files[part]:,} file{'' if self.files[part] == 1 else 's'}"
            for part, size in self.bytes.items()
            if self.files[part]
        )

    def _feature_row(self, name: str) -> tuple[str, str, str, str]:
        feature, about = self.features[name], ""
        if name in self.cameras:
            camera = self.cameras[name]
            about = f"{'depth, ' if camera.depth else ''}{camera.codec}"
            about += f", {camera.bits_per_second / 1e6:.2f} Mbit/s" if camera.bits_per_second else ""
        elif feature.shape != [1]:
            about = shortened(feature.names)
        return name, feature.dtype, "×".join(map(str, feature.shape)), about


def info(config: InfoConfig) -> str:
    """Describe what is at `root`, as text or JSON.

    Raises DatasetError or CheckpointError when it is neither a dataset nor a checkpoint, or cannot be read.
    """
    about = _about(config)
    return json.dumps(about.model_dump(mode="json"), indent=2, ensure_ascii=False) if config.as_json else str(about)


def _about(config: InfoConfig) -> Config:
    root = config.root
    if root is None:
        return describe_installation()
    if _MODEL.match(str(root)):
        return describe_checkpoint(checkpoint_folder(root), with_digest=config.digest)
    if root.is_dir() and not (root / INFO_PATH).exists():
        checkpoint = pretrained_model(root)
        if checkpoint is not None:
            return describe_checkpoint(checkpoint, with_digest=config.digest)
        raise DatasetError(
            "there is no dataset and no checkpoint here",
            file=root,
            expected=f"{INFO_PATH} of a dataset, or config.json of a checkpoint",
        )
    return describe_dataset(root, with_digest=config.digest)


def describe_dataset(place: Path, *, with_digest: bool = False) -> DatasetSummary:
    """Describe a dataset without reading its data; of one on the Hub only `meta/` is fetched. Raises DatasetError."""
    root = local_root(place, episodes=[], cameras=[])
    about = load_info(root)
    table = load_episodes(root, ["length", "tasks"]) if about.total_episodes else None
    lengths = integers(table.column("length")) if table else np.zeros(0, np.int64)
    repository = repository_at(place)
    sizes = {part: _size(root / part) for part in ("data", "videos", "meta")}
    without, without_quantiles = _statistics_gaps(root, about)
    return DatasetSummary(
        name=repository.name if repository else root.resolve().name,
        format=about.codebase_version,
        digest=digest(root) if with_digest and not repository else None,
        robot=about.robot_type,
        fps=about.fps,
        episodes=len(lengths),
        frames=int(lengths.sum()),
        seconds=float(lengths.sum() / about.fps),
        lengths=_spread(lengths),
        tasks=_tasks(root, table.column("tasks").to_pylist() if table else []),
        features={name: _feature(feature) for name, feature in about.features.items()},
        cameras={name: _camera(root, about, name, int(lengths.sum())) for name in about.camera_keys},
        files={part: count for part, (count, _) in sizes.items()},
        bytes={part: size for part, (_, size) in sizes.items()},
        features_without_statistics=without,
        features_without_quantiles=without_quantiles,
        splits=about.splits,
    )


def _spread(lengths: np.ndarray) -> dict[str, float]:
    if not len(lengths):
        return {}
    return {"min": float(lengths.min()), "median": float(np.median(lengths)), "max": float(lengths.max())}


def _tasks(root: Path, episodes: list[list[str]]) -> dict[str, int]:
    """Every task with its number of episodes, the most frequent first; an episode may have several."""
    counts = dict.fromkeys(load_tasks(root), 0) if episodes else {}
    for texts in episodes:
        for text in set(texts or ()):
            counts[text] = counts.get(text, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _feature(feature: Feature) -> FeatureSummary:
    numbers = feature.is_numeric and len(feature.shape) == 1
    return FeatureSummary(
        dtype=feature.dtype, shape=list(feature.shape), names=dimension_names(feature) if numbers else []
    )


def _camera(root: Path, about: DatasetInfo, name: str, frames: int) -> CameraSummary:
    feature = about.features[name]
    height, width, _ = feature.size
    if feature.dtype == "image":
        codec, size = "images", None
    else:
        files = sorted(_files_of(root, about, name))
        codec = _codec(feature, files)
        size = sum(file.stat().st_size for file in files)
    rate = size * 8 * about.fps / frames if size and frames else None
    return CameraSummary(
        codec=codec, width=width, height=height, bytes=size, bits_per_second=rate, depth=feature.is_depth
    )


def _files_of(root: Path, about: DatasetInfo, camera: str) -> list[Path]:
    """A camera's video files, wherever the dataset's path template puts them."""
    first = Path(about.video_file(camera, 0, 0))
    folder = root / Path(*first.parts[: first.parts.index(camera) + 1]) if camera in first.parts else root / "videos"
    return [file for file in folder.rglob(f"*{first.suffix}") if camera in file.parts or camera in file.name]


def _codec(feature: Feature, files: list[Path]) -> str:
    """What info.json says about the video; where it says nothing, what is in the first file."""
    info = feature.info or (feature.model_extra or {}).get("video_info") or {}
    codec, pixels = info.get("video.codec"), info.get("video.pix_fmt")
    if not codec and files:
        with open_video(files[0]) as container:
            context = container.streams.video[0].codec_context
            codec, pixels = context.codec.canonical_name, context.pix_fmt
    return " ".join(filter(None, [codec, pixels])) or "unknown"


def _statistics_gaps(root: Path, about: DatasetInfo) -> tuple[list[str], list[str]]:
    stats = load_stats(root)
    wanted = [name for name, feature in about.features.items() if feature.is_camera or feature.is_numeric]
    without = [name for name in wanted if name not in stats]
    return without, [name for name in wanted if name in stats and not set(QUANTILE_NAMES) <= stats[name].keys()]


def _size(folder: Path) -> tuple[int, int]:
    """(Files, bytes) below a directory."""
    sizes = [os.stat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)

"""How a recording begins: with a new dataset, where another recording stopped, or behind a finished dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.config import Config
from lerobot_ops.datasets.histograms import HISTOGRAMS_PATH, fits, load_histograms
from lerobot_ops.datasets.info import EPISODES_PATH, DatasetInfo, Feature, load_info, with_defaults
from lerobot_ops.datasets.joining import Place, steps_on
from lerobot_ops.datasets.tables import Stats, data_files, episode_stats, load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.videos.encoders import unknown_options
from lerobot_ops.datasets.videos.encoding import DepthEncoding, VideoEncoding
from lerobot_ops.datasets.writing.episode import Settings
from lerobot_ops.datasets.writing.frame import check_features
from lerobot_ops.errors import DatasetError

RECORDING = ".recording"
"""The folder in a dataset that is being recorded; it says where the recording began, and holds what is not ready."""
DATA, EPISODES, HISTOGRAMS = "data", "episodes", "histograms"
_BEGINNING = f"{RECORDING}/beginning.json"
_MERGEABLE = {"min", "max", "mean", "std", "count"}
_VCODECS = {"av1": "libsvtav1", "h264": "h264", "hevc": "hevc"}


class Beginning(Config):
    """Where a recording began: what the dataset held before, and with which settings its episodes are encoded."""

    episodes: int = 0
    frames: int = 0
    tasks: int = 0
    places: dict[str, Place]
    """The first free (chunk, file) of `data`, `episodes`, `histograms` and every camera with a video."""
    stats: dict[str, dict[str, Any]] = {}
    """Overall statistics of the cameras whose pixels had not been counted until then."""
    video: VideoEncoding
    depth: DepthEncoding
    encoder_threads: int | None = None

    def place(self, kind: str, episode: int, info: DatasetInfo) -> Place:
        """The (chunk, file) of an episode of this recording."""
        return steps_on(self.places[kind], episode - self.episodes, info)

    def write(self, root: Path) -> None:
        """Mark the dataset at `root` as being recorded."""
        write_bytes(root / _BEGINNING, self.model_dump_json(indent=2).encode())


def is_recording(root: Path | str) -> bool:
    """Whether a dataset is being recorded, or was and has not been finalised."""
    return (Path(root) / _BEGINNING).exists()


def begin_new(settings: Settings) -> Beginning:
    """The beginning of a new dataset."""
    kinds = (DATA, EPISODES, HISTOGRAMS, *settings.info.video_keys)
    return _with_settings(settings, places=dict.fromkeys(kinds, (0, 0)))


def settings_of(
    info: DatasetInfo,
    video: VideoEncoding | None,
    depth: DepthEncoding | None,
    queue: int,
    threads: int | None,
) -> Settings:
    """The settings of a recording; raises PrerequisiteError for an encoder that it needs and that is not there."""
    video, depth = video or VideoEncoding(), depth or DepthEncoding()
    needed = {info.features[key].is_depth for key in info.video_keys}
    video = video.resolved() if False in needed else video
    depth = depth.resolved() if True in needed else depth
    return Settings(info, video, depth, queue, threads)


def begin_again(
    root: Path,
    asked: Mapping[str, Any],
    video: VideoEncoding | None,
    depth: DepthEncoding | None,
    queue: int,
    threads: int | None,
) -> tuple[Beginning, Settings]:
    """The beginning of the recording that stopped at `root`, or else of one behind the finished dataset there.

    Raises DatasetError when what is `asked` (`fps`, `robot_type`, `features`; None is anything) is not the dataset's.
    """
    info = load_info(root)
    _check_asked(root, info, asked)
    if is_recording(root):
        beginning = Beginning.model_validate_json((root / _BEGINNING).read_bytes())
        given = {"video": video and video.resolved(), "depth": depth and depth.resolved(), "encoder_threads": threads}
        for name, value in given.items():
            if value is not None and value != getattr(beginning, name):
                raise _differs(root, name, getattr(beginning, name), value)
        return beginning, Settings(info, beginning.video, beginning.depth, queue, beginning.encoder_threads)
    check_features(info.features)
    video = _matching(root, info, video, is_depth=False) or VideoEncoding()
    found = _matching(root, info, depth, is_depth=True)
    settings = settings_of(info, video, found if isinstance(found, DepthEncoding) else None, queue, threads)
    beginning = _behind(root, settings)
    beginning.write(root)
    return beginning, settings


def _with_settings(settings: Settings, **fields: Any) -> Beginning:
    return Beginning(video=settings.video, depth=settings.depth, encoder_threads=settings.threads, **fields)


def _behind(root: Path, settings: Settings) -> Beginning:
    """The beginning of a recording behind a finished dataset, which is checked for files that nobody points at."""
    info, table = settings.info, load_episodes(root)
    frames = sum(pq.read_metadata(path).num_rows for path in data_files(root))
    counted = {"total_episodes": (len(table), info.total_episodes), "total_frames": (frames, info.total_frames)}
    for name, (found, expected) in counted.items():
        if found != expected:
            raise DatasetError(
                "the dataset's tables and its info disagree, so nothing can be added",
                file=root,
                field=name,
                found=f"{found} in the tables",
                expected=expected,
                fix=_REPAIR,
            )
    places = {DATA: _after(root, table, "data", info)}
    places |= {key: _after(root, table, f"videos/{key}", info) for key in info.video_keys}
    for kind, template in ((EPISODES, EPISODES_PATH), (HISTOGRAMS, HISTOGRAMS_PATH)):
        places[kind] = _after_files(root, template, info)
    return _with_settings(
        settings,
        episodes=len(table),
        frames=frames,
        tasks=len(load_tasks(root)),
        places=places,
        stats={name: _plain(own) for name, own in _uncounted(root, settings).items()},
    )


_REPAIR = "run `lerobot-ops repair` into a new directory, and go on with that"


def _after(root: Path, table: Any, prefix: str, info: DatasetInfo) -> Place:
    """The place behind the last file that an episode points at; there must be no file yet."""
    columns = [table.column(f"{prefix}/{name}_index").to_pylist() for name in ("chunk", "file")]
    place = info.next_file(*max(zip(*columns, strict=True)))
    name = info.data_file(*place) if prefix == "data" else info.video_file(prefix.removeprefix("videos/"), *place)
    if (root / name).exists():
        raise DatasetError("a file of the dataset belongs to no episode", file=root / name, fix=_REPAIR)
    return place


def _after_files(root: Path, template: str, info: DatasetInfo) -> Place:
    """The place behind the last file of a table that counts its files itself."""
    folder = template.split("/chunk-")[0]
    numbers = [
        (int(path.parent.name.removeprefix("chunk-")), int(path.stem.removeprefix("file-")))
        for path in root.glob(f"{folder}/chunk-*/file-*.parquet")
    ]
    return info.next_file(*max(numbers)) if numbers else (0, 0)


def _uncounted(root: Path, settings: Settings) -> Stats:
    """The overall statistics of the cameras that lack the pixel counts of an episode, or have others than it says."""
    keys = settings.info.camera_keys
    if not keys:
        return {}
    counts, overall = load_histograms(root), load_stats(root)
    names = [f"stats/{key}/{name}" for key in keys for name in ("min", "max", "mean", "count")]
    known = load_episodes(root)
    rows = known.select([name for name in names if name in known.column_names]).to_pylist()
    found: Stats = {}
    for key in keys:
        values = settings.level_values(key)
        for number, row in enumerate(rows):
            own = counts.get(number, {}).get(key)
            if own is None or not fits(own, values, episode_stats(row).get(key, {})):
                stats = overall.get(key, {})
                found[key] = stats if stats.keys() >= _MERGEABLE else {}
                break
    return found


def _matching(root: Path, info: DatasetInfo, asked: VideoEncoding | None, *, is_depth: bool) -> VideoEncoding | None:
    """The encoding that was asked for, if its codec is the dataset's; without one, the dataset's own."""
    keys = [key for key in info.video_keys if info.features[key].is_depth == is_depth]
    block = (info.features[keys[0]].info or {}) if keys else {}
    codec = block.get("video.codec")
    if asked is None:
        return _encoding_of(block, is_depth=is_depth) if codec in _VCODECS else None
    asked = asked.resolved() if keys else asked
    for name, own in (("video.codec", asked.codec), ("video.pix_fmt", asked.pix_fmt)):
        if block.get(name, own) != own:
            raise _differs(root, f"{keys[0]} {name}", block[name], own)
    return asked


def _encoding_of(block: Mapping[str, Any], *, is_depth: bool) -> VideoEncoding:
    """The settings that the `info` block of a video feature records; options of another encoder are left out."""
    kind = DepthEncoding if is_depth else VideoEncoding
    fields = {name: block[f"video.{name}"] for name in kind.model_fields if block.get(f"video.{name}") is not None}
    found = kind.model_validate({**fields, "vcodec": _VCODECS[block["video.codec"]]})
    unknown = unknown_options(found.encoder, found.extra_options) if found.encoder in av.codecs_available else []
    extra = {name: value for name, value in found.extra_options.items() if name not in unknown}
    return found.model_copy(update={"extra_options": extra})


def _check_asked(root: Path, info: DatasetInfo, asked: Mapping[str, Any]) -> None:
    for name in ("fps", "robot_type"):
        if asked.get(name) not in (None, getattr(info, name)):
            raise _differs(root, name, getattr(info, name), asked[name])
    if asked.get("features") is None:
        return
    wanted = with_defaults(asked["features"])
    for name in {**info.features, **wanted}:
        found, expected = (_described(features.get(name)) for features in (info.features, wanted))
        if found != expected:
            raise _differs(root, name, found, expected)


def _described(feature: Feature | None) -> str:
    if feature is None:
        return "no such feature"
    return f"{feature.dtype}{feature.shape}, names {feature.names}{', depth' if feature.is_depth else ''}"


def _differs(root: Path, name: str, found: object, expected: object) -> DatasetError:
    return DatasetError(
        "the dataset is not recorded with what is asked for",
        file=root,
        field=name,
        found=found,
        expected=expected,
        fix="leave this out to go on as before, or record another dataset",
    )


def _plain(stats: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in stats.items()}

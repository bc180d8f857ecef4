"""Editing how cameras are stored: images become videos, and videos are encoded with other settings."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lerobot_ops.datasets.editing.encode import depth_unit, size_of
from lerobot_ops.datasets.editing.merge import merged_info
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.source import Kept, Source, open_source
from lerobot_ops.datasets.editing.write import EditPlan, EditResult, write
from lerobot_ops.datasets.info import INFO_PATH, VIDEO_PATH, Feature, load_info
from lerobot_ops.datasets.videos.depth import DepthRange
from lerobot_ops.datasets.videos.encoding import DepthEncoding, VideoEncoding
from lerobot_ops.datasets.videos.video_writer import VideoWriter
from lerobot_ops.errors import DatasetError, did_you_mean

RGB = VideoEncoding()
DEPTH = DepthEncoding()


def convert_images_to_video(
    source: Path,
    target: Path,
    *,
    names: Sequence[str] | None = None,
    rgb_encoder: VideoEncoding = RGB,
    depth_encoder: DepthEncoding = DEPTH,
    episodes: Sequence[int] | None = None,
    num_workers: int = 4,
    dry_run: bool = False,
) -> EditResult | EditPlan:
    """Write the dataset `source` to `target` with the cameras `names` (all, if None) as videos in place of images.

    `episodes` are those to keep (all, if None), numbered anew in their order; `num_workers` of them are encoded at a
    time. Statistics are those of the images; depth becomes levels in the range of `depth_encoder`. Raises DatasetError
    when a name is no camera of images or an episode does not exist, PrerequisiteError when an encoder does not start.
    """
    info = load_info(source)
    keys = info.image_keys if names is None else list(names)
    for key in keys or [""]:
        if key not in info.image_keys:
            raise DatasetError(
                "the dataset has no such camera of images" if key else "the dataset has no camera of images",
                file=source / INFO_PATH,
                field=key or "features",
                found=info.features[key].dtype if key in info.features else None,
                fix=did_you_mean(key, info.image_keys) if key and info.image_keys else None,
            )
    kept = _episodes(open_source(source), episodes)
    encodings: dict[str, VideoEncoding] = {}
    features = dict(info.features)
    for key in keys:
        feature = info.features[key]
        channels, wanted = feature.size[2], 1 if feature.is_depth else 3
        if channels != wanted:
            raise DatasetError(
                "a camera's pictures do not fit into a video",
                file=source / INFO_PATH,
                field=key,
                found=f"{channels} channel(s)",
                expected=f"{wanted}: colours are red, green and blue, a depth camera is marked as one",
            )
        encodings[key] = (depth_encoder if feature.is_depth else rgb_encoder).resolved()
        block = encodings[key].info() | ({"depth_unit": depth_unit(kept[0], key)} if feature.is_depth else {})
        features[key] = _described(feature, block)
    _check_encodings(kept[0], encodings)
    update = {"features": features, "video_path": info.video_path or VIDEO_PATH}
    recipe = Recipe(kept, info.model_copy(update=update), encodings=encodings, workers=num_workers)
    return write({target: recipe}, dry_run)[0]


def reencode_videos(
    source: Path,
    target: Path,
    *,
    rgb_encoder: VideoEncoding | None = RGB,
    depth_encoder: DepthEncoding | None = DEPTH,
    num_workers: int = 4,
    encoder_threads: int | None = None,
    dry_run: bool = False,
) -> EditResult | EditPlan:
    """Write the dataset `source` to `target` with its videos encoded by other settings.

    Colour cameras get `rgb_encoder`, depth cameras `depth_encoder` with the range that they have, None leaves them
    alone. A camera that has these settings already is taken over as it is. `num_workers` episodes are encoded at a
    time. Raises DatasetError when there is no video, PrerequisiteError when an encoder does not start.
    """
    opened = open_source(source)
    if not opened.clips:
        raise DatasetError("the dataset has no videos", file=source / INFO_PATH, field="features")
    kept = _episodes(opened, None)
    features = dict(opened.info.features)
    encodings: dict[str, VideoEncoding] = {}
    for key in opened.clips:
        encoding = _wanted(features[key], rgb_encoder, depth_encoder)
        if encoding is not None and not _has(opened, key, encoding):
            unit = {name: value for name, value in (features[key].info or {}).items() if name == "depth_unit"}
            encodings[key] = encoding
            features[key] = _described(features[key], encoding.info() | unit)
    _check_encodings(kept[0], encodings)
    info = opened.info.model_copy(update={"features": features})
    recipe = Recipe(kept, info, encodings=encodings, workers=num_workers, encoder_threads=encoder_threads)
    return write({target: recipe}, dry_run)[0]


def encodings_to_merge(
    roots: Sequence[Path],
    features: Literal["same", "common"],
    rgb_encoder: VideoEncoding = RGB,
    depth_encoder: DepthEncoding = DEPTH,
) -> Mapping[str, VideoEncoding]:
    """The cameras whose videos cannot be joined as they are, and how to encode them: for `edit.merge`.

    Raises DatasetError when their sizes differ, because no picture is scaled.
    """
    info = merged_info(list(roots), [load_info(root) for root in roots], features)
    opened = [open_source(root, info.video_keys) for root in dict.fromkeys(roots)]
    encodings = {}
    for key in info.video_keys:
        clips = [clip for source in opened for clip in source.clips[key]]
        if len({clip.video.signature[:4] for clip in clips}) == 1:
            continue
        first = clips[0].video
        for clip in clips:
            if (clip.video.height, clip.video.width) != (first.height, first.width):
                raise DatasetError(
                    "videos of different sizes cannot be merged",
                    file=clip.file,
                    field=key,
                    found=f"{clip.video.width}x{clip.video.height}",
                    expected=f"{first.width}x{first.height}, as in {clips[0].file}",
                    fix=f"remove the feature {key!r} first, or record both alike",
                )
        encoding = _wanted(info.features[key], rgb_encoder, depth_encoder)
        assert encoding is not None
        encodings[key] = encoding
        _check_encodings(Kept(opened[0], 0), {key: encoding})
    return encodings


def _episodes(source: Source, episodes: Sequence[int] | None) -> list[Kept]:
    total = len(source.rows)
    chosen = list(range(total)) if episodes is None else sorted(set(episodes))
    unknown = [number for number in chosen if not 0 <= number < total]
    if unknown or not chosen:
        raise DatasetError(
            "the dataset has no such episode" if unknown else "no episode is named",
            file=source.root,
            field="episode_indices",
            found=", ".join(map(str, unknown)) or None,
            expected=f"0 to {total - 1}",
        )
    return [Kept(source, number) for number in chosen]


def _described(feature: Feature, block: Mapping[str, object]) -> Feature:
    """The feature as a video with this `info`, without what it said of the one before."""
    entry = {name: value for name, value in feature.entry().items() if name != "video_info"}
    return Feature.model_validate({**entry, "dtype": "video", "info": dict(block)})


def _wanted(
    feature: Feature, rgb_encoder: VideoEncoding | None, depth_encoder: DepthEncoding | None
) -> VideoEncoding | None:
    """The settings for a camera; its range of depth says what its levels mean, so that stays."""
    if not feature.is_depth:
        return rgb_encoder and rgb_encoder.resolved()
    if depth_encoder is None:
        return None
    return depth_encoder.resolved().model_copy(update=DepthRange.of(feature.info or {}).model_dump())


def _has(source: Source, key: str, encoding: VideoEncoding) -> bool:
    """Whether a camera's videos are encoded like this already, as far as the dataset says."""
    stored = source.info.features[key].info or {}
    videos = {(clip.video.codec, clip.video.pix_fmt) for clip in source.clips[key]}
    settings = ("video.g", "video.crf", "video.preset", "video.fast_decode", "video.extra_options")
    wanted = encoding.info()
    same = all(name in stored and stored[name] == wanted[name] for name in settings)
    return same and videos == {(encoding.codec, encoding.pix_fmt)}


def _check_encodings(kept: Kept, encodings: Mapping[str, VideoEncoding]) -> None:
    """Raise PrerequisiteError when an encoder does not start, before anything is written."""
    for key, encoding in encodings.items():
        height, width = size_of(kept, key)
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            VideoWriter(
                Path(file.name), fps=kept.source.info.fps, height=height, width=width, encoding=encoding
            ).close()

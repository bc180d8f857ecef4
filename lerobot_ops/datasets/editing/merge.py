"""What datasets must have in common to be merged, and the info of the merged one."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lerobot_ops.datasets.editing.plan import extra_columns
from lerobot_ops.datasets.editing.source import Kept, Source
from lerobot_ops.datasets.info import DEFAULT_FEATURES, INFO_PATH, DatasetInfo, Feature
from lerobot_ops.datasets.videos.depth import DepthRange
from lerobot_ops.errors import DatasetError


def merged_info(
    roots: Sequence[Path], infos: Sequence[DatasetInfo], features: Literal["same", "common"]
) -> DatasetInfo:
    """The first dataset's info with the features to keep; raises DatasetError naming what differs and in which file."""
    first = infos[0]
    for field in ("fps", "robot_type"):
        for root, info in zip(roots, infos, strict=True):
            if getattr(info, field) != getattr(first, field):
                raise _differs(field, root, getattr(info, field), roots[0], getattr(first, field))
    if features == "same":
        _check_same(roots, infos)
    names = [name for name in first.features if all(name in info.features for info in infos)]
    for name in names:
        for root, info in zip(roots, infos, strict=True):
            if _essence(info.features[name]) != _essence(first.features[name]):
                found, expected = _described(info.features[name]), _described(first.features[name])
                raise _differs(f"features.{name}", root, found, roots[0], expected)
    if set(names) <= DEFAULT_FEATURES.keys():
        raise DatasetError(
            "the datasets have no features in common",
            file=roots[-1] / INFO_PATH,
            field="features",
            found=", ".join(infos[-1].features),
            expected=f"some of {', '.join(first.features)}",
        )
    kept = {name: _merged_feature([info.features[name] for info in infos]) for name in names}
    has_video = any(feature.dtype == "video" for feature in kept.values())
    tools: list[dict[str, Any]] = []
    for info in infos:
        tools += [tool for tool in info.tools or [] if tool not in tools]
    update = {"features": kept, "video_path": first.video_path if has_video else None, "tools": tools or None}
    return first.model_copy(update=update)


def check_mergeable(sources: Sequence[Source], info: DatasetInfo, encodings: Collection[str] = ()) -> None:
    """Raise DatasetError when a kept camera's videos, or extra columns of the episodes tables, do not fit together.

    The cameras in `encodings` are encoded anew, so theirs may differ.
    """
    for key in [key for key in info.video_keys if key not in encodings]:
        reference = sources[0].clips[key][0]
        for source in sources:
            for clip in source.clips[key]:
                found, expected = (each.video.signature[:4] for each in (clip, reference))
                if found != expected:
                    said = [f"{width}x{height} {codec} {pixels}" for codec, width, height, pixels in (found, expected)]
                    raise DatasetError(
                        "videos with different encodings cannot be merged without re-encoding",
                        file=clip.file,
                        field=key,
                        found=said[0],
                        expected=f"{said[1]}, as in {reference.file}",
                        fix=f"add --operation.reencode=true, or remove the feature {key!r} first",
                    )
    try:
        extra_columns([Kept(source, 0) for source in sources])
    except pa.ArrowException as error:
        raise DatasetError(
            "the episodes tables have columns that do not fit together",
            file=sources[-1].root / "meta/episodes",
            found=str(error).splitlines()[0],
            fix="drop or convert that column in one of them",
        ) from None


def _check_same(roots: Sequence[Path], infos: Sequence[DatasetInfo]) -> None:
    for root, info in zip(roots, infos, strict=True):
        differing = sorted(set(info.features) ^ set(infos[0].features))
        if differing:
            lacks = [name for name in differing if name not in info.features]
            more = [name for name in differing if name in info.features]
            said = [f"without {', '.join(lacks)}"] * bool(lacks) + [f"with {', '.join(more)}"] * bool(more)
            raise DatasetError(
                "the datasets have different features",
                file=root / INFO_PATH,
                field="features",
                found=" and ".join(said),
                expected=f"the features of {roots[0] / INFO_PATH}",
                fix="merge with features=common to keep those that all have, or remove them first",
            )


def _differs(field: str, root: Path, found: object, other: Path, expected: object) -> DatasetError:
    fixes = {"fps": "resample one of them", "robot_type": "set it in meta/info.json if it is the same robot"}
    return DatasetError(
        f"the datasets differ in {field.split('.')[0].replace('_', ' ')}",
        file=root / INFO_PATH,
        field=field,
        found=found,
        expected=f"{expected}, as in {other / INFO_PATH}",
        fix=fixes.get(field, "remove the feature from one of them, or record it alike"),
    )


def _essence(feature: Feature) -> tuple[object, ...]:
    """What must be equal; encoder settings and notes of other tools need not be, but what a level of depth means."""
    info = feature.info or {}
    depth = (DepthRange.of(info), info.get("depth_unit")) if feature.is_depth else None
    return (feature.dtype, feature.shape, feature.names, depth)


def _described(feature: Feature) -> str:
    info = feature.info or {}
    depth = f" depth in {info.get('depth_unit')}, {DepthRange.of(info).model_dump()}" if feature.is_depth else ""
    return f"{feature.dtype}{list(feature.shape)}{depth} {feature.names}"


def _merged_feature(features: Sequence[Feature]) -> Feature:
    """The first with the encoder settings on which all agree; the others become null, as LeRobot does."""
    infos = [feature.info for feature in features if feature.info is not None]
    if not infos:
        return features[0]
    agreed: dict[str, Any] = {}
    for name in dict.fromkeys(name for info in infos for name in info):
        values = [info.get(name) for info in infos]
        differing: dict[str, Any] | None = {} if name == "video.extra_options" else None
        agreed[name] = values[0] if all(value == values[0] for value in values) else differing
    return features[0].model_copy(update={"info": agreed})

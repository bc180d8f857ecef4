"""Editing: delete, split, merge, trim, re-chunk and remove features, always from whole datasets into new directories.

Nothing is changed in place and no video is re-encoded: packets are copied, so every frame that stays decodes to the
same pixels. Everything that can be refused is refused before anything is written.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lerobot_ops.datasets.editing.merge import check_mergeable, merged_info
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.source import Kept, open_source
from lerobot_ops.datasets.editing.write import EditPlan, EditResult, write
from lerobot_ops.datasets.info import DEFAULT_FEATURES, load_info
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.errors import DatasetError, did_you_mean

__all__ = ["EditPlan", "EditResult", "delete_episodes", "merge", "rechunk", "remove_features", "split", "trim"]


def delete_episodes(
    source: Path, target: Path, episodes: Sequence[int], *, dry_run: bool = False
) -> EditResult | EditPlan:
    """Write the dataset `source` without `episodes` to `target`, the others numbered anew in their order.

    Raises DatasetError when an episode does not exist or none would be left.
    """
    opened = open_source(source)
    gone = _known_episodes(source, episodes, len(opened.rows))
    kept = [Kept(opened, number) for number in range(len(opened.rows)) if number not in gone]
    if not kept:
        raise DatasetError(
            "all episodes would be deleted",
            file=source,
            field="episodes",
            found=f"{len(gone)} of {len(opened.rows)}",
            expected="at least one episode that stays",
            fix="leave one out of the list",
        )
    return write({target: Recipe(kept, opened.info)}, dry_run)[0]


def split(
    source: Path, targets: Mapping[str, Path], splits: Mapping[str, float | list[int]], *, dry_run: bool = False
) -> list[EditResult | EditPlan]:
    """Write parts of the dataset `source`: the one called NAME in `splits` to `targets[NAME]`, in that order.

    A part is a list of episodes, or a fraction of all of them: the first part takes the first episodes, and when the
    fractions sum to 1 the last part takes what rounding leaves. When all targets lie in one directory that does not
    exist, it appears at once with all parts in it.

    Raises DatasetError when parts overlap, are empty or name unknown episodes, or when fractions sum to more than 1.
    """
    opened = open_source(source)
    parts = _parts(source, splits, len(opened.rows))
    lacking = sorted(set(splits) ^ set(targets))
    if lacking:
        raise DatasetError("splits and targets have different names", field=lacking[0], found=", ".join(targets))
    recipes = {
        targets[name]: Recipe([Kept(opened, number) for number in part], opened.info) for name, part in parts.items()
    }
    if len(recipes) < len(parts):
        raise DatasetError("two splits have the same target", found=", ".join(str(path) for path in targets.values()))
    return write(recipes, dry_run)


def merge(
    sources: Sequence[Path],
    target: Path,
    *,
    features: Literal["same", "common"] = "same",
    encodings: Mapping[str, VideoEncoding] | None = None,
    num_workers: int = 1,
    dry_run: bool = False,
) -> EditResult | EditPlan:
    """Write the episodes of all `sources`, in that order, to `target`; equal task texts become one task.

    `features="same"` refuses datasets whose features differ, `"common"` keeps those that all have. Cameras in
    `encodings` are encoded anew, `num_workers` episodes at a time. Raises DatasetError when fps, robot type, a kept
    feature or the encoding of another camera's videos differ.
    """
    if not sources:
        raise DatasetError("there is nothing to merge", field="roots", expected="at least one dataset")
    infos = [load_info(source) for source in sources]
    info = merged_info(list(sources), infos, features)
    opened = {source: open_source(source, info.video_keys) for source in dict.fromkeys(sources)}
    check_mergeable(list(opened.values()), info, encodings or {})
    kept = [Kept(opened[source], number) for source in sources for number in range(len(opened[source].rows))]
    return write({target: Recipe(kept, info, encodings=encodings or {}, workers=num_workers)}, dry_run)[0]


def trim(
    source: Path,
    target: Path,
    *,
    ranges: Mapping[int, tuple[int, int]] | None = None,
    head_s: float = 0.0,
    tail_s: float = 0.0,
    episodes: Sequence[int] | None = None,
    dry_run: bool = False,
) -> EditResult | EditPlan:
    """Write the dataset `source` to `target` with less at the beginning and the end of episodes.

    `ranges[episode]` are the frames that stay of it, from the first up to but without the second; None of the others
    changes. Or `head_s` and `tail_s` are the seconds to drop from `episodes` (all, if None). Frames and times of an
    episode begin at 0 again. Raises DatasetError when a range does not exist or nothing of an episode would be left.
    """
    opened = open_source(source)
    total = len(opened.rows)
    if bool(ranges) == bool(head_s or tail_s) or min(head_s, tail_s) < 0 or (ranges and episodes is not None):
        raise DatasetError(
            "what to trim is either given as ranges of frames or as seconds",
            file=source,
            field="ranges, head_s, tail_s",
            found=f"{dict(ranges or {})}, {head_s:g}, {tail_s:g}",
            expected="ranges of frames alone, or seconds of 0 or more",
        )
    _known_episodes(source, [*(ranges or {}), *(episodes or [])], total)
    head, tail = (round(seconds * opened.info.fps) for seconds in (head_s, tail_s))
    chosen = set(range(total) if episodes is None else episodes)
    kept = []
    for number, rows in enumerate(opened.rows):
        drops = not ranges and number in chosen
        begin, end = (ranges or {}).get(number, (head, rows.count - tail) if drops else (0, rows.count))
        if not 0 <= begin < end <= rows.count:
            raise DatasetError(
                "an episode cannot be trimmed like this",
                file=source,
                field=f"episode {number}",
                found=f"frames {begin} to {end}",
                expected=f"at least one of its {rows.count} frames",
                fix="trim it less, or delete it",
            )
        kept.append(Kept(opened, number, begin, end - begin))
    return write({target: Recipe(kept, opened.info)}, dry_run)[0]


def rechunk(
    source: Path,
    target: Path,
    *,
    data_files_size_in_mb: int | None = None,
    video_files_size_in_mb: int | None = None,
    chunks_size: int | None = None,
    dry_run: bool = False,
) -> EditResult | EditPlan:
    """Write the dataset `source` to `target` in files of other sizes; what is not given stays as it is.

    Raises DatasetError when a size is not positive.
    """
    opened = open_source(source)
    sizes = {
        "data_files_size_in_mb": data_files_size_in_mb,
        "video_files_size_in_mb": video_files_size_in_mb,
        "chunks_size": chunks_size,
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    for name, size in given.items():
        if size < 1:
            raise DatasetError("a file needs room", field=name, found=size, expected="1 or more")
    kept = [Kept(opened, number) for number in range(len(opened.rows))]
    return write({target: Recipe(kept, opened.info.model_copy(update=given))}, dry_run)[0]


def remove_features(
    source: Path, target: Path, names: Sequence[str], *, dry_run: bool = False
) -> EditResult | EditPlan:
    """Write the dataset `source` without the features `names` to `target`.

    Raises DatasetError when a feature does not exist, is one that every dataset has, or none would be left.
    """
    info = load_info(source)
    own = [name for name in info.features if name not in DEFAULT_FEATURES]
    for name in names:
        if name in DEFAULT_FEATURES:
            raise DatasetError(
                "a feature that every dataset has cannot be removed",
                file=source,
                field=name,
                found=name,
                expected=f"one of {', '.join(own)}",
            )
        if name not in own:
            raise DatasetError("the dataset has no such feature", file=source, field=name, fix=did_you_mean(name, own))
    if not names or not set(own) - set(names):
        raise DatasetError(
            "no feature would be left" if names else "no feature to remove is named",
            file=source,
            field="feature_names",
            found=", ".join(names) or "none",
            expected=f"some of {', '.join(own)}, but not all",
        )
    kept_features = {name: feature for name, feature in info.features.items() if name not in names}
    has_video = any(feature.dtype == "video" for feature in kept_features.values())
    info = info.model_copy(update={"features": kept_features, "video_path": info.video_path if has_video else None})
    opened = open_source(source, info.video_keys)
    kept = [Kept(opened, number) for number in range(len(opened.rows))]
    return write({target: Recipe(kept, info)}, dry_run)[0]


def _parts(source: Path, splits: Mapping[str, float | list[int]], total: int) -> dict[str, list[int]]:
    fractions = {name: float(part) for name, part in splits.items() if not isinstance(part, list)}
    if fractions and len(fractions) < len(splits):
        raise DatasetError(
            "splits are either all fractions or all lists of episodes", file=source, field="splits", found=dict(splits)
        )
    if fractions:
        parts = _fractions(source, fractions, total)
    else:
        parts = {name: sorted(_known_episodes(source, part, total)) for name, part in splits.items()}  # type: ignore[arg-type]
    owner: dict[int, str] = {}
    for name, part in parts.items():
        if not part:
            raise DatasetError(
                "a split would be empty",
                file=source,
                field=f"splits.{name}",
                found=f"{splits[name]} of {total} episodes",
                expected="at least one episode",
                fix="give it more, or leave it out",
            )
        shared = sorted(number for number in part if number in owner)
        if shared:
            raise DatasetError(
                "splits overlap",
                file=source,
                field=f"splits.{name}",
                found=f"episode {shared[0]} is in {owner[shared[0]]!r} and in {name!r}",
                expected="every episode in one split at most",
            )
        owner |= dict.fromkeys(part, name)
    if not parts:
        raise DatasetError("no split is named", file=source, field="splits", expected="a name and a fraction or a list")
    return parts


def _fractions(source: Path, fractions: Mapping[str, float], total: int) -> dict[str, list[int]]:
    whole = sum(fractions.values())
    if min(fractions.values()) <= 0 or whole > 1 + 1e-6:
        raise DatasetError(
            "the fractions of a split are not possible",
            file=source,
            field="splits",
            found=dict(fractions),
            expected="fractions above 0 with a sum of 1 at most",
        )
    parts, begin = {}, 0
    for name, fraction in fractions.items():
        last = name == list(fractions)[-1] and abs(whole - 1) <= 1e-6
        end = total if last else begin + int(total * fraction + 1e-9)
        parts[name] = list(range(begin, end))
        begin = end
    return parts


def _known_episodes(source: Path, episodes: Sequence[int], total: int) -> set[int]:
    unknown = sorted({number for number in episodes if not 0 <= number < total})
    if unknown:
        raise DatasetError(
            "the dataset has no such episode",
            file=source,
            field="episodes",
            found=", ".join(map(str, unknown)),
            expected=f"0 to {total - 1}",
            fix="nothing was written; correct the list",
        )
    return set(episodes)

"""What validation looks for: every check's id, how serious it is, and the shape of what it reports."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from pydantic import Field

from lerobot_ops.config import Config

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class Finding(Config):
    """One problem of a dataset, complete without a look at the code."""

    check: str
    """Id of the check (a key of `CHECKS`)."""
    severity: Severity
    """`error`: readers fail or learn from wrong data; `warning`: probably not what you want; `info`: worth knowing."""
    message: str
    """One sentence: what was found and what was expected."""
    place: str
    """File relative to the dataset's root, with the column or field."""
    fix: str
    """What to do about it."""
    episodes: list[int] = Field(default_factory=list)
    """The episodes concerned, ascending; empty when the problem is not one of episodes."""


class Check(NamedTuple):
    """How serious a check's findings are unless they say otherwise, and what it means to pass."""

    severity: Severity
    promise: str


CHECKS: dict[str, Check] = {
    # files
    "info": Check("error", "meta/info.json is readable and complete"),
    "missing-file": Check("error", "every file that the dataset needs or points at exists"),
    "unreadable-file": Check("error", "every parquet and JSON file can be read to its end"),
    "leftover-files": Check("warning", "no recording scratch files or files that nothing points at"),
    "unfinished-recording": Check("warning", "the recording was finished, and info.json counts all of its episodes"),
    # tables
    "data-schema": Check("error", "data files hold exactly the declared columns, with declared types and no nulls"),
    "episodes-schema": Check("error", "the episodes table has its columns and sensible values, episodes 0, 1, 2 …"),
    "tasks-schema": Check("error", "the task table has its columns, and row i holds task_index i"),
    "not-finite": Check("error", "no NaN and no infinity in any feature"),
    "language": Check("error", "language columns have their types, known styles, and one persistent list per episode"),
    # across files
    "totals": Check("error", "info.json's counters and splits equal what the tables hold"),
    "index-order": Check("error", "`index` counts 0, 1, 2 … over the data files in name order"),
    "frame-order": Check("error", "episodes follow one another and `frame_index` counts from 0 in each"),
    "timestamps": Check("error", "`timestamp` is frame_index / fps"),
    "episode-bounds": Check("error", "each episode's length and row range are those of its frames"),
    "data-pointers": Check(
        "error", "each episode's row names the file that holds its frames, and the one that holds the row"
    ),
    "task-index": Check("error", "every frame's task_index is in the task table"),
    "episode-tasks": Check("error", "each episode's task texts are those of its frames"),
    # videos and images
    "video-unreadable": Check("error", "every video can be opened and its packets read"),
    "video-format": Check("error", "codec, pixel format, size and rate of every video are those of info.json"),
    "video-frames": Check("error", "every video holds the frames that its episodes claim, without overlap"),
    "video-timestamps": Check("error", "episodes begin exactly on a frame of their video"),
    "video-keyframes": Check("warning", "episodes begin on a keyframe, so that they can be cut without re-encoding"),
    "video-decode": Check("error", "frames that are looked at decode, first and last of every episode among them"),
    "image-decode": Check("error", "images that are looked at decode to the declared size"),
    "depth-format": Check("error", "depth videos keep 12 bits, and info.json says what their levels stand for"),
    # statistics
    "stats-missing": Check("error", "meta/stats.json has every statistic of every feature, in its shape"),
    "stats-implausible": Check("error", "statistics are finite and ordered, min ≤ quantiles ≤ max"),
    "stats-stale": Check("warning", "statistics are those of the data"),
    "episode-stats": Check("warning", "every episode has its own statistics"),
    "histograms": Check("warning", "pixel counts, where there are any, are those behind the episodes' statistics"),
    # quality
    "constant-dimension": Check("warning", "every dimension of state and action varies"),
    "saturated-dimension": Check("warning", "no dimension of state and action is at its limit most of the time"),
    "jumps": Check("warning", "state and action take no step far beyond their usual ones"),
    "frozen-camera": Check("warning", "pictures change while the robot moves"),
    "blank-frames": Check("warning", "no picture is black, overexposed or of one colour"),
    "episode-without-success": Check("warning", "every episode reaches success, where success is recorded"),
    "episode-length": Check("warning", "no episode is far shorter or longer than the others"),
    "missing-task-text": Check("warning", "every task says in words what to do"),
    "duplicate-episodes": Check("warning", "no two episodes hold the same frames"),
}


def finding(
    check: str, message: str, *, place: str, fix: str, episodes: Iterable[int] = (), severity: Severity | None = None
) -> Finding:
    """A finding of `check`, as serious as the check says unless `severity` is given."""
    return Finding(
        check=check,
        severity=severity or CHECKS[check].severity,
        message=message,
        place=place,
        fix=fix,
        episodes=sorted({int(episode) for episode in episodes}),
    )


def counted(number: int, noun: str) -> str:
    """`1 episode`, `3 episodes`, `1,000 frames`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(values: Iterable[object], limit: int = 5) -> str:
    """`a, b, c … (9 in all)`: the first of many."""
    texts = [str(value) for value in values]
    shown = ", ".join(texts[:limit])
    return shown if len(texts) <= limit else f"{shown} … ({len(texts):,} in all)"

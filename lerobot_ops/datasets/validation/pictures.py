"""Checks of what cameras show: pictures that do not decode, frozen cameras, blank pictures.

How many pictures are looked at is for the caller to say (`Decode`): few are enough to find a camera that froze or went
dark for a while, all of them to find a single one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lerobot_ops.datasets.validation.checks import Finding, counted, finding, listed
from lerobot_ops.datasets.validation.evidence import Evidence

Decode = Literal["ends", "all", "none"]
"""Which frames are decoded: the first, the last and three between of every episode; every frame; none."""

FROZEN_LEVELS = 8
"""Grey levels of 255 by which some part of the picture changes unless the camera is frozen; noise stays below."""
FROZEN_SECONDS = 1.0
"""A picture that stays the same for a shorter time is not reported."""
MOVED = 0.05
"""Share of its range by which some dimension of the state changes when the robot moves."""
BLANK = 0.995
"""Share of the pixels that are dark, bright or of one level in a blank picture."""
DARK, BRIGHT = 10, 250


@dataclass(frozen=True)
class Shown:
    """A picture that was looked at, or why that failed."""

    episode: int
    frame: int
    """Its number in the episode."""
    picture: np.ndarray | None
    """uint8 [height, width, channels], or distances of another dtype [height, width]."""
    problem: str = ""
    """What is wrong with it; empty if nothing is."""


def looked_at(length: int, decode: Decode) -> list[int]:
    """The frames of an episode of `length` frames that are decoded, ascending."""
    if decode == "all":
        return list(range(length))
    return sorted({0, length // 4, length // 2, 3 * length // 4, length - 1}) if decode == "ends" else []


def check_pictures(
    evidence: Evidence, key: str, name: str, check: str, restore: str, shown: Iterable[Shown]
) -> Iterator[Finding]:
    """Judge the pictures of the camera `key` in the file `name`, those of an episode in their order.

    `check` is the id for pictures that do not decode, `restore` what to do about them.
    """
    place = name if evidence.info.features[key].dtype == "video" else f"{name} {key}"
    broken: dict[str, list[int]] = {}
    blank: dict[str, list[tuple[int, int]]] = {}
    watches: dict[int, _Watch] = {}
    looked = 0
    for each in shown:
        if each.problem:
            broken.setdefault(each.problem, []).append(each.episode)
        if each.picture is None:
            continue
        looked += 1
        kind = blank_kind(each.picture)
        if kind:
            blank.setdefault(kind, []).append((each.episode, each.frame))
        else:
            watches.setdefault(each.episode, _Watch()).add(each.frame, each.picture)
    for problem, episodes in broken.items():
        of = f"pictures of {counted(len(set(episodes)), 'episode')} in {name}"
        yield finding(check, f"{of}: {problem}", place=place, fix=restore, episodes=episodes)
    fix = "delete these episodes, or trim them; check the camera's cable, exposure and driver"
    for kind, frames in blank.items():
        episode, frame = frames[0]
        message = (
            f"{counted(len(frames), 'picture')} of camera {key!r} of {looked:,} looked at"
            f" {'is' if len(frames) == 1 else 'are'} {kind}: frame {frame} of episode {episode} is the first"
        )
        yield finding("blank-frames", message, place=place, fix=fix, episodes=[number for number, _ in frames])
    stretches = {episode: _frozen(evidence, episode, watch) for episode, watch in watches.items()}
    frozen = {episode: found for episode, found in stretches.items() if found}
    if frozen:
        spans = (f"episode {number} frames {a} to {b}" for number, found in frozen.items() for a, b in found)
        message = f"camera {key!r} shows the same picture while the robot moves: {listed(spans, 3)}"
        yield finding("frozen-camera", message, place=place, fix=fix, episodes=frozen)


def blank_kind(picture: np.ndarray) -> str | None:
    """`black`, `overexposed`, `of one colour`; None for a picture that shows something."""
    if picture.dtype != np.uint8:
        values = picture[::2, ::2]
        return "without any distance" if np.mean(values == values.flat[0]) >= BLANK else None
    values = picture[::2, ::2]
    if np.mean(values.max(2) <= DARK) >= BLANK:
        return "black"
    if np.mean(values.min(2) >= BRIGHT) >= BLANK:
        return "overexposed"
    middle = np.median(values, axis=(0, 1))
    return "of one colour" if np.mean((np.abs(values - middle) <= 2).all(2)) >= BLANK else None


def is_frozen(pictures: np.ndarray) -> bool:
    """Whether uint8 pictures [n, height, width, channels] are one picture, apart from encoding noise."""
    blocks = np.stack([_blocks(picture) for picture in pictures])
    return len(pictures) > 1 and float(np.ptp(blocks, axis=0).max()) < FROZEN_LEVELS


@dataclass
class _Watch:
    """Finds the longest runs of pictures that are the same, of one episode."""

    runs: list[list[int]] = field(default_factory=list)
    """The frames of each run; the last one may go on."""
    _first: np.ndarray | None = None
    """The first picture of the last run, coarsely."""

    def add(self, frame: int, picture: np.ndarray) -> None:
        blocks = _blocks(picture)
        first = self._first
        if first is not None and first.shape == blocks.shape and np.abs(blocks - first).max() < FROZEN_LEVELS:
            self.runs[-1].append(frame)
        else:
            self.runs.append([frame])
            self._first = blocks


def _frozen(evidence: Evidence, episode: int, watch: _Watch) -> list[tuple[int, int]]:
    """The runs in which the robot moves, long enough to be reported: their first and last frames."""
    least = FROZEN_SECONDS * evidence.info.fps
    runs = [run for run in watch.runs if run[-1] - run[0] + 1 >= least and len(run) > 1]
    return [(run[0], run[-1]) for run in runs if _moves(evidence, episode, run)]


def _moves(evidence: Evidence, episode: int, frames: list[int]) -> bool:
    """Whether state (or else action) changes over these frames; without either, a camera is never called frozen."""
    begin, end = evidence.runs.get(episode, (0, 0))
    name = next((name for name in ("observation.state", "action") if name in evidence.columns), None)
    if name is None or begin + frames[-1] >= end:
        return False
    rows = evidence.columns[name][begin + np.array(frames)].reshape(len(frames), -1).astype(np.float64)
    low, high = evidence.range(name)
    with np.errstate(invalid="ignore"):
        return bool((np.ptp(rows, axis=0) > MOVED * (high - low)).any())


def _blocks(picture: np.ndarray) -> np.ndarray:
    """The grey means of blocks of a picture, 0 to 255: [rows, columns]."""
    if picture.ndim == 3:
        grey = picture.mean(2, dtype=np.float32)
    else:  # 12-bit levels or millimetres up to a few metres, or metres
        grey = np.minimum(picture * np.float32(25 if picture.dtype.kind == "f" else 1 / 16), 1000)
    height, width = grey.shape
    size = min(height, width, max(8, min(height, width) // 32))
    grey = grey[: height // size * size, : width // size * size]
    return grey.reshape(height // size, size, width // size, size).mean((1, 3))

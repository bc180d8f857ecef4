"""Clips of finished episodes, made by playing them again with rendering on.

Nothing is rendered while an evaluation runs but what the policy sees. Afterwards the first successes and failures of a
task are replayed; a clip is kept only when its replay gave the episode's record again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_ops.config import Config
from lerobot_ops.datasets.encoding import VideoEncoding
from lerobot_ops.datasets.video import Piece, cut_and_join
from lerobot_ops.datasets.video_writer import VideoWriter
from lerobot_ops.evaluation import rollout
from lerobot_ops.evaluation.actors import Act, script
from lerobot_ops.evaluation.config import ClipsConfig
from lerobot_ops.evaluation.records import Record
from lerobot_ops.evaluation.rollout import Episode
from lerobot_ops.evaluation.sandbox import Worker

FOLDER = "clips"
_ENCODING = {"vcodec": "h264", "crf": 23, "preset": "fast"}


class Clip(Config):
    """A video of one episode: H.264, yuv420p, at the speed of the simulated time."""

    path: str
    """Relative to the evaluation's folder."""
    task: str
    episode: int
    seed: int
    success: bool


@dataclass(frozen=True)
class Unfaithful:
    """A clip that was dropped, because playing the episode again went differently."""

    first: Record
    again: Record

    def __str__(self) -> str:
        told = {True: "succeeded", False: "failed"}
        return (
            f"no clip of {self.first.task} episode {self.first.episode}: it {told[self.first.success]} after "
            f"{self.first.steps} steps, and when played again {told[self.again.success]} after {self.again.steps}"
        )


def chosen(records: Iterable[Record], config: ClipsConfig) -> list[Record]:
    """The episodes that get a clip: of the first tasks, the first successes and failures, in the order of `records`."""
    taken: dict[tuple[str, bool], int] = {}
    tasks: list[str] = []
    picked = []
    for record in records:
        if record.error is not None:
            continue
        if record.task not in tasks:
            tasks.append(record.task)
        outcome = (record.task, record.success)
        taken[outcome] = taken.get(outcome, 0) + 1
        if taken[outcome] <= config.per_outcome and len(tasks) <= config.max_tasks:
            picked.append(record)
    return picked


def film(
    worker: Worker,
    episode: Episode,
    record: Record,
    act: Act | None,
    folder: Path,
    config: ClipsConfig,
    cameras: list[str],
    last: int = 1,
) -> Clip | Unfaithful:
    """Play `episode` again into `folder`/clips; `act` is None for the scripted expert."""
    if act is None:
        act = script(rollout.play_expert(worker, episode)[1])
    outcome = "success" if record.success else "failure"
    path = folder / FOLDER / f"{record.task}-{record.episode:03d}-{outcome}.mp4"
    every = max(1, round(worker.info["fps"] / config.fps))
    fps = max(1, round(worker.info["fps"] / every))
    video = {"every": every, "size": config.size}
    draft = path.with_suffix(".draft.mp4")
    encoding = VideoEncoding.model_validate({**_ENCODING, "g": 2 * fps})
    try:
        with VideoWriter(draft, fps=fps, height=config.size, width=config.size, encoding=encoding) as writer:
            again = rollout.play(worker, episode, act, cameras=cameras, last=last, video=video, show=_into(writer))
        if again.outcome() != record.outcome():
            return Unfaithful(record, again)
        cut_and_join(
            [Piece(draft, 0.0, writer.frames)], path, fps
        )  # puts the index first, so that browsers play at once
    finally:
        draft.unlink(missing_ok=True)
    return Clip(
        path=f"{FOLDER}/{path.name}", task=record.task, episode=record.episode, seed=record.seed, success=record.success
    )


def paths_by_task(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """The clips' paths, by task."""
    return {clip.task: [other.path for other in clips if other.task == clip.task] for clip in clips}


def _into(writer: VideoWriter) -> Callable[[np.ndarray[Any, Any]], None]:
    def show(frames: np.ndarray[Any, Any]) -> None:
        for frame in frames:
            writer.add(frame)

    return show

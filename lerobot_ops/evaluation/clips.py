"""Clips of finished episodes, made by playing them again with rendering on, and a contact sheet of each task's clips.

Nothing is rendered while an evaluation runs but what the policy sees. Afterwards the first failures and successes of a
task are replayed; a clip is kept only when its replay gave the episode's record again. A clip runs in the time of the
simulation; what it shows is said by the page that shows it, and never written into its pixels.
"""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.config import Config
from lerobot_ops.datasets.videos.decoder import open_video
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import Piece, cut_and_join
from lerobot_ops.datasets.videos.video_writer import VideoWriter
from lerobot_ops.evaluation import rollout
from lerobot_ops.evaluation.actors import Act, script
from lerobot_ops.evaluation.config import ClipsConfig
from lerobot_ops.evaluation.records import Record
from lerobot_ops.evaluation.rollout import Episode
from lerobot_ops.evaluation.sandbox import Worker

FOLDER = "clips"
COLUMNS, TILE = 5, 192
"""Of a contact sheet: pictures in a row, and the width and height of one in pixels."""
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
    """The episodes that get a clip: task by task, in the order of `records`, the first failures, then successes.

    Failures are of the first tasks that have any, and successes too, so that those of a part of the records are never
    fewer than the whole has of that part.
    """
    counted = [record for record in records if record.error is None]
    by_outcome: dict[tuple[str, bool], list[Record]] = {}
    for record in counted:
        by_outcome.setdefault((record.task, record.success), []).append(record)
    shown = {
        success: [task for task, outcome in by_outcome if outcome == success][: config.max_tasks]
        for success in (False, True)
    }
    return [
        record
        for task in dict.fromkeys(record.task for record in counted)
        for success in (False, True)
        if task in shown[success]
        for record in by_outcome[task, success][: config.per_outcome]
    ]


def stride(control_rate: int, wanted: int) -> int:
    """Steps from one frame of a clip to the next: of those that give a whole number of frames per second, the one
    nearest to `wanted` frames, so that a clip takes exactly as long as the simulated time."""
    whole = [every for every in range(1, control_rate + 1) if control_rate % every == 0]
    return min(whole, key=lambda every: abs(math.log(control_rate / every / wanted)))


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
    every = stride(worker.info["fps"], config.fps)
    fps = worker.info["fps"] // every
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


def write_sheets(folder: Path, clips: Sequence[Clip]) -> dict[str, str]:
    """A contact sheet for each task: the last frame of each of its clips, in their order, row by row.

    `folder` is the evaluation's; the paths of the JPEG files, relative to it, by task.
    """
    sheets = {}
    for task, paths in paths_by_task(clips).items():
        sheets[task] = f"{FOLDER}/{task}.jpg"
        write_bytes(folder / sheets[task], _sheet([_last_frame(folder / path) for path in paths]))
    return sheets


def paths_by_task(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """The clips' paths, by task."""
    return {clip.task: [other.path for other in clips if other.task == clip.task] for clip in clips}


def _into(writer: VideoWriter) -> Callable[[np.ndarray[Any, Any]], None]:
    def show(frames: np.ndarray[Any, Any]) -> None:
        for frame in frames:
            writer.add(frame)

    return show


def _last_frame(path: Path) -> np.ndarray[Any, Any]:
    with open_video(path) as container:
        *_, last = container.decode(video=0)
        return last.to_ndarray(format="rgb24")


def _sheet(pictures: Sequence[np.ndarray[Any, Any]]) -> bytes:
    """Pictures, uint8 (height, width, 3), side by side, as a JPEG."""
    from PIL import Image

    columns = min(COLUMNS, len(pictures))
    sheet = Image.new("RGB", (columns * TILE, -(-len(pictures) // columns) * TILE))
    for place, picture in enumerate(pictures):
        tile = Image.fromarray(picture).resize((TILE, TILE))
        sheet.paste(tile, (place % columns * TILE, place // columns * TILE))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=85)
    return content.getvalue()

"""The report of a pipeline run: one HTML file that needs nothing else, not even a network.

Charts are SVG, pictures and clips are inside, and it reads without JavaScript.
"""

import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.config import Config
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video_writer import encode

CLIP_FPS = 20
SHEET_WIDTH = 240
"""Pixels of one picture in a contact sheet."""
PLOT_WIDTH, PLOT_HEIGHT = 640, 220


class Step(Config):
    """One card of the lineage."""

    title: str
    name: str
    version: str
    """The digest, whole."""
    facts: dict[str, str] = {}


class TaskScore(Config):
    """One row of the success table; percentages from 0 to 100."""

    task: str
    pc_success: float
    ci_low: float
    ci_high: float
    n_successes: int
    n_episodes: int
    n_errors: int


class ReportClip(Config):
    """A playable clip."""

    outcome: Literal["success", "failure", "discarded"]
    caption: str
    path: Path
    """An mp4 in H.264."""


class ReportData(Config):
    """What a report shows."""

    title: str
    lineage: list[Step]
    """From the recordings to the evaluation, in order."""
    links: dict[str, str]
    """Ids that lead to the runs and the code."""
    datasets: list[dict[str, str]]
    """One row per dataset, the same columns in each."""
    contact_sheet: Path | None = None
    """A dataset with a camera, whose episodes' first frames are shown."""
    loss: list[tuple[int, float]]
    """Step and training loss."""
    overall: TaskScore
    scores: list[TaskScore]
    clips: list[ReportClip]
    no_failure: bool
    """Whether no episode of the evaluation failed."""


def write_report(data: ReportData, target: Path) -> None:
    """Write the report to `target`, whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lerobot_ops.evaluation", "templates"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        data=data,
        loss=_curve(data.loss),
        sheet=_inline(contact_sheet(data.contact_sheet), "image/jpeg") if data.contact_sheet else None,
        clips=[(clip, _inline(clip.path.read_bytes(), "video/mp4")) for clip in data.clips],
    )
    write_bytes(target, page.encode())


def contact_sheet(root: Path, columns: int = 4) -> bytes:
    """The first frame of each episode of a dataset's first camera, in rows, as a JPEG."""
    from PIL import Image

    dataset = LeRobotDataset(root)
    frames = _pictures(dataset, dataset.episode_bounds[0][: 3 * columns])
    height = round(SHEET_WIDTH * frames.shape[1] / frames.shape[2])
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * SHEET_WIDTH, rows * height), "white")
    for place, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize((SHEET_WIDTH, height))
        sheet.paste(picture, (place % columns * SHEET_WIDTH, place // columns * height))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=85)
    return content.getvalue()


def episode_clip(root: Path, episode: int, target: Path) -> None:
    """One episode of a dataset's first camera as an H.264 clip in real time, which every browser plays."""
    dataset = LeRobotDataset(root)
    first, last = (int(bounds[episode]) for bounds in dataset.episode_bounds)
    stride = max(1, round(dataset.fps / CLIP_FPS))
    frames = _pictures(dataset, np.arange(first, last, stride))
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        encoded = Path(scratch, "clip.mp4")
        encode(encoded, frames, round(dataset.fps / stride), VideoEncoding(vcodec="h264", crf=23, g=20))
        encoded.rename(target)


def _pictures(dataset: LeRobotDataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Frames of the first camera: uint8 [rows, height, width, channels]."""
    frames = dataset.frames(dataset.info.camera_keys[0], rows)
    return np.ascontiguousarray(np.moveaxis(frames, -3, -1))


def _inline(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _curve(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """An SVG polyline with its axes' labels; the loss on a logarithmic scale."""
    steps, losses = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    exponents = np.log10(np.maximum(losses, 1e-12))
    low, high = float(exponents.min()), float(max(exponents.max(), exponents.min() + 0.1))
    x = steps / steps.max() * PLOT_WIDTH
    y = (high - exponents) / (high - low) * PLOT_HEIGHT
    ticks = [(share * PLOT_HEIGHT, f"{10 ** (high - share * (high - low)):.2g}") for share in (0.0, 0.5, 1.0)]
    return {
        "line": " ".join(f"{px:.1f},{py:.1f}" for px, py in zip(x, y, strict=True)),
        "ticks": ticks,
        "steps": [(share * PLOT_WIDTH, f"{share * steps.max():,.0f}") for share in (0.0, 0.5, 1.0)],
        "width": PLOT_WIDTH,
        "height": PLOT_HEIGHT,
        "first": losses[0],
        "last": losses[-1],
    }

"""A camera's frames of one episode as an mp4 that every browser plays, its packets as recorded where it can."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lerobot_ops.datasets.videos.decoder import open_video
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import Piece, cut_and_join
from lerobot_ops.datasets.videos.video_writer import VideoWriter
from lerobot_ops.datasets.viewing.episode import EpisodeView, VideoPart, camera_frames

_PLAYABLE = {
    "av1": {"yuv420p", "yuv420p10le"},
    "h264": {"yuv420p", "yuvj420p"},
    "vp9": {"yuv420p", "yuv420p10le"},
}
"""By codec, the pixel formats that browsers play."""
_PREVIEW = VideoEncoding(vcodec="h264", crf=20, g=10)
_DEPTH_SAMPLES = 8


@dataclass(frozen=True)
class Clip:
    """An mp4 of one camera's episode."""

    camera: str
    content: bytes
    start: float
    """Seconds before the episode's first frame: what a cut keeps back to the keyframe."""
    width: int
    height: int
    about: str
    """Codec and size, and that it is a preview where it is."""


def make_clip(view: EpisodeView, camera: str) -> Clip:
    """Cut a camera's packets out, or encode a preview of frames that browsers do not play; raises DatasetError."""
    feature = view.info.features[camera]
    if feature.dtype == "video":
        part = view.video(camera)
        codec, pixels = _format(part)
        if pixels in _PLAYABLE.get(codec, ()):
            return _cut(view, camera, part, codec)
        source = f"{codec} {pixels}"
    else:
        source = "images"
    return _preview(view, camera, source)


def _format(part: VideoPart) -> tuple[str, str]:
    with open_video(part.path) as container:
        context = container.streams.video[0].codec_context
        return context.codec.canonical_name, str(context.pix_fmt)


def _cut(view: EpisodeView, camera: str, part: VideoPart, codec: str) -> Clip:
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "clip.mp4")
        start = cut_and_join([Piece(part.path, part.from_timestamp, view.frames)], target, view.fps)[0]
        content = target.read_bytes()
    height, width, _ = view.info.features[camera].size
    return Clip(camera, content, start, width, height, f"{codec}, {width}×{height}, packets as recorded")


def _preview(view: EpisodeView, camera: str, source: str) -> Clip:
    frames, about = camera_frames(view, camera), ""
    if next(camera_frames(view, camera, [0])).ndim == 2:
        near, far = _depth_range(view, camera)
        frames = (_grey(frame, near, far) for frame in frames)
        about = f", white at {near:.2f} m to black at {far:.2f} m"
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "clip.mp4")
        height, width = _encode(target, frames, view.fps)
        content = target.read_bytes()
    return Clip(camera, content, 0.0, width, height, f"{source}, {width}×{height}{about}; an H.264 preview")


def _encode(target: Path, frames: Iterable[np.ndarray], fps: int) -> tuple[int, int]:
    """Encode uint8 frames [height, width, 1, 3 or 4]; return (height, width)."""
    writer: VideoWriter | None = None
    height = width = 0
    try:
        for frame in frames:
            height, width = frame.shape[:2]
            picture = _even(frame[..., :3] if frame.shape[2] >= 3 else np.repeat(frame[..., :1], 3, axis=2))
            if writer is None:
                tall, wide = picture.shape[:2]
                writer = VideoWriter(target, fps=fps, height=tall, width=wide, encoding=_PREVIEW)
            writer.add(picture)
    finally:
        if writer is not None:
            writer.close()
    return height, width


def _even(frame: np.ndarray) -> np.ndarray:
    """The frame with its last row or column doubled where their number is odd, which H.264 cannot hold."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge") if height % 2 or width % 2 else frame


def _depth_range(view: EpisodeView, camera: str) -> tuple[float, float]:
    """The 1 % and 99 % quantiles, in metres, of some frames."""
    numbers = np.linspace(0, view.frames - 1, _DEPTH_SAMPLES).astype(int).tolist()
    seen = [frame[::4, ::4] for frame in camera_frames(view, camera, numbers)]
    near, far = np.quantile(np.stack(seen), (0.01, 0.99))
    return float(near), float(max(far, near + 0.01))


def _grey(distances: np.ndarray, near: float, far: float) -> np.ndarray:
    share = np.clip((far - distances) / (far - near), 0, 1)
    return (np.nan_to_num(share) * 255).astype(np.uint8)[..., None]

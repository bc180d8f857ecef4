"""Encoding cameras of edited episodes anew: each episode into an mp4 of its own, some of them at the same time."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lerobot_ops.datasets.editing.cameras import pictures
from lerobot_ops.datasets.editing.source import Kept, Rows
from lerobot_ops.datasets.statistics import CameraStats, Histogram
from lerobot_ops.datasets.videos.depth import LEVELS, Unit
from lerobot_ops.datasets.videos.encoding import DepthEncoding, VideoEncoding
from lerobot_ops.datasets.videos.video_writer import VideoWriter
from lerobot_ops.errors import DatasetError
from lerobot_ops.progress import counting

_BATCH = 32
"""Images that are read at a time, still as files."""


def encode_episodes(
    kept: Sequence[Kept],
    key: str,
    folder: Path,
    encoding: VideoEncoding,
    workers: int = 1,
    threads: int | None = None,
) -> tuple[list[Path], list[Histogram]]:
    """`encode_clip` of every episode into `folder`, `workers` of them at a time; the clips and their pixel counts."""
    clips = [folder / f"{number:06d}.mp4" for number in range(len(kept))]
    pool = ThreadPoolExecutor(max(1, min(workers, len(clips))))
    try:
        jobs = [
            pool.submit(encode_clip, episode, key, clip, encoding, threads)
            for episode, clip in zip(kept, clips, strict=True)
        ]
        with counting(f"encode {key}", len(jobs)) as count:
            counted = []
            for job in jobs:
                counted.append(job.result())
                count()
        return clips, counted
    finally:
        pool.shutdown(cancel_futures=True)


def encode_clip(kept: Kept, key: str, target: Path, encoding: VideoEncoding, threads: int | None = None) -> Histogram:
    """Encode the frames that are kept of an episode; `key` is the source's name of the camera, a video or images.

    Returns the counts of the pixels that went into the encoder. The levels of a depth video stay as they are, depth
    images get those of `encoding`, a DepthEncoding. Raises DatasetError when a frame is missing or of another size
    than the camera, PrerequisiteError when the encoder does not start.
    """
    fps, height, width = kept.source.info.fps, *size_of(kept, key)
    counted = CameraStats(1, LEVELS) if kept.source.info.features[key].is_depth else CameraStats()
    with VideoWriter(target, fps=fps, height=height, width=width, encoding=encoding, threads=threads) as writer:
        for picture in _frames(kept, key, encoding):
            if picture.shape[:2] != (height, width):
                raise DatasetError(
                    "a picture has another size than its camera",
                    file=kept.rows.file,
                    field=f"{key}, frame {kept.first + writer.frames} of episode {kept.episode}",
                    found=f"{picture.shape[1]}x{picture.shape[0]}",
                    expected=f"{width}x{height}",
                )
            writer.add(picture)
            counted.add(picture.reshape(height, width, -1))
    if writer.frames != kept.count:
        raise DatasetError(
            "a camera has another number of frames than its episode",
            file=kept.rows.file,
            field=f"{key} of episode {kept.episode}",
            found=f"{writer.frames} frames",
            expected=f"{kept.count} frames",
        )
    return counted.histogram()


def size_of(kept: Kept, key: str) -> tuple[int, int]:
    """(height, width) of an episode's pictures: those of its video, or as its feature declares them for images."""
    if key in kept.source.clips:
        video = kept.source.clips[key][kept.episode].video
        return video.height, video.width
    return kept.source.info.features[key].size[:2]


def depth_unit(kept: Kept, key: str) -> Unit:
    """The unit of a depth camera's images: whole numbers are millimetres, others metres, as LeRobot has it."""
    content = next(_image_files(kept.rows, key))
    with Image.open(io.BytesIO(content)) as image:
        return _unit(np.asarray(image))


def _frames(kept: Kept, key: str, encoding: VideoEncoding) -> Iterator[np.ndarray]:
    """uint8 [height, width, 3] or levels uint16 [height, width], one after the other."""
    feature = kept.source.info.features[key]
    if feature.dtype == "video":
        pixels = "gray12le" if feature.is_depth else "rgb24"
        yield from pictures(kept.clip(key), kept.count, kept.source.info.fps, pixels)
        return
    for content in _image_files(kept.rows, key):
        with Image.open(io.BytesIO(content)) as image:
            yield _levels(image, encoding) if feature.is_depth else np.asarray(image.convert("RGB"))


def _levels(image: Image.Image, encoding: VideoEncoding) -> np.ndarray:
    assert isinstance(encoding, DepthEncoding)
    distances = np.asarray(image)
    return encoding.range.levels(distances, _unit(distances))


def _unit(distances: np.ndarray) -> Unit:
    return "m" if distances.dtype.kind == "f" else "mm"


def _image_files(rows: Rows, key: str) -> Iterator[bytes]:
    """The image files in some rows of a data file, read a few at a time."""
    try:
        with pq.ParquetFile(rows.file, buffer_size=2**20) as file:
            begin, groups = 0, []
            for number in range(file.num_row_groups):
                end = begin + file.metadata.row_group(number).num_rows
                if end > rows.first and begin < rows.first + rows.count:
                    groups.append((begin, number))
                begin = end
            at = groups[0][0]
            for batch in file.iter_batches(_BATCH, [number for _, number in groups], [key]):
                first, at = at, at + batch.num_rows
                wanted = batch.slice(max(0, rows.first - first), rows.first + rows.count - max(first, rows.first))
                for cell in wanted.column(0) if at > rows.first else ():
                    yield _content(cell, rows, key)
                if at >= rows.first + rows.count:
                    return
    except (pa.ArrowException, OSError) as error:
        raise DatasetError("a data file cannot be read", file=rows.file, field=key, found=str(error)[:200]) from None


def _content(cell: pa.StructScalar, rows: Rows, key: str) -> bytes:
    content = cell["bytes"].as_py()
    if content is None:
        raise DatasetError(
            "an image is not in its data file",
            file=rows.file,
            field=key,
            found="a path only",
            expected="the bytes of an image file",
        )
    assert isinstance(content, bytes)
    return content

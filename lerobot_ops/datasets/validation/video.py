"""Checks of every video file against info.json and the episodes table, and decoding of frames of its episodes."""

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from lerobot_ops.datasets.info import INFO_PATH
from lerobot_ops.datasets.validation.checks import Finding, counted, finding, listed
from lerobot_ops.datasets.validation.evidence import Evidence
from lerobot_ops.datasets.validation.pictures import Decode, Shown, check_pictures, looked_at
from lerobot_ops.datasets.videos.decoder import open_video
from lerobot_ops.datasets.videos.video import VideoProbe, decode_times, probe
from lerobot_ops.errors import DatasetError

_RESTORE = "restore the video from a version or a copy; `lerobot-ops repair` keeps the other episodes"
_TABLE = "`lerobot-ops repair` finds the frames of the episodes anew"
TOLERANCE_S = 1e-4
"""How far a frame of a video may be from its time: LeRobot's tolerance."""


@dataclass(frozen=True)
class _Clip:
    """An episode's part of a video file, as the episodes table says."""

    episode: int
    begin_s: float
    end_s: float
    frames: int


def check_videos(evidence: Evidence, decode: Decode) -> Iterator[Finding]:
    """All checks of this module, and of the pictures that `decode` says."""
    for key in evidence.info.video_keys:
        for name, clips in _clips(evidence, key).items():
            yield from _check_file(evidence, key, name, clips, decode)


def examine(path: Path) -> VideoProbe:
    """What `video.probe` says; raises DatasetError whatever is wrong with the file."""
    try:
        return probe(path)
    except (av.FFmpegError, OSError, ValueError, AttributeError) as error:
        # Damaged headers: names that are not UTF-8 (ValueError), a codec that no decoder knows (AttributeError).
        found = "a codec that is not known" if isinstance(error, AttributeError) else str(error)
        raise DatasetError("a video cannot be read", file=path, found=found, fix=_RESTORE) from error


def _clips(evidence: Evidence, key: str) -> dict[str, list[_Clip]]:
    """File name -> the clips in it, in the order of their seconds."""
    chunks, files = evidence.rows(f"videos/{key}/chunk_index"), evidence.rows(f"videos/{key}/file_index")
    begins = evidence.rows(f"videos/{key}/from_timestamp", np.float64)
    ends = evidence.rows(f"videos/{key}/to_timestamp", np.float64)
    lengths = evidence.rows("length")
    if chunks is None or files is None or begins is None or ends is None or lengths is None:
        return {}
    found: dict[str, list[_Clip]] = {}
    columns = (values.tolist() for values in (chunks, files, begins, ends, lengths))
    for episode, (chunk, file, begin, end, length) in enumerate(zip(*columns, strict=True)):
        if min(chunk, file, begin) >= 0 and np.isfinite([begin, end]).all() and length > 0:
            clip = _Clip(episode, begin, end, length)
            found.setdefault(evidence.info.video_file(key, chunk, file), []).append(clip)
    return {name: sorted(found[name], key=lambda clip: (clip.begin_s, clip.episode)) for name in sorted(found)}


def _check_file(evidence: Evidence, key: str, name: str, clips: list[_Clip], decode: Decode) -> Iterator[Finding]:
    episodes = [clip.episode for clip in clips]
    path = evidence.root / name
    if not path.is_file():
        message = f"{name} does not exist, but {counted(len(clips), 'episode')} should be in it"
        yield finding("missing-file", message, place=name, fix=_RESTORE, episodes=episodes)
        return
    try:
        video = examine(path)
    except DatasetError as error:
        message = f"{name} cannot be read: {error.found or error.problem}"
        yield finding("video-unreadable", message, place=name, fix=_RESTORE, episodes=episodes)
        return
    yield from _format(evidence, key, name, video, episodes)
    missing = yield from _frames(evidence, name, video, clips)
    whole = [clip for clip in clips if clip.episode not in missing]
    yield from _timestamps(evidence, name, video, whole)
    yield from _keyframes(evidence, name, video, whole)
    if decode != "none":
        shown = _shown(evidence, key, name, whole, decode)
        yield from check_pictures(evidence, key, name, "video-decode", _RESTORE, shown)


def _format(evidence: Evidence, key: str, name: str, video: VideoProbe, episodes: list[int]) -> Iterator[Finding]:
    feature = evidence.info.features[key]
    declared = feature.info or {}
    differing = []
    if len(feature.shape) in (2, 3) and feature.size[:2] != (video.height, video.width):
        height, width = feature.size[:2]
        differing.append(f"size {video.width}x{video.height} (declared {width}x{height})")
    if abs(video.fps - evidence.info.fps) > 1e-3:
        differing.append(f"{video.fps:g} fps (the dataset has {evidence.info.fps})")
    found = video.info()
    for field in ("video.codec", "video.pix_fmt", "video.height", "video.width", "video.fps"):
        said = declared.get(field)
        if said is not None and said != found[field]:
            differing.append(f"{field} {found[field]} (info says {said})")
    if differing:
        message = f"{name} has {'; '.join(differing)}"
        fix = f"correct features.{key} in {INFO_PATH} if all its videos are like this one, else restore the video"
        yield finding("video-format", message, place=name, fix=fix, episodes=episodes)


def _frames(evidence: Evidence, name: str, video: VideoProbe, clips: list[_Clip]) -> Generator[Finding, None, set[int]]:
    """Report episodes that reach beyond the video or into each other; return those beyond it."""
    fps = evidence.info.fps
    missing = [clip for clip in clips if round(clip.begin_s * fps) + clip.frames > video.frames]
    if missing:
        clip = missing[0]
        begin = round(clip.begin_s * fps)
        message = (
            f"{name} has {counted(video.frames, 'frame')}, but episode {clip.episode} is frames {begin} to"
            f" {begin + clip.frames} of it ({counted(len(missing), 'episode')} in all)"
        )
        yield finding("video-frames", message, place=name, fix=_RESTORE, episodes=[clip.episode for clip in missing])
    pairs = itertools.pairwise(clips)
    overlaps = [(a, b) for a, b in pairs if round(a.begin_s * fps) + a.frames > round(b.begin_s * fps)]
    if overlaps:
        first, second = overlaps[0]
        message = f"episodes {first.episode} and {second.episode} claim the same frames of {name}"
        episodes = [clip.episode for pair in overlaps for clip in pair]
        yield finding("video-frames", message, place=name, fix=_TABLE, episodes=episodes)
    claimed = sum(clip.frames for clip in clips)
    if not missing and not overlaps and claimed < video.frames:
        message = f"{counted(video.frames - claimed, 'frame')} of {name} belong to no episode"
        fix = "nothing, or edit the dataset into a new directory to drop them"
        yield finding("video-frames", message, place=name, fix=fix, severity="info")
    return {clip.episode for clip in missing}


def _timestamps(evidence: Evidence, name: str, video: VideoProbe, clips: list[_Clip]) -> Iterator[Finding]:
    fps = evidence.info.fps
    wrong: list[tuple[_Clip, float]] = []
    ends: list[_Clip] = []
    for clip in clips:
        begin = round(clip.begin_s * fps)
        due = clip.begin_s + np.arange(clip.frames) / fps
        error = float(np.abs(video.times[begin : begin + clip.frames] - due).max())
        if error > TOLERANCE_S:
            wrong.append((clip, error))
        elif abs(clip.end_s - clip.begin_s - clip.frames / fps) > 0.5 / fps:
            ends.append(clip)
    if wrong:
        clip, error = wrong[0]
        message = (
            f"episode {clip.episode} begins at {clip.begin_s:.6f} s of {name}, but its frames are up to {error:.6f} s"
            f" away from begin + k/{fps} ({counted(len(wrong), 'episode')} in all)"
        )
        episodes = [clip.episode for clip, _ in wrong]
        yield finding("video-timestamps", message, place=name, fix=_TABLE, episodes=episodes)
    if ends:
        clip = ends[0]
        message = (
            f"episode {clip.episode} spans {clip.end_s - clip.begin_s:.3f} s of {name}, but has"
            f" {counted(clip.frames, 'frame')} at {fps} fps ({counted(len(ends), 'episode')} in all)"
        )
        episodes = [clip.episode for clip in ends]
        yield finding("video-timestamps", message, place=name, fix=_TABLE, episodes=episodes, severity="warning")


def _keyframes(evidence: Evidence, name: str, video: VideoProbe, clips: list[_Clip]) -> Iterator[Finding]:
    keys = set(video.keyframes.tolist())
    inside = [clip.episode for clip in clips if round(clip.begin_s * evidence.info.fps) not in keys]
    if inside:
        message = f"{counted(len(inside), 'episode')} of {name} do not begin on a keyframe: {listed(inside)}"
        fix = "editing keeps some frames before them in the video; re-encode the video to be rid of those"
        yield finding("video-keyframes", message, place=name, fix=fix, episodes=inside)


def _shown(evidence: Evidence, key: str, name: str, clips: list[_Clip], decode: Decode) -> Iterator[Shown]:
    """The pictures of the clips that are looked at."""
    path, fps = evidence.root / name, evidence.info.fps
    pixels = "gray12le" if evidence.info.features[key].is_depth else "rgb24"
    if decode == "all":
        yield from _all_shown(path, fps, clips, pixels)
        return
    for clip in clips:
        frames = looked_at(clip.frames, decode)
        try:
            pictures = decode_times(path, clip.begin_s + np.array(frames) / fps, pixels=pixels)
        except (DatasetError, av.FFmpegError, OSError, ValueError) as error:
            yield Shown(clip.episode, 0, None, _why(error))
            continue
        for frame, picture in zip(frames, pictures, strict=True):
            yield Shown(clip.episode, frame, picture)


def _all_shown(path: Path, fps: int, clips: list[_Clip], pixels: str) -> Iterator[Shown]:
    """Every picture of the clips, in one pass over the file; what is missing at the end did not decode."""
    clips = sorted(clips, key=lambda clip: clip.begin_s)
    firsts = np.array([round(clip.begin_s * fps) for clip in clips])
    found = [0] * len(clips)
    why = "not every frame decodes without errors"
    try:
        for number, frame in _frames_of(path, fps):
            place = int(np.searchsorted(firsts, number, side="right")) - 1
            if place >= 0 and number < firsts[place] + clips[place].frames:
                found[place] += not frame.is_corrupt
                picture = frame.to_ndarray(format=pixels)
                yield Shown(clips[place].episode, number - int(firsts[place]), picture)
    except (DatasetError, av.FFmpegError, OSError, ValueError) as error:
        why = _why(error)
    for clip, count in zip(clips, found, strict=True):
        if count < clip.frames:
            yield Shown(clip.episode, 0, None, why)


def _frames_of(path: Path, fps: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames of a video with their numbers; packets that do not decode are passed over."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        base = float(stream.time_base or 0)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            yield from ((round(frame.pts * base * fps), frame) for frame in frames if frame.pts is not None)


def _why(error: Exception) -> str:
    text = str(error.found or error.problem) if isinstance(error, DatasetError) else str(error)
    return f"it does not decode: {text.splitlines()[0] if text else type(error).__name__}"

"""Video files of a LeRobotDataset v3.0: exact decoding, and cutting and joining by packets (see also `encoding`).

One mp4 holds many episodes of one camera, at a constant rate; the episodes table says at which second each begins.
Encoded packets are never re-encoded: an episode is cut out and joined as the bytes that were recorded.
"""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream

from lerobot_ops.datasets.videos.decoder import decoder_of, open_video
from lerobot_ops.datasets.videos.mp4 import Run, Samples, read_samples, write_samples
from lerobot_ops.errors import DatasetError

_FASTSTART = {"movflags": "faststart", "fflags": "+bitexact"}


@dataclass(frozen=True)
class VideoProbe:
    """What is in an mp4, from its packets alone."""

    frames: int
    fps: float
    codec: str
    """Canonical name: av1, h264, hevc."""
    pix_fmt: str
    width: int
    height: int
    channels: int
    seconds: float
    keyframes: np.ndarray
    """int64: the numbers of the frames that are keyframes, ascending."""
    times: np.ndarray
    """float64: the presentation time of every frame in seconds, ascending."""
    signature: tuple[Any, ...]
    """Files with the same signature can be joined by packets."""

    def info(self) -> dict[str, Any]:
        """The first part of a video feature's `info` block."""
        return {
            "video.height": self.height,
            "video.width": self.width,
            "video.codec": self.codec,
            "video.pix_fmt": self.pix_fmt,
            "video.fps": round(self.fps),
            "video.channels": self.channels,
            "has_audio": False,
        }


@dataclass(frozen=True)
class Piece:
    """An episode's part of a video file."""

    file: Path
    from_timestamp: float
    """Seconds in the file."""
    frames: int


def probe(path: Path) -> VideoProbe:
    """Read what a video file holds without decoding it; raises DatasetError when it cannot be read."""
    samples = read_samples(path)
    if samples is None:
        return _probe_packets(path)
    order = np.argsort(samples.shown, kind="stable")
    return VideoProbe(
        frames=len(order),
        fps=len(order) * samples.timescale / samples.ticks,
        seconds=samples.ticks / samples.timescale,
        keyframes=np.flatnonzero(samples.keys[order]),
        times=samples.shown[order] / samples.timescale,
        **_encoding_of(path, samples.entry),
    )


def _probe_packets(path: Path) -> VideoProbe:
    """What `probe` says of any file that FFmpeg reads, from all its packets."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and p.pts is not None]
        if not packets:
            raise DatasetError("a video has no frames", file=path)
        base, rate = stream.time_base, stream.average_rate
        assert base is not None
        assert rate is not None
        shown = sorted(packets)
        times = np.array([pts for pts, _ in shown], np.float64) * float(base)
        return VideoProbe(
            frames=len(shown),
            fps=float(rate),
            seconds=float((stream.duration or 0) * base),
            keyframes=np.array([number for number, (_, key) in enumerate(shown) if key], np.int64),
            times=times,
            **_described(stream),
        )


_known_encodings: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
_KNOWN_ENCODINGS = 64


def _encoding_of(path: Path, entry: bytes) -> dict[str, Any]:
    """`_described` of a file; files with the same sample entry are encoded in the same way."""
    if entry not in _known_encodings:
        with open_video(path) as container:
            _known_encodings[entry] = _described(container.streams.video[0])
        while len(_known_encodings) > _KNOWN_ENCODINGS:
            _known_encodings.popitem(last=False)
    return _known_encodings[entry]


def _described(stream: VideoStream) -> dict[str, Any]:
    """The fields of `VideoProbe` about the encoding."""
    context = stream.codec_context
    pixels = context.format
    return {
        "codec": context.codec.canonical_name,
        "pix_fmt": str(context.pix_fmt),
        "width": context.width,
        "height": context.height,
        "channels": len(pixels.components) if pixels else 3,
        "signature": _signature(stream),
    }


def signature_of(path: Path) -> tuple[Any, ...]:
    """The signature alone (see `VideoProbe.signature`), from the head of the file."""
    with open_video(path) as container:
        return _signature(container.streams.video[0])


def cut_and_join(pieces: Sequence[Piece], target: Path, fps: int) -> list[float]:
    """Join `pieces` into the new file `target` by copying packets; return the second at which each begins in it.

    Every frame decodes to the same pixels as before. A piece that does not begin with a keyframe is copied from the
    keyframe before it, and its second is that of its own first frame. Raises DatasetError when a file cannot be read,
    lacks frames, or was encoded otherwise than the first (compare `probe(file).signature`; put it into its own file).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    starts = _join_samples(pieces, target, fps)
    return _join_packets(pieces, target, fps) if starts is None else starts


def _join_samples(pieces: Sequence[Piece], target: Path, fps: int) -> list[float] | None:
    """`cut_and_join` by ranges of bytes; None when a file is not plain enough for it."""
    files: dict[Path, Samples | None] = {}
    first: Samples | None = None
    runs: list[Run] = []
    starts: list[float] = []
    written = 0
    for piece in pieces:
        if piece.file not in files:
            files = {piece.file: read_samples(piece.file)}
        samples = files[piece.file]
        run = None if samples is None else _run_of(samples, piece, fps)
        if samples is None or run is None:
            return None
        first = first or samples
        if (samples.entry, samples.matrix) != (first.entry, first.matrix):
            return None
        before, taken = run
        runs.append(taken)
        starts.append((written + before) / fps)
        written += len(taken.sizes)
    return starts if first is not None and write_samples(target, first, runs, fps) else None


def _run_of(samples: Samples, piece: Piece, fps: int) -> tuple[int, Run] | None:
    """A piece's frames from its keyframe on, and how many of them are before it; None when some are missing."""
    numbers = np.rint(samples.shown * (fps / samples.timescale)).astype(np.int64)
    first = round(piece.from_timestamp * fps)
    start = _start_of(samples, numbers, piece, first)
    if start is None:
        return None
    key, width = int(numbers[start]), 64 + piece.frames + first - int(numbers[start])
    while True:
        window = np.arange(start, min(start + width, len(numbers)))
        window = window[numbers[window] >= key]  # others are shown before the keyframe although stored after it
        reached = np.maximum.accumulate(numbers[window]) - key
        wanted = np.cumsum((numbers[window] >= first) & (numbers[window] < first + piece.frames))
        whole = np.flatnonzero((wanted == piece.frames) & (reached == np.arange(len(window))))
        if len(whole):
            taken = window[: whole[0] + 1]
            break
        if start + width >= len(numbers):
            return None
        width *= 2
    shown = numbers[taken] - key
    if len(np.unique(shown)) < len(shown):
        return None
    return first - key, Run(piece.file, samples.offsets[taken], samples.sizes[taken], samples.keys[taken], shown)


def _start_of(samples: Samples, numbers: np.ndarray, piece: Piece, first: int) -> int | None:
    """The place of the last keyframe up to the frame `first` from which decoding can begin."""
    starts = np.flatnonzero(samples.keys & (numbers <= first))
    codec = {b"avc1": "h264", b"hvc1": "hevc", b"hev1": "hevc"}.get(samples.entry[4:8])
    if codec is None:
        return int(starts[-1]) if len(starts) else None
    header = samples.box(b"avcC" if codec == "h264" else b"hvcC")
    with open(piece.file, "rb") as file:
        for start in starts[::-1].tolist():
            content = os.pread(file.fileno(), int(samples.sizes[start]), int(samples.offsets[start]))
            if _begins_anew(content, codec, header):
                return int(start)
    return None


def _join_packets(pieces: Sequence[Piece], target: Path, fps: int) -> list[float]:
    """`cut_and_join` of any files that FFmpeg reads."""
    with contextlib.ExitStack() as stack, av.open(str(target), "w", format="mp4", options=_FASTSTART) as output:
        joint: _Joint | None = None
        file, source = None, None
        for piece in pieces:
            if source is None or piece.file != file:
                stack.close()
                file, source = piece.file, stack.enter_context(open_video(piece.file))
            if joint is None:
                joint = _Joint(output, source.streams.video[0], fps)
            joint.add(source, piece)
        return joint.starts if joint else []


def decode_frames(
    path: Path, from_timestamp: float, frames: Sequence[int] | np.ndarray, fps: int, tolerance_s: float = 1e-4
) -> np.ndarray:
    """The frames with these numbers of the episode that begins at `from_timestamp`: uint8 [n, height, width, 3]."""
    return decode_times(path, from_timestamp + np.asarray(frames, np.float64) / fps, tolerance_s)


def decode_times(path: Path, times: np.ndarray, tolerance_s: float = 1e-4, pixels: str = "rgb24") -> np.ndarray:
    """The frames shown at `times` (seconds in the file, any order): uint8 [n, height, width, 3].

    `pixels` is FFmpeg's name of another layout, such as gray12le for depth: uint16 [n, height, width]. Files stay open
    for the next call. Raises DatasetError when no frame is within `tolerance_s` of a time.
    """
    decoder = decoder_of(Path(path))
    order = np.argsort(times, kind="stable")
    found: dict[int, np.ndarray] = {}
    for place, frame in zip(order, decoder.at([float(times[place]) for place in order], tolerance_s), strict=True):
        found[int(place)] = decoder.pixels(frame, pixels)
    return np.stack([found[place] for place in range(len(order))])


class _Joint:
    """The file that `cut_and_join` writes."""

    def __init__(self, output: Any, template: VideoStream, fps: int) -> None:
        self.starts: list[float] = []
        self._output, self._fps, self._signature = output, fps, _signature(template)
        self._stream = output.add_stream_from_template(template, opaque=True)
        self._stream.time_base = Fraction(1, fps)
        self._frames = self._decoded = 0

    def add(self, source: Any, piece: Piece) -> None:
        stream = source.streams.video[0]
        if _signature(stream) != self._signature:
            raise DatasetError(
                "videos that were encoded differently cannot be joined without loss",
                file=piece.file,
                found=_signature(stream)[:4],
                expected=self._signature[:4],
                fix="put them into separate files",
            )
        run = _packets_of(source, stream, piece, self._fps)
        key = run[0].number
        if not self.starts:
            # By how many frames decoding runs ahead of showing; a property of the encoder's settings.
            ahead = max([run[0].ahead] + [order - (shown.number - key) for order, shown in enumerate(run)])
            self._decoded = -ahead
        for shown in run:
            pts = self._frames + shown.number - key
            if self._decoded > pts:
                raise DatasetError("a video's frames are stored in an unusual order", file=piece.file)
            packet = shown.packet
            packet.stream, packet.time_base = self._stream, Fraction(1, self._fps)
            packet.pts, packet.dts, packet.duration = pts, self._decoded, 1
            self._output.mux(packet)
            self._decoded += 1
        self.starts.append((self._frames + round(piece.from_timestamp * self._fps) - key) / self._fps)
        self._frames += len(run)


@dataclass(frozen=True)
class _Shown:
    """A packet, the number of the frame that it shows, and how many frames before that it has to be decoded."""

    packet: av.Packet
    number: int
    ahead: int


def _packets_of(source: Any, stream: VideoStream, piece: Piece, fps: int) -> list[_Shown]:
    """A piece's packets in decoding order, from its keyframe; the frames that they show have no gap between them."""
    first = round(piece.from_timestamp * fps)
    run = _run_from(source, stream, first, first, piece.frames, fps)
    if not run:  # the seek passed the last keyframe that will do: some files seek by decoding time
        run = _run_from(source, stream, 0, first, piece.frames, fps)
    numbers = {shown.number for shown in run}
    missing = [number for number in range(first, first + piece.frames) if number not in numbers]
    if missing:
        raise DatasetError(
            "a video has fewer frames than its episode",
            file=piece.file,
            found=f"{piece.frames - len(missing)} frames from second {piece.from_timestamp:g}",
            expected=f"{piece.frames} frames",
        )
    return run


def _run_from(source: Any, stream: VideoStream, start: int, first: int, frames: int, fps: int) -> list[_Shown]:
    base = float(stream.time_base or 0)
    source.seek(round(start / fps / base), stream=stream, backward=True)
    run: list[_Shown] = []
    highest = wanted = 0
    for packet in source.demux(stream):
        if not packet.size or packet.pts is None or packet.dts is None:
            break
        number = round(packet.pts * base * fps)
        if packet.is_keyframe and number <= first and _is_clean(packet, stream):
            run, highest, wanted = [], number, 0  # decoding can begin here: what was before it is not needed
        elif not run or number < run[0].number:
            continue  # shown before the keyframe although stored after it: no part of this piece
        run.append(_Shown(packet, number, round((packet.pts - packet.dts) * base * fps)))
        highest = max(highest, number)
        wanted += first <= number < first + frames
        if wanted == frames and highest - run[0].number == len(run) - 1:
            break
    return run


def _is_clean(packet: av.Packet, stream: VideoStream) -> bool:
    context = stream.codec_context
    return _begins_anew(bytes(packet), context.codec.canonical_name, bytes(context.extradata or b""))


_CLEAN_STARTS = {"h264": (0x1F, 0, {5}), "hevc": (0x3F, 1, {16, 17, 18, 19, 20})}
"""By codec: mask and shift of a unit's type in its first byte, and the types at which decoding starts afresh."""


def _begins_anew(content: bytes, codec: str, header: bytes) -> bool:
    """Whether a keyframe can follow any other frame. Those of an open group still count from the frames before them.

    `header` is the codec's, as in the sample entry.
    """
    if codec not in _CLEAN_STARTS:
        return True
    mask, shift, clean = _CLEAN_STARTS[codec]
    width = (header[4 if codec == "h264" else 21] & 3) + 1  # of the length in front of every unit
    at = 0
    while at + width < len(content):
        if (content[at + width] >> shift) & mask in clean:
            return True
        at += width + int.from_bytes(content[at : at + width], "big")
    return False


def _signature(stream: VideoStream) -> tuple[Any, ...]:
    context = stream.codec_context
    name = context.codec.canonical_name
    return (name, context.width, context.height, str(context.pix_fmt), bytes(context.extradata or b""))

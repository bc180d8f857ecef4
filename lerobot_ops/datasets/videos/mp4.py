"""The sample tables of an mp4: where each encoded frame is, and a new file of frames that others hold.

Format: ISO/IEC 14496-12. Only the plain files that recorders write are read here: one video track, one encoding, no
fragments, no frames hidden by an edit list. `read_samples` gives None for every other file; FFmpeg reads those.
"""

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_CODECS = {b"av01", b"avc1", b"hvc1", b"hev1"}
_ENTRY = 86
"""Bytes of a video sample entry before the boxes in it, its own header included."""
_MOST_TICKS = 2**32 - 1
_FICLONE = 0x40049409


@dataclass(frozen=True)
class Samples:
    """The encoded frames of a video file, in the order in which they are stored and decoded."""

    entry: bytes
    """How they are encoded: the sample entry, without the bit rate that depends on the frames."""
    timescale: int
    """Ticks of a second."""
    offsets: np.ndarray
    """int64: where each begins in the file."""
    sizes: np.ndarray
    """int64: its bytes."""
    shown: np.ndarray
    """int64: the tick at which it is shown."""
    keys: np.ndarray
    """bool: whether it is a keyframe."""
    ticks: int
    """How long they last altogether."""
    delay: int
    """By how many ticks decoding runs ahead of showing."""
    matrix: bytes
    """How the picture is turned and its size, as in the track header."""

    def box(self, kind: bytes) -> bytes:
        """The content of a box of the sample entry; empty if there is none."""
        return next((bytes(content) for name, content in _boxes(memoryview(self.entry)[_ENTRY:]) if name == kind), b"")


@dataclass(frozen=True)
class Run:
    """Frames that follow each other in a file, to be copied from there."""

    file: Path
    offsets: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    numbers: np.ndarray
    """int64: at which place among those of this run each is shown."""


def read_samples(path: Path) -> Samples | None:
    """The frames of a plain mp4; None when FFmpeg has to read it, or has to say what is wrong with it."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            movie = _movie(file.fileno(), size)
        samples = _samples(movie, size) if movie is not None else None
    except (OSError, struct.error, ValueError, KeyError, IndexError):
        return None
    whole = samples is not None and len(samples.sizes) and (samples.sizes > 0).all()
    return samples if whole and (samples.offsets + samples.sizes).max() <= size else None  # type: ignore[union-attr]


def write_samples(target: Path, like: Samples, runs: Sequence[Run], fps: int) -> bool:
    """Write the frames of `runs`, encoded as those of `like`, into a new file at a constant rate.

    False, and no file, when they are too long for the tables of a plain mp4.
    """
    sizes = np.concatenate([run.sizes for run in runs])
    counts = np.array([len(run.sizes) for run in runs])
    firsts = np.cumsum(counts) - counts
    shown = np.concatenate([first + run.numbers for first, run in zip(firsts.tolist(), runs, strict=True)])
    keys = np.concatenate([run.keys for run in runs])
    timescale = fps
    while timescale < 10_000:
        timescale *= 2
    step = timescale // fps
    if (len(sizes) + 1000) * step > _MOST_TICKS:
        return False
    ahead = max(round(like.delay * fps / like.timescale), int((np.arange(len(shown)) - shown).max()))
    head = _box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2mp41")
    content = int(sizes.sum())
    wide = content + len(sizes) * 64 + 2**20 > _MOST_TICKS

    def movie(begin: int) -> bytes:
        chunks = begin + np.concatenate([[0], np.cumsum(sizes)])[firsts]
        delays = (shown - np.arange(len(shown)) + ahead) * step
        table = _box(
            b"stbl",
            _box(b"stsd", struct.pack(">II", 0, 1), like.entry),
            _box(b"stts", struct.pack(">IIII", 0, 1, len(sizes), step)),
            b""
            if keys.all()
            else _box(b"stss", struct.pack(">II", 0, int(keys.sum())), _big(np.flatnonzero(keys) + 1)),
            _box(b"ctts", struct.pack(">I", 0), _runs(delays)) if delays.any() else b"",
            _box(b"stsc", struct.pack(">I", 0), _chunks(counts)),
            _box(b"stsz", struct.pack(">III", 0, 0, len(sizes)), _big(sizes)),
            _box(
                b"co64" if wide else b"stco", struct.pack(">II", 0, len(chunks)), _big(chunks, ">u8" if wide else ">u4")
            ),
        )
        return _track(table, timescale, len(sizes) * step, ahead * step, like.matrix)

    begin = len(head) + len(movie(0)) + (16 if wide else 8)
    size = struct.pack(">I4sQ", 1, b"mdat", content + 16) if wide else struct.pack(">I4s", content + 8, b"mdat")
    with open(target, "wb") as file:
        file.write(head + movie(begin) + size)
        file.flush()
        at = begin
        for path, ranges in _ranges(runs):
            with open(path, "rb") as source:
                for offset, count in ranges:
                    copy_range(source.fileno(), file.fileno(), offset, at, count)
                    at += count
    return True


def copy_file(source: Path, target: Path) -> None:
    """Copy a file into a new one, which shares its blocks where the file system can do that."""
    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            copy_range(old.fileno(), new.fileno(), 0, 0, os.fstat(old.fileno()).st_size)


def copy_range(source: int, target: int, offset: int, at: int, count: int) -> None:
    """Copy bytes between two open files, within the kernel where it can; raises OSError when there are not as many."""
    while count:
        try:
            done = os.copy_file_range(source, target, count, offset, at)
        except OSError:  # across file systems, or not supported by one
            done = os.pwrite(target, os.pread(source, min(count, 2**22), offset), at)
        if not done:
            raise OSError(f"the file ends {count} bytes too early")
        offset, at, count = offset + done, at + done, count - done


def _ranges(runs: Sequence[Run]) -> Iterator[tuple[Path, list[tuple[int, int]]]]:
    """The bytes of the frames, in their order: per file (offset, count), neighbours together."""
    path: Path | None = None
    ranges: list[tuple[int, int]] = []
    for run in runs:
        ends = run.offsets + run.sizes
        breaks = np.flatnonzero(run.offsets[1:] != ends[:-1])
        begins = run.offsets[[0, *(breaks + 1)]].tolist()
        stops = ends[[*breaks, len(ends) - 1]].tolist()
        if run.file != path:
            if path is not None:
                yield path, ranges
            path, ranges = run.file, []
        for begin, stop in zip(begins, stops, strict=True):
            if ranges and sum(ranges[-1]) == begin:
                ranges[-1] = (ranges[-1][0], stop - ranges[-1][0])
            else:
                ranges.append((begin, stop - begin))
    if path is not None:
        yield path, ranges


def _movie(file: int, size: int) -> memoryview | None:
    """The content of the box that holds the tables."""
    at = 0
    while at + 8 <= size:
        length, kind = struct.unpack(">I4s", os.pread(file, 8, at))
        header = 8
        if length == 1:
            length, header = struct.unpack(">Q", os.pread(file, 8, at + 8))[0], 16
        elif length == 0:
            length = size - at
        if not header <= length <= size - at:
            return None
        if kind == b"moov":
            return memoryview(os.pread(file, length - header, at + header))
        at += length
    return None


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    while at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        if length < 8 or at + length > len(content):
            raise ValueError("a box with a bad length")
        yield kind, content[at + 8 : at + length]
        at += length


def _samples(movie: memoryview, most: int) -> Samples | None:
    parts = list(_boxes(movie))
    tracks = [content for kind, content in parts if kind == b"trak"]
    if len(tracks) != 1 or any(kind == b"mvex" for kind, _ in parts):
        return None
    track = dict(_boxes(tracks[0]))
    media = dict(_boxes(track[b"mdia"]))
    table = dict(_boxes(dict(_boxes(media[b"minf"]))[b"stbl"]))
    movie_scale, scale = _timescale(dict(parts)[b"mvhd"]), _timescale(media[b"mdhd"])
    entry = _entry(table[b"stsd"])
    if bytes(media[b"hdlr"][8:12]) != b"vide" or entry is None or not scale or not movie_scale or b"stz2" in table:
        return None
    sizes = _sizes(table[b"stsz"], most)
    steps = _expanded(table[b"stts"], len(sizes))
    delays = _expanded(table[b"ctts"], len(sizes)).astype(np.int32).astype(np.int64) if b"ctts" in table else 0
    decoded = np.cumsum(steps) - steps
    ticks = int(steps.sum())
    shown = decoded + delays
    begin = _edit(track, ticks, int(shown.min()), scale / movie_scale)
    header = track[b"tkhd"]
    if begin is None or header[0] != 0:
        return None
    keys = np.ones(len(sizes), np.bool_)
    if b"stss" in table:
        keys = np.zeros(len(sizes), np.bool_)
        keys[_array(table[b"stss"], 8) - 1] = True
    offsets = _array(table[b"stco"], 8) if b"stco" in table else _array(table[b"co64"], 8, ">u8")
    offsets = _offsets(offsets, _array(table[b"stsc"], 8).reshape(-1, 3), sizes)
    return Samples(entry, scale, offsets, sizes, shown - begin, keys, ticks, begin, bytes(header[40:84]))


def _edit(track: dict[bytes, memoryview], ticks: int, first: int, ratio: float) -> int | None:
    """The tick of the media at which the movie begins; None when the edit list does more than that."""
    edits = dict(_boxes(track.get(b"edts", memoryview(b"")))).get(b"elst")
    if edits is None:
        return 0 if first == 0 else None
    version, count = edits[0], struct.unpack(">I", edits[4:8])[0]
    layout = ">QqI" if version == 1 else ">IiI"
    if count != 1:
        return None
    length, begin, rate = struct.unpack(layout, edits[8 : 8 + struct.calcsize(layout)])
    hidden = begin != first or rate != 0x10000 or (length + 1) * ratio < ticks
    return None if hidden else begin


def _entry(content: memoryview) -> bytes | None:
    """The only sample entry, without its bit rate."""
    entries = list(_boxes(content[8:]))
    if len(entries) != 1 or entries[0][0] not in _CODECS:
        return None
    kind, entry = entries[0]
    kept = [_box(name, part) for name, part in _boxes(entry[_ENTRY - 8 :]) if name != b"btrt"]
    return _box(kind, entry[: _ENTRY - 8], *kept)


def _timescale(header: memoryview) -> int:
    return int(struct.unpack(">I", header[20:24] if header[0] == 1 else header[12:16])[0])


def _sizes(content: memoryview, most: int) -> np.ndarray:
    same, count = struct.unpack(">II", content[4:12])
    if count > most:
        raise ValueError("more frames than bytes")
    return np.full(count, same, np.int64) if same else _array(content, 12)[:count]


def _array(content: memoryview, begin: int, dtype: str = ">u4") -> np.ndarray:
    return np.frombuffer(content[begin:], dtype).astype(np.int64)


def _expanded(content: memoryview, frames: int) -> np.ndarray:
    """A table of (how often, value) as one value per frame."""
    counts, values = _array(content, 8).reshape(-1, 2).T
    if counts.sum() != frames:
        raise ValueError("tables that contradict each other")
    return np.repeat(values, counts)


def _offsets(chunks: np.ndarray, groups: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Where each frame begins, from where the chunks begin and how many frames each has."""
    repeats = np.diff([*(groups[:, 0] - 1), len(chunks)])
    per_chunk = np.repeat(groups[:, 1], repeats)
    if per_chunk.sum() != len(sizes):
        raise ValueError("tables that contradict each other")
    before = np.cumsum(sizes) - sizes
    firsts = np.cumsum(per_chunk) - per_chunk
    return np.asarray(before + np.repeat(chunks - before[firsts], per_chunk))


def _box(kind: bytes, *parts: bytes | memoryview) -> bytes:
    return b"".join([struct.pack(">I4s", 8 + sum(map(len, parts)), kind), *parts])


def _big(values: np.ndarray, dtype: str = ">u4") -> bytes:
    return values.astype(dtype).tobytes()


def _runs(values: np.ndarray) -> bytes:
    """One value per frame as a table of (how often, value)."""
    begins = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    counts = np.diff([*begins, len(values)])
    return struct.pack(">I", len(begins)) + _big(np.stack([counts, values[begins]], axis=1))


def _chunks(counts: np.ndarray) -> bytes:
    begins = np.concatenate([[0], np.flatnonzero(np.diff(counts)) + 1])
    rows = np.stack([begins + 1, counts[begins], np.ones_like(begins)], axis=1)
    return struct.pack(">I", len(rows)) + _big(rows)


_HANDLER = struct.pack(">II4s12x", 0, 0, b"vide") + b"VideoHandler\0"
_DATA = struct.pack(">II", 0, 1) + struct.pack(">I4sI", 12, b"url ", 1)
_UPRIGHT = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def _track(table: bytes, timescale: int, ticks: int, begin: int, matrix: bytes) -> bytes:
    """The box that holds the tables, for one track of `ticks`, shown from `begin` on."""
    edit = struct.pack(">IIIiI", 0, 1, ticks, begin, 0x10000)
    media = _box(
        b"mdia",
        _box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, timescale, ticks, 0x55C4, 0)),
        _box(b"hdlr", _HANDLER),
        _box(b"minf", _box(b"vmhd", struct.pack(">IQ", 1, 0)), _box(b"dinf", _box(b"dref", _DATA)), table),
    )
    header = struct.pack(">IIIIIIQHHHH", 3, 0, 0, 1, 0, ticks, 0, 0, 0, 0, 0)
    movie = struct.pack(">IIIIIIH10x", 0, 0, 0, timescale, ticks, 0x10000, 0x100) + _UPRIGHT + bytes(24)
    return _box(
        b"moov",
        _box(b"mvhd", movie, struct.pack(">I", 2)),
        _box(b"trak", _box(b"tkhd", header, matrix), _box(b"edts", _box(b"elst", edit)), media),
    )

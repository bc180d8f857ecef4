"""Cutting by sample tables gives what cutting by FFmpeg's packets gives, and leaves to FFmpeg what is not plain."""

import itertools
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import LEROBOT

from lerobot_ops.datasets.videos import video
from lerobot_ops.datasets.videos.encoders import ordinary_priority
from lerobot_ops.datasets.videos.mp4 import read_samples
from lerobot_ops.datasets.videos.video import Piece, cut_and_join, probe

FPS, FRAMES = 10, 40
LEROBOT_VIDEOS = [
    LEROBOT / "two_task_h264/videos/observation.images.front/chunk-000/file-000.mp4",
    LEROBOT / "crashed/videos/observation.images.front/chunk-000/file-000.mp4",
    LEROBOT / "button_av1_cut/videos/observation.image/chunk-000/file-000.mp4",
]
ENCODERS = {
    "plain": ("libx264", {"g": "4", "bf": "0"}),
    "B-frames": ("libx264", {"g": "12", "bf": "3"}),
    "open groups": ("libx265", {"g": "9", "bf": "3", "x265-params": "open-gop=1:log-level=none:pools=none"}),
    "AV1": ("libsvtav1", {"g": "5", "preset": "12"}),
}


def encoded(path: Path, encoder: str, options: dict[str, str], format_options: dict[str, str] | None = None) -> Path:
    if encoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {encoder}: pip install --force-reinstall av")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format="mp4", options=format_options or {}) as container:
        stream = container.add_stream(encoder, FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, FPS)
        with ordinary_priority():  # what later tests start must not come before everything else
            stream.codec_context.open()
        for number in range(FRAMES):
            picture = rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module", params=ENCODERS)
def clip(request, tmp_path_factory):
    return encoded(tmp_path_factory.mktemp("clip") / "clip.mp4", *ENCODERS[request.param])


def packets(path: Path) -> list[tuple[float, float, bytes, bool]]:
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
        found = [(p.pts, p.dts, bytes(p), p.is_keyframe) for p in container.demux(video=0) if p.size]
    return [(float(pts * base), float(dts * base), content, key) for pts, dts, content, key in found]


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def same_probe(path: Path) -> None:
    ours, ffmpegs = probe(path), video._probe_packets(path)
    for field in ("frames", "fps", "codec", "pix_fmt", "width", "height", "channels", "signature"):
        assert getattr(ours, field) == getattr(ffmpegs, field), field
    assert ours.seconds == pytest.approx(ffmpegs.seconds)
    np.testing.assert_array_equal(ours.keyframes, ffmpegs.keyframes)
    np.testing.assert_allclose(ours.times, ffmpegs.times, atol=1e-9)


@pytest.mark.parametrize("path", LEROBOT_VIDEOS, ids=lambda path: path.parts[-5])
def test_the_tables_of_lerobots_videos_say_what_ffmpeg_says(path):
    assert read_samples(path) is not None
    same_probe(path)


def test_the_tables_of_any_plain_video_say_what_ffmpeg_says(clip):
    assert read_samples(clip) is not None
    same_probe(clip)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, FRAMES - 1), st.integers(1, 12)), min_size=1, max_size=4))
def test_pieces_are_those_that_ffmpeg_would_cut(clip, tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("cut")
    pieces = [Piece(clip, first / FPS, min(count, FRAMES - first)) for first, count in cuts]
    starts = video._join_samples(pieces, folder / "ours.mp4", FPS)
    assert starts == video._join_packets(pieces, folder / "ffmpegs.mp4", FPS)
    ours, ffmpegs = packets(folder / "ours.mp4"), packets(folder / "ffmpegs.mp4")
    assert [(pts, content, key) for pts, _, content, key in ours] == [(p, c, k) for p, _, c, k in ffmpegs]
    assert all(dts <= pts for pts, dts, _, _ in ours)
    assert all(before < after for (_, before, _, _), (_, after, _, _) in itertools.pairwise(ours))
    same_probe(folder / "ours.mp4")
    decoded, original = pictures(folder / "ours.mp4"), pictures(clip)
    for start, piece in zip(starts, pieces, strict=True):
        for number in range(piece.frames):
            expected = original[round(piece.from_timestamp * FPS) + number]
            np.testing.assert_array_equal(decoded[round(start * FPS) + number], expected)
    shutil.rmtree(folder)


def test_a_video_cut_twice_is_the_same(clip, tmp_path):
    cut_and_join([Piece(clip, 0.3, 30)], tmp_path / "first.mp4", FPS)
    start = cut_and_join([Piece(clip, 0.0, FRAMES)], tmp_path / "whole.mp4", FPS)[0]
    cut_and_join([Piece(tmp_path / "whole.mp4", start + 0.3, 30)], tmp_path / "second.mp4", FPS)
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "faststart", "delay_moov+frag_keyframe"])
def test_fragments_are_left_to_ffmpeg(tmp_path, flags):
    path = encoded(tmp_path / "clip.mp4", *ENCODERS["plain"], {"movflags": flags})
    assert (read_samples(path) is None) == ("frag" in flags)
    starts = cut_and_join([Piece(path, 1.5, 7), Piece(path, 0.2, 5)], tmp_path / "cut.mp4", FPS)
    decoded, original = pictures(tmp_path / "cut.mp4"), pictures(path)
    np.testing.assert_array_equal(decoded[round(starts[1] * FPS) + 4], original[6])


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: apt-get install ffmpeg")
@pytest.mark.parametrize("arguments", [["-ss", "0.55"], ["-itsoffset", "0.5"]], ids=["hidden frames", "begins late"])
def test_edit_lists_that_hide_or_delay_are_left_to_ffmpeg(clip, tmp_path, arguments):
    copied = tmp_path / "copied.mp4"
    command = ["ffmpeg", "-v", "error", *arguments, "-i", str(clip), "-c", "copy", str(copied)]
    subprocess.run(command, check=True)
    assert read_samples(copied) is None or packets(copied)[0][0] == 0


def test_damaged_files_are_left_to_ffmpeg(clip, tmp_path):
    content = clip.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(content)
        if number % 3 == 0:
            damaged = damaged[: rng.integers(0, len(content) - 1)]
        else:
            begin = content.rindex(b"moov") if number % 3 == 1 else 0
            for place in rng.integers(begin, len(content), 20):
                damaged[place] = rng.integers(0, 256)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(damaged)
        samples = read_samples(path)  # never raises
        if samples is not None:
            assert (samples.offsets >= 0).all()
            assert (samples.offsets + samples.sizes <= len(damaged)).all()

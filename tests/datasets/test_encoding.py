"""Encoding: LeRobot's options for every codec, the same bytes for the same frames, and clear words."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from lerobot_ops.datasets.videos.encoders import has_avx512, opens
from lerobot_ops.datasets.videos.encoding import HARDWARE, DepthEncoding, VideoEncoding
from lerobot_ops.datasets.videos.video import decode_frames, decode_times, probe
from lerobot_ops.datasets.videos.video_writer import VideoWriter, encode
from lerobot_ops.errors import ConfigError, PrerequisiteError

SOFTWARE = ("libsvtav1", "h264", "hevc")


def pictures(count: int = 20) -> np.ndarray:
    """Noise of several scales that drifts."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    drifting = [np.roll(scene, (3 * k, 5 * k), (0, 1)) // 2 for k in range(count)]
    return np.stack(drifting) + rng.integers(0, 40, (count, *scene.shape), dtype=np.uint8)


@pytest.mark.parametrize(
    ("settings", "threads", "options"),
    [
        ({}, None, {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "fast-decode=0"}),
        (
            {"vcodec": "av1", "fast_decode": 5, "preset": 8, "g": 10},
            3,
            {"g": "10", "crf": "30", "preset": "8", "svtav1-params": "fast-decode=2:lp=3"},
        ),
        ({"vcodec": "h264", "fast_decode": 1}, None, {"tune": "fastdecode", "threads": "1", "bf": "0"}),
        ({"vcodec": "h264", "preset": "fast", "crf": None}, 4, {"preset": "fast", "threads": "4"}),
        (
            {"vcodec": "hevc", "g": None},
            None,
            {"crf": "30", "x265-params": "pools=none:frame-threads=1:log-level=error"},
        ),
        (
            {"vcodec": "hevc", "extra_options": {"x265-params": "lossless=1:log-level=none"}},
            2,
            {"x265-params": "pools=2:frame-threads=1:log-level=none:lossless=1"},
        ),
        ({"vcodec": "libaom-av1", "preset": 6}, 2, {"crf": "30", "cpu-used": "6", "threads": "2", "row-mt": "1"}),
        ({"vcodec": "h264_videotoolbox", "crf": 20}, None, {"g": "2", "q:v": "60"}),
        ({"vcodec": "hevc_nvenc", "preset": "p4"}, None, {"g": "2", "rc": "0", "qp": "30", "preset": "p4"}),
        ({"vcodec": "h264_vaapi"}, None, {"g": "2", "qp": "30"}),
        ({"vcodec": "h264_qsv", "preset": "fast"}, None, {"g": "2", "global_quality": "30", "preset": "fast"}),
        ({"extra_options": {"crf": 1, "tune": "psnr"}}, None, {"crf": "30", "tune": "psnr"}),
    ],
)
def test_options_are_lerobots(settings: dict, threads: int | None, options: dict[str, str]) -> None:
    found = VideoEncoding(**settings).options(threads)
    assert {name: found.get(name) for name in options} == options


def test_the_info_block_is_lerobots() -> None:
    keys = ["g", "crf", "preset", "fast_decode", "video_backend", "extra_options"]
    names = [f"video.{key}" for key in keys]
    assert list(VideoEncoding().info()) == [*names, "is_depth_map"]
    depth = [f"video.{key}" for key in ("depth_min", "depth_max", "shift", "use_log")]
    assert list(DepthEncoding().info()) == [*names, *depth, "is_depth_map"]
    assert DepthEncoding(depth_max=4.0).info()["video.depth_max"] == 4.0


@pytest.mark.parametrize("vcodec", SOFTWARE)
@pytest.mark.parametrize("threads", [None, 2])
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, vcodec: str, threads: int | None) -> None:
    frames, encoding = pictures(), VideoEncoding(vcodec=vcodec)
    assert encoding.deterministic

    def encoded(number: int) -> bytes:
        path = tmp_path / f"{number}.mp4"
        with VideoWriter(path, fps=30, height=128, width=160, encoding=encoding, threads=threads) as writer:
            for frame in frames:
                writer.add(frame)
        return path.read_bytes()

    with ThreadPoolExecutor(3) as pool:  # at once, so that they get in each other's way
        contents = set(pool.map(encoded, range(6)))
    assert len(contents) == 1
    found = probe(tmp_path / "0.mp4")
    assert (found.frames, found.codec, found.keyframes.tolist()) == (20, encoding.codec, list(range(0, 20, 2)))
    assert np.abs(decode_frames(tmp_path / "0.mp4", 0.0, range(20), 30).astype(int) - frames).mean() < 18


@pytest.mark.parametrize("encoding", [DepthEncoding(), VideoEncoding(vcodec="hevc"), VideoEncoding(vcodec="h264")])
def test_an_episode_may_be_a_frame_or_two(tmp_path: Path, encoding: VideoEncoding) -> None:
    depth = isinstance(encoding, DepthEncoding)
    levels = np.random.default_rng(0).integers(0, 4096, (2, 48, 64)).astype(np.uint16)
    frames = levels if depth else pictures(2)[:, :48, :64]
    for count in [1, 2] * 15:  # decode times that an encoder makes up are wrong now and then
        with VideoWriter(tmp_path / "short.mp4", fps=30, height=48, width=64, encoding=encoding) as writer:
            for frame in frames[:count]:
                writer.add(frame)
        assert probe(tmp_path / "short.mp4").frames == count


def test_depth_loses_nothing(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 4096, (5, 48, 64)).astype(np.uint16)
    with VideoWriter(tmp_path / "depth.mp4", fps=30, height=48, width=64, encoding=DepthEncoding()) as writer:
        for frame in levels:
            writer.add(frame)
    assert np.array_equal(decode_times(tmp_path / "depth.mp4", np.arange(5) / 30, pixels="gray12le"), levels)
    assert probe(tmp_path / "depth.mp4").pix_fmt == "gray12le"


def test_auto_is_an_encoder_that_works_here(tmp_path: Path) -> None:
    found = VideoEncoding(vcodec="auto").resolved()
    assert found.vcodec == next((name for name in HARDWARE if opens(name)), "libsvtav1")
    encode(tmp_path / "auto.mp4", pictures(4), 30, VideoEncoding(vcodec="auto"))
    assert probe(tmp_path / "auto.mp4").frames == 4
    assert not VideoEncoding(vcodec="auto").deterministic


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = [name for name in ("libaom-av1", *HARDWARE) if name not in av.codecs_available]
    for name in missing:
        with pytest.raises(PrerequisiteError, match=rf"not in this FFmpeg(.|\n)*{name}(.|\n)*libsvtav1, libx264"):
            VideoEncoding(vcodec=name).resolved()
    for name in (name for name in HARDWARE if name not in missing and not opens(name)):
        with pytest.raises(PrerequisiteError, match=rf"does not start(.|\n)*{name}"):
            encode(tmp_path / "x.mp4", pictures(2), 30, VideoEncoding(vcodec=name))


def test_a_wrong_option_is_no_silence() -> None:
    with pytest.raises(ConfigError, match=r"no such option(.|\n)*extra_options.tunes(.|\n)*'tune'"):
        VideoEncoding(vcodec="h264", extra_options={"tunes": "film"}).resolved()


@pytest.mark.skipif(not has_avx512(), reason="this processor has no AVX-512")
def test_x264_keeps_the_parameters_that_it_is_given() -> None:
    given = VideoEncoding(vcodec="h264", extra_options={"x264-params": "aq-mode=0"}).options()
    assert given["x264-params"] == "asm=avx2:aq-mode=0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's encoders may come before others")
@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_FIFO])
def test_encoders_run_beside_other_threads_and_not_before_them(tmp_path: Path, policy: int) -> None:
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    own = policy, os.sched_param(3 if policy == os.SCHED_FIFO else 0)
    os.sched_setscheduler(0, *own)
    try:
        with VideoWriter(tmp_path / "x.mp4", fps=30, height=64, width=64, encoding=VideoEncoding()) as writer:
            threads = [int(name) for name in os.listdir("/proc/self/task")]
            found = {thread: (os.sched_getscheduler(thread), os.sched_getparam(thread)) for thread in threads}
            assert len(threads) > 2
            assert found.pop(threading.get_native_id()) == own
            assert {policy for policy, _ in found.values()} <= {os.SCHED_OTHER}
            writer.add(np.zeros((64, 64, 3), np.uint8))
    finally:
        os.sched_setscheduler(0, *before)

"""Frames that were decoded once are the frames that decoding gives, whoever reads them and whatever happened before."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import change_info, record, write_grey

from lerobot_ops.datasets import frame_cache
from lerobot_ops.datasets.frame_cache import FrameCache
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.videos.depth import DepthRange
from lerobot_ops.errors import ArtifactError, DatasetError

FRONT, WRIST = "observation.images.front", "observation.images.wrist"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return record(tmp_path / "recorded", ["push", "pull"], cameras={FRONT: "video", WRIST: "image"})


def made(folder: Path) -> list[str]:
    """The caches in a folder, whole or not."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_cached_frames_equal_decoded_ones(root: Path, tmp_path: Path) -> None:
    deltas = {FRONT: [-0.1, 0.0], "action": [0.0, 0.1]}
    plain = LeRobotDataset(root, delta_timestamps=deltas)
    cached = LeRobotDataset(root, delta_timestamps=deltas, frame_cache=FrameCache(tmp_path / "cache"))
    for row in range(len(plain)):
        for name, value in plain[row].items():
            found = cached[row][name]
            assert found == value if name == "task" else torch.equal(found, value), name
    rows = np.array([[20, 3], [3, 24]])
    for camera in (FRONT, WRIST):
        assert np.array_equal(cached.frames(camera, rows), plain.frames(camera, rows))
        assert np.array_equal(cached.frames(camera, rows, scaled=True), plain.frames(camera, rows, scaled=True))


def test_a_cache_is_made_once_for_a_content(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = FrameCache(folder)
    LeRobotDataset(root, frame_cache=cache)
    (name,) = made(folder)
    assert np.array_equal(LeRobotDataset(root, frame_cache=folder)[3][FRONT], LeRobotDataset(root)[3][FRONT])
    before = (folder / name / f"{FRONT}.npy").stat()
    shutil.copytree(root, tmp_path / "copy")
    LeRobotDataset(tmp_path / "copy", frame_cache=cache)
    assert made(folder) == [name]
    assert (folder / name / f"{FRONT}.npy").stat().st_mtime_ns == before.st_mtime_ns
    LeRobotDataset(root, frame_cache=cache, episodes=[1])
    other = record(tmp_path / "other", ["push", "pull"], cameras={FRONT: "video", WRIST: "image"}, seed=5)
    LeRobotDataset(other, frame_cache=cache)
    assert len(made(folder)) == 3


def test_resized_frames_are_pillows(root: Path, tmp_path: Path) -> None:
    plain = LeRobotDataset(root)
    small = LeRobotDataset(root, frame_cache=FrameCache(tmp_path, size=(24, 20)))
    assert small.features[FRONT].shape == (24, 20, 3)
    assert plain.features[FRONT].shape == (48, 64, 3)
    for camera in (FRONT, WRIST):
        (frame,) = plain.frames(camera, np.array([7]))
        wanted = Image.fromarray(frame.transpose(1, 2, 0)).resize((20, 24), Image.Resampling.BILINEAR)
        assert np.array_equal(small.frames(camera, np.array([7]))[0].transpose(1, 2, 0), np.asarray(wanted))
    assert small[7][FRONT].shape == (3, 24, 20)


def _fill(root: Path, folder: Path, pause: float) -> None:
    if pause:
        copy = frame_cache._copy

        def slowly(*arguments):
            time.sleep(pause)
            return copy(*arguments)

        frame_cache._copy = slowly
    LeRobotDataset(root, frame_cache=FrameCache(folder))


def test_what_a_killed_process_leaves_is_no_cache(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    killed = multiprocessing.get_context("fork").Process(target=_fill, args=(root, folder, 60.0))
    killed.start()
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/*.npy")) and not list(folder.glob(".*/*.npy")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert all(name.startswith(".") for name in made(folder))
    dataset = LeRobotDataset(root, frame_cache=FrameCache(folder))
    assert np.array_equal(dataset.frames(FRONT, np.arange(25)), LeRobotDataset(root).frames(FRONT, np.arange(25)))
    assert len(made(folder)) == 1


def test_two_processes_make_one_cache(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(root, folder, 0.05)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(made(folder)) == 1


def test_an_error_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    (video,) = root.glob("videos/*/*/*.mp4")
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"video of the dataset is damaged(.|\n)*file-000.mp4"):
        LeRobotDataset(root, frame_cache=FrameCache(folder))
    assert not list(folder.rglob("*.npy"))


def test_a_disk_that_is_too_small_is_not_filled(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    LeRobotDataset(root, frame_cache=FrameCache(tmp_path / "cache"))
    assert "decoding 25 frames of 2 camera(s)" in caplog.text
    with pytest.raises(ArtifactError, match=r"lacks room(.|\n)*GB free(.|\n)*smaller size"):
        LeRobotDataset(root, frame_cache=FrameCache(tmp_path / "cache", size=(2_000_000, 2_000_000)))
    assert len(made(tmp_path / "cache")) == 1


def test_depth_is_cached_as_levels(tmp_path: Path) -> None:
    """A grey picture in the place of a depth camera's levels."""
    root = record(tmp_path / "recorded", ["push"])
    levels = [np.random.default_rng(number).integers(0, 4096, (48, 64)).astype(np.uint16) for number in range(12)]
    write_grey(root / load_info(root).video_file(FRONT, 0, 0), levels, 10)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    about = {"is_depth_map": True, **DepthRange().info()}
    change_info(
        root, features=features | {FRONT: {"dtype": "video", "shape": [48, 64, 1], "names": None, "info": about}}
    )
    plain, cached = LeRobotDataset(root), LeRobotDataset(root, frame_cache=FrameCache(tmp_path / "cache"))
    assert torch.equal(plain[3][FRONT], cached[3][FRONT])
    (file,) = (tmp_path / "cache").rglob("*.npy")
    assert np.array_equal(np.load(file)[:, 0], levels)
    half = LeRobotDataset(root, frame_cache=FrameCache(tmp_path / "cache", size=(24, 32)), depth_output_unit="m")
    assert np.array_equal(half[3][FRONT][0], DepthRange().distances(levels[3][::2, ::2], "m"))

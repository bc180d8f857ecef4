"""The end of a recording: small files joined, old files kept, and the dataset replaced in one step."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from recordings import LEROBOT, change_info, change_table, columns_of, frames_of, record

from lerobot_ops.artifacts import replacing, settle
from lerobot_ops.datasets.histograms import load_histograms
from lerobot_ops.datasets.info import DEFAULT_FEATURES, load_info
from lerobot_ops.datasets.joining import fill_files, steps_on
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.statistics import Histogram, numeric_stats
from lerobot_ops.datasets.tables import load_episodes, load_stats
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import probe
from lerobot_ops.datasets.writing.beginning import is_recording
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.versioning.digest import digest

FRONT = "observation.images.front"


def frames(root: Path, count: int) -> list[dict]:
    """Frames like those of the dataset at `root`."""
    rng = np.random.default_rng(9)
    values = []
    for number in range(count):
        frame = {
            "observation.state": rng.normal(size=3),
            "action": rng.normal(size=2),
            "next.reward": rng.normal(size=1),
        }
        frame = {name: value.astype(np.float32) for name, value in frame.items()}
        picture = np.full((48, 64, 3), 10 * number, np.uint8)
        values.append({**frame, "next.success": np.array([False]), FRONT: picture, "task": "push"})
    return values


def go_on(root: Path, episodes: int = 1, **options) -> None:
    with DatasetWriter.resume(root, **options) as writer:
        for _ in range(episodes):
            for frame in frames(root, 6):
                writer.add_frame(frame)
            writer.save_episode()


def test_a_dataset_of_several_sessions_is_like_one_of_a_single_session(tmp_path: Path) -> None:
    root = record(tmp_path / "d", ["push", "pull"])
    before = [frames_of(root, episode, FRONT) for episode in range(2)]
    for _ in range(3):
        go_on(root, 2)
    read = LeRobotDataset(root)
    assert (read.num_episodes, read.num_frames, read.tasks) == (8, 12 + 13 + 36, ["push", "pull"])
    assert {path.name for path in root.rglob("file-*")} == {"file-000.parquet", "file-000.mp4"}
    for episode in range(2):
        assert np.array_equal(frames_of(root, episode, FRONT), before[episode])
    rows = load_episodes(root).to_pylist()
    assert [row["dataset_from_index"] for row in rows] == [0, 12, 25, 31, 37, 43, 49, 55]
    assert [row[f"videos/{FRONT}/from_timestamp"] for row in rows] == [row["dataset_from_index"] / 10 for row in rows]
    assert probe(root / f"videos/{FRONT}/chunk-000/file-000.mp4").frames == 61
    for name in ("action", "index"):
        exact, stats = numeric_stats(read.column(name)), load_stats(root)[name]
        assert all(np.array_equal(stats[key], exact[key]) for key in exact), name


def test_camera_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    root = record(tmp_path / "d", ["push"])
    go_on(root)
    counted = load_histograms(root)
    assert sorted(counted) == [0, 1]
    whole: Histogram = counted[0][FRONT] + counted[1][FRONT]
    stats = load_stats(root)[FRONT]
    assert all(np.array_equal(stats[key], value) for key, value in whole.stats().items())


def test_without_pixel_counts_the_statistics_are_merged(tmp_path: Path) -> None:
    root = shutil.copytree(LEROBOT / "two_task_h264", tmp_path / "d")
    (key,), features, old = load_info(root).video_keys, load_info(root).features, load_stats(root)
    user = {name: feature for name, feature in features.items() if name not in DEFAULT_FEATURES}
    blank = {name: np.zeros(feature.shape, "uint8" if name == key else feature.dtype) for name, feature in user.items()}
    with DatasetWriter.resume(root) as writer:
        for _ in range(5):
            writer.add_frame({**blank, "task": "push"})
        writer.save_episode()
    stats = load_stats(root)[key]
    assert stats["count"][0] == old[key]["count"][0] + 5
    assert (stats["min"] == 0).all()
    assert (stats["mean"] < old[key]["mean"]).all()


def test_whatever_else_is_in_the_folder_stays(tmp_path: Path) -> None:
    root = record(tmp_path / "d", ["push"])
    (root / "README.md").write_text("about")
    (root / "meta/notes").mkdir()
    (root / "meta/notes/one.txt").write_text("1")
    (root / "link").symlink_to("README.md")
    change_info(root, splits={"train": "0:1", "val": "0:1"})
    change_table(
        root / "meta/episodes/chunk-000/file-000.parquet", lambda table: table.append_column("mine", pa.array([7]))
    )
    root.chmod(0o750)
    go_on(root)
    assert ((root / "link").is_symlink(), (root / "link").read_text()) == (True, "about")
    assert (root / "meta/notes/one.txt").read_text() == "1"
    assert stat.S_IMODE(root.stat().st_mode) == 0o750
    assert load_info(root).splits == {"train": "0:1", "val": "0:1"}  # not ours to say
    assert load_episodes(root).column("mine").to_pylist() == [7, None]


def test_a_file_of_another_layout_is_left_alone(tmp_path: Path) -> None:
    root = record(tmp_path / "d", ["push"])
    data = root / "data/chunk-000/file-000.parquet"
    change_table(data, lambda table: table.replace_schema_metadata({}))
    content = data.read_bytes()
    go_on(root)
    assert data.read_bytes() == content
    assert (root / "data/chunk-000/file-001.parquet").exists()
    assert columns_of(root, ["index"])["index"] == list(range(18))
    assert LeRobotDataset(root).num_frames == 18


def test_another_quality_goes_into_another_video(tmp_path: Path) -> None:
    root = record(tmp_path / "d", ["push"])
    go_on(root, video=VideoEncoding(vcodec="h264", pix_fmt="yuv420p", preset="ultrafast"))
    files = sorted(root.glob(f"videos/{FRONT}/*/*.mp4"))
    assert [probe(path).frames for path in files] == [12, 6]
    assert np.abs(frames_of(root, 1, FRONT).mean((1, 2, 3)) - 10 * np.arange(6)).max() < 3


def test_finalising_without_a_new_episode_changes_nothing(tmp_path: Path) -> None:
    root = record(tmp_path / "d", ["push"])
    before, inode = digest(root), root.stat().st_ino
    with DatasetWriter.resume(root):
        assert is_recording(root)
    assert (digest(root), root.stat().st_ino) == (before, inode)


def test_a_crash_between_two_renames_is_mended(tmp_path: Path) -> None:
    """Where a file system cannot exchange two directories, there is no dataset for an instant."""
    root = record(tmp_path / "d", ["push"])
    expected = digest(root)
    root.rename(tmp_path / ".d.partial-before")
    shutil.copytree(record(tmp_path / "new", ["push", "pull"]), tmp_path / ".d.partial-next")
    DatasetWriter.resume(root).finalize()
    assert LeRobotDataset(root).num_episodes == 2
    shutil.rmtree(root)
    shutil.copytree(record(tmp_path / "old", ["push"]), tmp_path / ".d.partial-before")
    settle(root)  # nothing new was made: the old one comes back
    assert digest(root) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "new", "old"]


def test_a_directory_takes_the_place_of_another(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with replacing(target) as draft:
        (draft / "new").write_text("new")
        assert os.listdir(target) == ["old"]
    assert os.listdir(target) == ["new"]
    with pytest.raises(ZeroDivisionError), replacing(target) as draft:
        (draft / "newer").write_text(str(1 / 0))
    assert (os.listdir(target), os.listdir(tmp_path)) == (["new"], ["target"])


def test_files_are_filled_in_order() -> None:
    info = load_info(LEROBOT / "two_task_h264").model_copy(update={"chunks_size": 2})
    assert fill_files([4, 5, 1, 9, 20, 1], 10, info) == [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert fill_files([4, 5, 2], 10, info, first=(3, 1)) == [(3, 1), (3, 1), (4, 0)]
    assert fill_files([1, 1, 1], 10, info, kinds=["a", "b", "b"]) == [(0, 0), (0, 1), (0, 1)]
    assert (steps_on((0, 1), 2, info), steps_on((2, 0), -1, info)) == ((1, 1), (1, 1))

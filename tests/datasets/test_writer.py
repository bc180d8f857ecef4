"""Recording: what is saved survives a kill, what is not leaves nothing, and the order of events leaves no trace."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from recordings import LEROBOT

from lerobot_ops.datasets.encoding import VideoEncoding
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.statistics import numeric_stats
from lerobot_ops.datasets.tables import column_array, load_data, load_episodes, load_stats
from lerobot_ops.datasets.video import probe
from lerobot_ops.datasets.writer import DatasetWriter
from lerobot_ops.errors import ArtifactError, DatasetError
from lerobot_ops.versioning.digest import digest

CAMERA, PICTURE = "observation.images.front", "observation.images.wrist"
SIZE = (32, 48, 3)
FEATURES = {
    CAMERA: {"dtype": "video", "shape": SIZE, "names": ["height", "width", "channels"]},
    PICTURE: {"dtype": "image", "shape": SIZE, "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    "action": {"dtype": "float32", "shape": (2,), "names": None},
    "pose": {"dtype": "float64", "shape": (2, 3), "names": None},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    "note": {"dtype": "string", "shape": (1,), "names": None},
}
H264 = VideoEncoding(vcodec="h264")


def frame(episode: int, number: int) -> dict:
    rng = np.random.default_rng([episode, number])
    return {
        CAMERA: np.full(SIZE, (20 * number, 40 * episode, 90), np.uint8),
        PICTURE: rng.integers(0, 256, SIZE, dtype=np.uint8),
        "observation.state": rng.normal(size=3).astype(np.float32),
        "action": rng.normal(size=2).astype(np.float32),
        "pose": rng.normal(size=(2, 3)),
        "next.reward": rng.normal(size=1).astype(np.float32),
        "next.success": np.array([number == 7]),
        "note": f"frame {number}",
        "task": ["push the block", "pull the lever"][episode % 2],
    }


def record_episode(writer: DatasetWriter, index: int) -> None:
    with writer.episode(index) as episode:
        for number in range(8 + index):
            episode.add_frame(frame(index, number))


def record(root: Path, indices: list[int], **options) -> Path:
    with DatasetWriter(root, fps=30, features=FEATURES, robot_type="arm", video=H264, **options) as writer:
        for index in indices:
            record_episode(writer, index)
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Five episodes of 8 to 12 frames."""
    return record(tmp_path_factory.mktemp("written") / "dataset", [0, 1, 2, 3, 4])


def test_what_was_recorded_is_read_back(dataset: Path) -> None:
    read = LeRobotDataset(dataset)
    assert (len(read), read.num_episodes, read.tasks) == (50, 5, ["push the block", "pull the lever"])
    row = 0
    for index in range(5):
        for number in range(8 + index):
            written, batch = frame(index, number), read.batch([row])
            for name in FEATURES:
                if name != CAMERA:
                    expected = written[name].transpose(2, 0, 1) if name == PICTURE else written[name]
                    found = np.array(batch[name][0]).reshape(np.shape(expected))
                    assert np.array_equal(found, expected), name
            assert batch["task"] == [written["task"]]
            assert batch["index"][0] == row
            assert batch["timestamp"][0] == np.float32(number / 30)
            assert (batch["episode_index"][0], batch["frame_index"][0]) == (index, number)
            row += 1
    filmed = np.stack([frame(2, number)[CAMERA] for number in range(10)]).transpose(0, 3, 1, 2)
    assert np.abs(read.frames(CAMERA, np.arange(17, 27)).astype(int) - filmed).max() < 8  # the video is lossy


def test_the_order_and_the_threads_leave_no_trace(dataset: Path, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "other", fps=30, features=FEATURES, robot_type="arm", video=H264) as writer:
        threads = [threading.Thread(target=record_episode, args=(writer, index)) for index in (4, 2, 3, 0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert digest(tmp_path / "other") == digest(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_layout_is_lerobots(dataset: Path) -> None:
    """What LeRobot's loader relies on (format section 2.17)."""
    info = json.loads((dataset / "meta/info.json").read_text())
    theirs = json.loads((LEROBOT / "two_task_h264/meta/info.json").read_text())
    assert list(info) == list(theirs)
    assert info["splits"] == {"train": "0:5"}
    assert list(info["features"])[-5:] == ["timestamp", "frame_index", "episode_index", "index", "task_index"]
    assert list(info["features"][CAMERA]["info"]) == list(theirs["features"]["observation.images.front"]["info"])

    data = pq.ParquetFile(dataset / "data/chunk-000/file-000.parquet")
    assert data.metadata.num_row_groups == 5
    assert data.schema_arrow.names == [name for name in info["features"] if name != CAMERA]
    described = json.loads(data.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert described["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 2, "_type": "List"}
    assert described[PICTURE] == {"_type": "Image"}

    tasks = pd.read_parquet(dataset / "meta/tasks.parquet")
    assert (tasks.index.name, list(tasks.index)) == ("task", ["push the block", "pull the lever"])
    assert tasks["task_index"].tolist() == [0, 1]

    rows = load_episodes(dataset).to_pylist()
    assert [row["length"] for row in rows] == [8, 9, 10, 11, 12]
    assert [row["dataset_to_index"] for row in rows] == [8, 17, 27, 38, 50]
    for row in rows:
        assert row[f"videos/{CAMERA}/from_timestamp"] == row["dataset_from_index"] / 30
        assert row[f"videos/{CAMERA}/to_timestamp"] == row["dataset_to_index"] / 30
    theirs_columns = load_episodes(LEROBOT / "two_task_h264").schema
    for name in theirs_columns.names:
        assert load_episodes(dataset).schema.field(name).type == theirs_columns.field(name).type, name


def test_huggingface_datasets_loads_the_tables(dataset: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    files = str(dataset / "data/*/*.parquet")
    rows = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path), split="train")
    assert rows.num_rows == 50
    assert np.array_equal(np.array(rows[3][PICTURE]), frame(0, 3)[PICTURE])
    assert rows[3]["next.success"] is False
    assert rows.features["action"].length == 2


def test_statistics_are_those_of_the_frames(dataset: Path) -> None:
    stats, info = load_stats(dataset), load_info(dataset)
    assert stats.keys() == info.features.keys() - {"note"}
    for name, feature in info.numeric.items():
        exact = numeric_stats(column_array(load_data(dataset, [name]).column(name), feature))
        assert all(np.array_equal(stats[name][key], exact[key]) for key in exact), name
    assert stats[CAMERA]["mean"].shape == (3, 1, 1)
    assert stats[CAMERA]["count"].tolist() == [50]
    episode = load_episodes(dataset, ["stats/index/min", "stats/index/max"]).to_pylist()[2]
    assert episode == {"stats/index/min": [17.0], "stats/index/max": [26.0]}


def test_videos_have_a_constant_rate_and_episodes_start_on_keyframes(dataset: Path) -> None:
    found = probe(dataset / f"videos/{CAMERA}/chunk-000/file-000.mp4")
    assert (found.frames, found.codec) == (50, "h264")
    assert np.allclose(found.times, np.arange(50) / 30, atol=1e-6)
    assert {0, 8, 17, 27, 38} <= set(found.keyframes.tolist())


def test_files_are_filled_and_chunks_follow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = {"blob": {"dtype": "float64", "shape": (40_000,), "names": None}, CAMERA: FEATURES[CAMERA]}
    options = {"chunks_size": 2, "data_files_size_in_mb": 1, "video_files_size_in_mb": 1}
    with DatasetWriter(tmp_path / "d", fps=30, features=features, video=H264, **options) as writer:
        for index in range(7):
            with writer.episode(index) as episode:
                picture = rng.integers(0, 256, SIZE, dtype=np.uint8)
                episode.add_frame({"blob": rng.normal(size=40_000), CAMERA: picture, "task": "fill"})
    files = [str(path.relative_to(tmp_path / "d/data")) for path in sorted((tmp_path / "d/data").rglob("*.parquet"))]
    assert files == [f"chunk-{k // 2:03d}/file-{k % 2:03d}.parquet" for k in range(4)]
    rows = load_episodes(tmp_path / "d").to_pylist()
    places = [(row["data/chunk_index"], row["data/file_index"]) for row in rows]
    assert places == [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1)]
    assert {row[f"videos/{CAMERA}/file_index"] for row in rows} == {0}
    assert LeRobotDataset(tmp_path / "d").column("index").tolist() == list(range(7))


def test_gaps_close_and_what_is_discarded_or_fails_is_gone(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", fps=30, features=FEATURES, video=H264) as writer:
        record_episode(writer, 7)
        with writer.episode(3) as episode:
            episode.add_frame(frame(3, 0))
            episode.discard()
        with pytest.raises(DatasetError, match="no task"), writer.episode(4) as episode:
            episode.add_frame(frame(4, 0) | {"task": None})
        assert writer.saved == {7}
        record_episode(writer, 2)
    read = LeRobotDataset(tmp_path / "d")
    assert read.column("observation.state")[0].tolist() == frame(2, 0)["observation.state"].tolist()
    assert (read.num_episodes, read.num_frames) == (2, 10 + 15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros(2)}, r"action(.|\n)*float64\(2,\)(.|\n)*float32\(2,\)"),
        ({"action": np.zeros(3, np.float32)}, r"action(.|\n)*float32\(3,\)"),
        ({"action": [0.0, 0.0]}, r"action(.|\n)*list"),
        ({"action": np.array([0, np.nan], np.float32)}, r"action(.|\n)*nan(.|\n)*finite"),
        ({CAMERA: np.zeros((3, 32, 48), np.uint8)}, r"front(.|\n)*uint8\(3, 32, 48\)(.|\n)*uint8\(32, 48, 3\)"),
        ({"next.reward": np.float32(0)}, r"next.reward(.|\n)*float32\(1,\)"),
        ({"note": 3}, r"note(.|\n)*int(.|\n)*str"),
        ({"task": ""}, r"no task"),
        ({"timestamp": np.zeros(1, np.float32)}, r"timestamp"),
    ],
)
def test_a_bad_frame_is_refused_and_not_added(tmp_path: Path, change: dict, message: str) -> None:
    writer = DatasetWriter(tmp_path / "d", fps=30, features=FEATURES, video=H264)
    with writer, writer.episode(0) as episode:
        episode.add_frame(frame(0, 0))
        with pytest.raises(DatasetError, match=message):
            episode.add_frame(frame(0, 1) | change)
        episode.add_frame(frame(0, 1))
    assert LeRobotDataset(tmp_path / "d").num_frames == 2


def test_a_frame_that_lacks_a_feature_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(DatasetError, match=r"lacks a feature(.|\n)*action"),
        DatasetWriter(tmp_path / "d", fps=30, features=FEATURES) as writer,
        writer.episode(0) as episode,
    ):
        episode.add_frame({name: value for name, value in frame(0, 0).items() if name != "action"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"index": {"dtype": "int64", "shape": [1]}}, "keeps for itself"),
        ({"a/b": {"dtype": "float32", "shape": [1]}}, "without '/'"),
        ({"a": {"dtype": "flaot32", "shape": [1]}}, "a numpy dtype name"),
        ({"a": {"dtype": "float32", "shape": []}}, "at least one dimension"),
        ({"a": {"dtype": "video", "shape": [3, 32, 48]}}, r"\(height, width, 3\)"),
    ],
)
def test_a_bad_feature_is_refused(tmp_path: Path, features: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        DatasetWriter(tmp_path / "d", fps=30, features=features)
    assert not list(tmp_path.iterdir())


def test_misuse_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        DatasetWriter(dataset, fps=30, features=FEATURES)
    writer = DatasetWriter(tmp_path / "d", fps=30, features=FEATURES, video=H264, key="a")
    with pytest.raises(ArtifactError, match="another process is writing"):
        DatasetWriter(tmp_path / "d", fps=30, features=FEATURES, video=H264, key="a")
    with pytest.raises(DatasetError, match="at least one episode"):
        writer.finalize()
    with pytest.raises(DatasetError, match="no frames"), writer.episode(0):
        pass
    record_episode(writer, 0)
    with pytest.raises(DatasetError, match="saved already"), writer.episode(0):
        pass
    with writer.episode(1) as episode:
        episode.add_frame(frame(1, 0))
        with pytest.raises(DatasetError, match="being recorded"), writer.episode(1):
            pass
        with pytest.raises(DatasetError, match="still being recorded"):
            writer.finalize()
    writer.finalize()
    with pytest.raises(DatasetError, match="finalised"), writer.episode(2):
        pass


def test_an_error_keeps_what_is_saved_under_its_key_only(tmp_path: Path) -> None:
    for key in ("a", None):
        writer = DatasetWriter(tmp_path / "d", fps=30, features=FEATURES, key=key)
        with pytest.raises(DatasetError, match="negative"), writer:
            [record_episode(writer, index) for index in (0, -1)]
    assert not (tmp_path / "d").exists()
    assert len(list(tmp_path.iterdir())) == 1  # that of the key "a"
    for options, saved in (({"key": "a"}, {0}), ({"key": "b"}, set()), ({"key": "a", "robot_type": "leg"}, set())):
        writer = DatasetWriter(tmp_path / "d", fps=30, features=FEATURES, **options)
        assert writer.saved == saved
        writer.abandon()


CRASHES = """
import os, signal, sys
sys.path[:0] = {path!r}
from test_writer import DatasetWriter, FEATURES, H264, frame, record_episode
moment = {moment!r}

def kill(event, arguments):
    if event == moment[0] and str(arguments[0]).endswith(moment[1]) and str(arguments[1]).endswith(moment[2]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
writer = DatasetWriter({root!r}, fps=30, features=FEATURES, robot_type="arm", video=H264, key="a")
for index in (0, 3, 1, 4, 2):
    if index not in writer.saved:
        if moment[0] == "frame" and index == 4:
            with writer.episode(4) as episode:
                episode.add_frame(frame(4, 0))
                os.kill(os.getpid(), signal.SIGKILL)
        record_episode(writer, index)
writer.finalize()
"""
MOMENTS = {
    "in an episode": (("frame", "", ""), {0, 1, 3}),
    "before an episode is in its place": (("os.rename", "", "000001"), {0, 3}),
    "while the episodes are joined": (("os.rename", "", "stats.json"), {0, 1, 2, 3, 4}),
    "before the dataset is in its place": (("os.rename", "", "dataset"), {0, 1, 2, 3, 4}),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_kill_loses_at_most_the_episode_being_recorded(dataset: Path, tmp_path: Path, name: str) -> None:
    moment, saved = MOMENTS[name]
    root = tmp_path / "dataset"
    code = CRASHES.format(path=[str(Path(__file__).parent), os.getcwd()], moment=moment, root=str(root))
    killed = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not root.exists()
    with DatasetWriter(root, fps=30, features=FEATURES, robot_type="arm", video=H264, key="a") as writer:
        assert writer.saved == saved
        for index in set(range(5)) - writer.saved:
            record_episode(writer, index)
    assert digest(root) == digest(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_a_kill_after_the_dataset_is_in_its_place_leaves_it_whole(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    moment = ("shutil.rmtree", ".episodes", "")
    code = CRASHES.format(path=[str(Path(__file__).parent), os.getcwd()], moment=moment, root=str(root))
    killed = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert digest(root) == digest(dataset)

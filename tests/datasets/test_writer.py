"""Recording: what is saved is in the dataset, what is not leaves nothing, and the order of events leaves no trace."""

import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from recordings import LEROBOT

from lerobot_ops.datasets.info import DEFAULT_FEATURES, load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.statistics import numeric_stats
from lerobot_ops.datasets.tables import column_array, load_data, load_episodes, load_stats
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import probe
from lerobot_ops.datasets.writing.beginning import is_recording
from lerobot_ops.datasets.writing.writer import DatasetWriter
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


def create(root: Path, **options) -> DatasetWriter:
    return DatasetWriter.create(
        root, **{"fps": 30, "features": FEATURES, "robot_type": "arm", "video": H264, **options}
    )


def record(root: Path, indices: Iterable[int], **options) -> Path:
    with create(root, **options) as writer:
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


def test_frames_are_added_one_by_one(dataset: Path, tmp_path: Path) -> None:
    with create(tmp_path / "dataset") as writer:
        for index in range(5):
            writer.add_frame(frame(index, 3))
            writer.discard_episode()
            for number in range(8 + index):
                writer.add_frame(frame(index, number))
            writer.save_episode()
            assert LeRobotDataset(tmp_path / "dataset").num_episodes == writer.num_episodes == index + 1
    assert digest(tmp_path / "dataset") == digest(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_the_order_and_the_threads_leave_no_trace(dataset: Path, tmp_path: Path) -> None:
    with create(tmp_path / "other") as writer:
        threads = [threading.Thread(target=record_episode, args=(writer, index)) for index in (4, 2, 3, 0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (writer.saved, writer.num_episodes) == ({0, 1, 2, 3, 4}, 5)
    assert digest(tmp_path / "other") == digest(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_an_unfinished_recording_is_a_dataset(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    writer = create(root)
    for index in range(3):
        record_episode(writer, index)
    record_episode(writer, 4)  # waits for 3
    assert (writer.saved, is_recording(root)) == ({0, 1, 2, 4}, True)
    live, final = LeRobotDataset(root), LeRobotDataset(dataset, episodes=[0, 1, 2])
    assert len(live) == len(final) == 27
    for name in FEATURES:
        for found, expected in zip(live.batch(range(27))[name], final.batch(range(27))[name], strict=True):
            assert np.array_equal(found, expected), name
    assert load_info(root).total_frames == 27
    assert {path.name for path in (root / "data/chunk-000").iterdir()} == {f"file-{k:03d}.parquet" for k in range(3)}
    for name, own in load_stats(root).items():
        assert own["count"].tolist() == [27], name
    exact = numeric_stats(column_array(load_data(root, ["action"]).column("action"), live.features["action"]))
    approximate = load_stats(root)["action"]
    assert all(np.allclose(approximate[key], exact[key]) for key in ("min", "max", "mean", "std"))
    assert np.allclose(approximate["q50"], exact["q50"], atol=0.5)
    writer.close()

    with pytest.raises(ArtifactError, match="exists already"):
        create(root)
    with DatasetWriter.resume(root) as writer:
        assert writer.saved == {0, 1, 2, 4}
        record_episode(writer, 3)
    assert digest(root) == digest(dataset)
    assert not is_recording(root)


def test_an_episode_that_is_taken_back_leaves_no_trace(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "taken"
    with create(root) as writer:
        record_episode(writer, 0)
        writer.take_back_episode()
        assert load_info(root).total_episodes == 0
        with pytest.raises(DatasetError, match="no episode can be taken back"):
            writer.take_back_episode()
        record_episode(writer, 0)
        with writer.episode() as episode:
            episode.add_frame({**frame(5, 0), "task": "a task of its own"})
        writer.take_back_episode()
        assert load_info(root).total_episodes == 1
        assert len(LeRobotDataset(root)) == 8
        for index in range(1, load_info(dataset).total_episodes):
            record_episode(writer, index)
    assert digest(root) == digest(dataset)
    with DatasetWriter.resume(root) as writer:
        with pytest.raises(DatasetError, match="none is there"):
            writer.take_back_episode()
        record_episode(writer, writer.num_episodes)


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


NOISE = {"noise": {"dtype": "image", "shape": (300, 500, 3), "names": None}, CAMERA: FEATURES[CAMERA]}


def noise(index: int) -> dict:
    """A frame that fills most of half a megabyte."""
    picture = np.random.default_rng(index).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    return {"noise": picture, CAMERA: picture[:32, :48], "task": "fill"}


def test_files_are_filled_and_chunks_follow(tmp_path: Path) -> None:
    options = {"chunks_size": 2, "data_files_size_in_mb": 1, "video_files_size_in_mb": 1}
    with create(tmp_path / "d", features=NOISE, **options) as writer:
        for index in range(7):
            writer.add_frame(noise(index))
            writer.save_episode()
    files = [str(path.relative_to(tmp_path / "d/data")) for path in sorted((tmp_path / "d/data").rglob("*.parquet"))]
    assert files == [f"chunk-{k // 2:03d}/file-{k % 2:03d}.parquet" for k in range(4)]
    rows = load_episodes(tmp_path / "d").to_pylist()
    places = [(row["data/chunk_index"], row["data/file_index"]) for row in rows]
    assert places == [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1)]
    assert {row[f"videos/{CAMERA}/file_index"] for row in rows} == {0}
    assert LeRobotDataset(tmp_path / "d").column("index").tolist() == list(range(7))


def test_gaps_close_and_what_is_discarded_or_fails_is_gone(tmp_path: Path) -> None:
    with create(tmp_path / "d") as writer:
        record_episode(writer, 7)
        with writer.episode(3) as episode:
            episode.add_frame(frame(3, 0))
            episode.discard()
        with pytest.raises(DatasetError, match="no task"), writer.episode(4) as episode:
            episode.add_frame(frame(4, 0) | {"task": None})
        assert (writer.saved, writer.num_episodes) == ({7}, 0)
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
        ({CAMERA: np.zeros((3, 32, 49), np.uint8)}, r"front(.|\n)*uint8\(3, 32, 49\)(.|\n)*uint8\(32, 48, 3\)"),
        ({CAMERA: np.zeros(SIZE, np.uint16)}, r"front(.|\n)*uint16(.|\n)*uint8"),
        ({CAMERA: np.full(SIZE, 255.0)}, r"front(.|\n)*from 255 to 255(.|\n)*from 0 to 1"),
        ({"next.reward": np.float32(0)}, r"next.reward(.|\n)*float32\(1,\)"),
        ({"note": 3}, r"note(.|\n)*int(.|\n)*str"),
        ({"task": ""}, r"no task"),
        ({"timestamp": np.zeros(1, np.float32)}, r"timestamp"),
    ],
)
def test_a_bad_frame_is_refused_and_not_added(tmp_path: Path, change: dict, message: str) -> None:
    with create(tmp_path / "d") as writer:
        writer.add_frame(frame(0, 0))
        with pytest.raises(DatasetError, match=message):
            writer.add_frame(frame(0, 1) | change)
        writer.add_frame(frame(0, 1))
        writer.save_episode()
    assert LeRobotDataset(tmp_path / "d").num_frames == 2


def test_pictures_come_in_several_forms(tmp_path: Path) -> None:
    import torch

    picture = frame(0, 0)[PICTURE]
    forms = [
        picture,
        picture.transpose(2, 0, 1),
        picture.astype(np.float32) / 255,
        picture.transpose(2, 0, 1) / 255,
        Image.fromarray(picture),
        torch.from_numpy(picture).permute(2, 0, 1),
        torch.from_numpy(picture).permute(2, 0, 1) / 255,
    ]
    with create(tmp_path / "d") as writer:
        for number, form in enumerate(forms):
            writer.add_frame(frame(0, number) | {CAMERA: form, PICTURE: form, "action": torch.zeros(2)})
        writer.save_episode()
    read = LeRobotDataset(tmp_path / "d")
    assert (read.batch(range(len(forms)))[PICTURE] == picture.transpose(2, 0, 1)).all()


def test_the_caller_may_use_its_arrays_again(tmp_path: Path) -> None:
    values = frame(0, 0)
    with create(tmp_path / "d") as writer:
        for number in range(20):
            for name in (CAMERA, PICTURE):
                values[name][:] = 10 * number
            values["action"][:] = number
            writer.add_frame(values)
        writer.save_episode()
    read = LeRobotDataset(tmp_path / "d").batch(range(20))
    assert read["action"][:, 0].tolist() == list(range(20))
    for name in (CAMERA, PICTURE):
        assert np.abs(read[name].mean((1, 2, 3)) - 10 * np.arange(20)).max() < 3


def test_a_frame_that_lacks_a_feature_is_refused(tmp_path: Path) -> None:
    lacking = {name: value for name, value in frame(0, 0).items() if name != "action"}
    with pytest.raises(DatasetError, match=r"lacks a feature(.|\n)*action"), create(tmp_path / "d") as writer:
        writer.add_frame(lacking)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"index": {"dtype": "int64", "shape": [1]}}, "keeps for itself"),
        ({"a/b": {"dtype": "float32", "shape": [1]}}, "without '/'"),
        ({"a": {"dtype": "flaot32", "shape": [1]}}, "a numpy dtype name"),
        ({"a": {"dtype": "float32", "shape": []}}, "at least one dimension"),
        ({"a": {"dtype": "float32", "shape": [1, 2, 3, 4, 5, 6]}}, "at most 5 dimensions"),
        ({"a": {"dtype": "language", "shape": [1]}}, "language_persistent or language_events"),
        ({"a": {"dtype": "video", "shape": [3, 32, 48]}}, r"\(height, width, 3\)"),
        ({"a": {"dtype": "video", "shape": [32, 48, 3], "info": {"is_depth_map": True}}}, r"\(height, width, 1\)"),
    ],
)
def test_a_bad_feature_is_refused(tmp_path: Path, features: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        create(tmp_path / "d", features=features)
    assert not list(tmp_path.iterdir())


def test_misuse_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        create(dataset)
    writer = create(tmp_path / "d")
    with pytest.raises(ArtifactError, match="another process is writing"):
        DatasetWriter.resume(tmp_path / "d")
    with pytest.raises(DatasetError, match="at least one episode"):
        writer.finalize()
    with pytest.raises(DatasetError, match="no frames"), writer.episode(0):
        pass
    with pytest.raises(DatasetError, match="no episode is in progress"):
        writer.save_episode()
    with pytest.raises(DatasetError, match="negative"), writer.episode(-1):
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
    with pytest.raises(DatasetError, match="has ended"), writer.episode(2):
        pass
    with pytest.raises(DatasetError, match="has ended"):
        writer.add_frame(frame(2, 0))


def add_one_and_fail(writer: DatasetWriter, index: int, error: BaseException) -> None:
    with writer:
        record_episode(writer, index)
        writer.add_frame(frame(index, 0))
        raise error


def add_one_and_forget(writer: DatasetWriter, index: int) -> None:
    with writer:
        record_episode(writer, index)
        writer.add_frame(frame(index, 0))


@pytest.mark.parametrize("error", [RuntimeError("the robot fell"), KeyboardInterrupt()])
def test_an_error_keeps_what_is_saved(dataset: Path, tmp_path: Path, error: BaseException) -> None:
    root = tmp_path / "d"
    with pytest.raises(type(error)):
        add_one_and_fail(create(root), 0, error)
    assert (is_recording(root), LeRobotDataset(root).num_frames) == (False, 8)
    with pytest.raises(type(error)):
        add_one_and_fail(DatasetWriter.resume(root), 2, error)  # waits for 1, so the recording is left for later
    assert (is_recording(root), LeRobotDataset(root).num_frames) == (True, 8)
    writer = DatasetWriter.resume(root)
    assert writer.saved == {0, 2}
    with pytest.raises(DatasetError, match="the last episode was not saved"):
        add_one_and_forget(writer, 1)
    read = LeRobotDataset(root)
    assert (read.num_episodes, read.num_frames, is_recording(root)) == (3, 8 + 9 + 10, False)
    assert np.array_equal(read.column("pose"), LeRobotDataset(dataset).column("pose")[:27])


def test_a_failing_encoder_is_named_and_nothing_is_half_saved(tmp_path: Path) -> None:
    with create(tmp_path / "d", encoder_queue_maxsize=2) as writer:
        record_episode(writer, 0)
        before = digest(tmp_path / "d")
        writer.add_frame(frame(1, 0))
        (spool,) = (tmp_path / "d/.recording").glob("partial-*")
        shutil.rmtree(spool)  # as when somebody cleans the disk
        with pytest.raises(DatasetError, match=r"could not be encoded(.|\n)*observation.images"):
            [writer.add_frame(frame(1, number)) for number in range(1, 50)]
        with pytest.raises(DatasetError, match=r"could not be encoded(.|\n)*observation.images"):
            writer.save_episode()
        assert digest(tmp_path / "d") == before
        writer.discard_episode()
        record_episode(writer, 1)
    assert LeRobotDataset(tmp_path / "d").num_frames == 17


def test_a_full_disk_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    """A file in the way of a directory stands for any error of the disk."""
    with create(tmp_path / "d") as writer:
        for number in range(8):
            writer.add_frame(frame(0, number))
        (tmp_path / "d/meta/episodes").write_text("in the way")
        with pytest.raises(ArtifactError, match=r"could not be saved(.|\n)*meta/episodes"):
            writer.save_episode()
        (tmp_path / "d/meta/episodes").unlink()
        writer.save_episode()
        for number in range(9):
            writer.add_frame(frame(1, number))
        (tmp_path / "d/meta/stats.json").unlink()
        (tmp_path / "d/meta/stats.json").mkdir()
        with pytest.raises(ArtifactError, match="could not be saved"):
            writer.save_episode()  # the episode is in the dataset, and only its statistics are not
        (tmp_path / "d/meta/stats.json").rmdir()
        writer.save_episode()
        for index in range(2, 5):
            record_episode(writer, index)
    assert digest(tmp_path / "d") == digest(dataset)


def test_resuming_a_finished_dataset_adds_to_its_last_files(dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "d")
    (root / "README.md").write_text("mine")
    with DatasetWriter.resume(root, fps=30, features=FEATURES, robot_type="arm", video=H264) as writer:
        assert writer.saved == {0, 1, 2, 3, 4}
        record_episode(writer, 5)
        assert LeRobotDataset(root).num_episodes == 6
    assert (root / "README.md").read_text() == "mine"
    read, whole = LeRobotDataset(root), LeRobotDataset(record(tmp_path / "whole", range(6)))
    for name in FEATURES:
        for found, expected in zip(read.batch(range(63))[name], whole.batch(range(63))[name], strict=True):
            assert np.array_equal(found, expected), name
    assert digest(root / "meta/stats.json") == digest(tmp_path / "whole/meta/stats.json")
    assert {path.name for path in root.rglob("file-*")} == {"file-000.parquet", "file-000.mp4"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "whole"]


def test_full_files_stay_the_same_files(tmp_path: Path) -> None:
    with create(tmp_path / "d", features=NOISE, data_files_size_in_mb=1) as writer:
        for index in range(3):
            writer.add_frame(noise(index))
            writer.save_episode()
    files = sorted((tmp_path / "d/data").rglob("*.parquet"))
    before = [path.stat().st_ino for path in files]
    with DatasetWriter.resume(tmp_path / "d") as writer:
        for index in range(3, 5):
            writer.add_frame(noise(index))
            writer.save_episode()
    after = [path.stat().st_ino for path in sorted((tmp_path / "d/data").rglob("*.parquet"))]
    assert (len(before), len(after), after[0] == before[0], after[1] == before[1]) == (2, 3, True, False)
    found = LeRobotDataset(tmp_path / "d").batch(range(5))["noise"]
    assert np.array_equal(found, np.stack([noise(index)["noise"].transpose(2, 0, 1) for index in range(5)]))
    assert len(list((tmp_path / "d").rglob("*.mp4"))) == 1


@pytest.mark.parametrize("name", ["two_task_h264", "images_cut", "button_av1_cut"])
def test_a_dataset_of_lerobot_goes_on(tmp_path: Path, name: str) -> None:
    root = shutil.copytree(LEROBOT / name, tmp_path / name)
    before = LeRobotDataset(root)
    length = int(before.episode_bounds[1][0])
    frames = [
        {key: before.batch([row])[key][0] for key, feature in before.features.items() if key not in DEFAULT_FEATURES}
        for row in range(length)
    ]
    frames = [
        {
            key: np.reshape(value, before.features[key].shape) if np.ndim(value) < 3 else value
            for key, value in values.items()
        }
        for values in frames
    ]
    with DatasetWriter.resume(root) as writer:
        for values in frames:
            writer.add_frame(values | {"task": "something new"})
        writer.save_episode()
    after = LeRobotDataset(root)
    assert (after.num_episodes, after.tasks) == (before.num_episodes + 1, [*before.tasks, "something new"])
    assert after.num_frames == before.num_frames + length
    for key in before.features:
        old = LeRobotDataset(LEROBOT / name).batch(range(0, before.num_frames, 7))[key]
        assert np.array_equal(after.batch(range(0, before.num_frames, 7))[key], old), key
    again = after.batch(range(before.num_frames, after.num_frames))
    assert np.array_equal(again["action"], np.stack([values["action"] for values in frames]))
    assert load_stats(root)["action"]["count"].tolist() == [after.num_frames]


def test_what_cannot_go_on_is_refused(dataset: Path, tmp_path: Path) -> None:
    for options, message in [
        ({"fps": 20}, r"fps(.|\n)*30(.|\n)*20"),
        ({"robot_type": "leg"}, r"robot_type(.|\n)*arm(.|\n)*leg"),
        ({"features": {**FEATURES, "next.reward": {"dtype": "float64", "shape": [1]}}}, r"next.reward(.|\n)*float64"),
        ({"features": {"action": FEATURES["action"]}}, r"no such feature"),
        ({"video": VideoEncoding()}, r"video.codec(.|\n)*h264(.|\n)*av1"),
    ]:
        with pytest.raises(DatasetError, match=message):
            DatasetWriter.resume(dataset, **options)
    with pytest.raises(DatasetError, match="no dataset here"):
        DatasetWriter.resume(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"episodes table(.|\n)*interrupted"):
        DatasetWriter.resume(LEROBOT / "crashed")
    root = shutil.copytree(dataset, tmp_path / "orphan")
    shutil.copy(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", root / f"videos/{CAMERA}/chunk-000/file-001.mp4")
    with pytest.raises(DatasetError, match=r"belongs to no episode(.|\n)*file-001.mp4(.|\n)*repair"):
        DatasetWriter.resume(root)
    assert not is_recording(root)


def test_a_recording_without_episodes_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="at least one episode"), create(tmp_path / "d"):
        pass
    create(tmp_path / "d").close()
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_fails_at_the_end_is_named(tmp_path: Path) -> None:
    """What is wrong shows only when the file is closed; nobody waits for the encoder for ever."""
    with create(tmp_path / "d") as writer:
        record_episode(writer, 0)
        writer.add_frame(frame(1, 0))
        (spool,) = (tmp_path / "d/.recording").glob("partial-*")
        shutil.rmtree(spool)
        with pytest.raises(DatasetError, match=r"could not be encoded(.|\n)*observation.images"):
            writer.save_episode()
        writer.discard_episode()
    assert LeRobotDataset(tmp_path / "d").num_frames == 8

"""Reading what LeRobot wrote gives what LeRobot's reader gives, bit for bit.

`tests/data/reader_expected` holds the dtype, shape and SHA-256 of every value that LeRobot 0.6.1 returned.
"""

import hashlib
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from recordings import LEROBOT, change_table, record

from lerobot_ops.datasets.depth import DepthRange
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.video import decode_times
from lerobot_ops.errors import DatasetError

FRONT = "observation.images.front"
WRITTEN_BY_LEROBOT = ["button_av1_cut", "images_cut", "two_task_h264"]


def windows(root: Path) -> dict[str, list[float]]:
    info = load_info(root)
    cameras = {key: [-3 / info.fps, 0, 2 / info.fps] for key in info.camera_keys}
    return {"observation.state": [-1 / info.fps, 0], "action": [k / info.fps for k in range(-2, 18)], **cameras}


@pytest.mark.parametrize("name", WRITTEN_BY_LEROBOT)
def test_items_equal_lerobots(name: str) -> None:
    root = LEROBOT / name
    expected = json.loads((LEROBOT / "reader_expected" / f"{name}.json").read_text())
    datasets = {
        "one": LeRobotDataset(root, return_uint8=True),
        "delta": LeRobotDataset(root, delta_timestamps=windows(root), return_uint8=True),
    }
    keys: dict[tuple[str, int], set[str]] = {}
    for place, value in expected.items():
        kind, index, key = place.split("|")
        keys.setdefault((kind, int(index)), set()).add(key)
        found = datasets[kind][int(index)][key].numpy()
        assert (str(found.dtype), list(found.shape)) == (value["dtype"], value["shape"]), place
        assert hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest() == value["sha256"], place
    for (kind, index), names in keys.items():
        assert datasets[kind][index].keys() == names | {"task"}


def test_tasks_are_sentences() -> None:
    dataset = LeRobotDataset(LEROBOT / "two_task_h264")
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (960, 12, 30)
    assert dataset[0]["task"] == "push the red block"
    assert dataset.batch([0, 80, 959])["task"] == ["push the red block", *["pull the blue lever"] * 2]


def test_cameras_are_scaled_unless_asked_otherwise() -> None:
    root = LEROBOT / "two_task_h264"
    scaled, raw = LeRobotDataset(root)[500][FRONT], LeRobotDataset(root, return_uint8=True)[500][FRONT]
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, raw / 255)


def test_batches_equal_items() -> None:
    root = LEROBOT / "two_task_h264"
    dataset = LeRobotDataset(root, delta_timestamps=windows(root), return_uint8=True)
    indices = np.array([959, 0, 81, 79, 81])
    batch = dataset.batch(indices)
    for place, index in enumerate(indices):
        for name, value in dataset[int(index)].items():
            expected = batch[name][place]
            assert value == expected if name == "task" else np.array_equal(value.numpy(), expected), name


def test_windows_stay_in_their_episode() -> None:
    dataset = LeRobotDataset(LEROBOT / "two_task_h264", delta_timestamps={"action": [-1 / 30, 0, 1 / 30]})
    actions = dataset.column("action")
    batch = dataset.batch([80, 159])
    assert batch["action_is_pad"].tolist() == [[True, False, False], [False, False, True]]
    assert np.array_equal(batch["action"], actions[[[80, 80, 81], [158, 159, 159]]])


def test_a_video_with_one_delta_has_no_time_axis() -> None:
    dataset = LeRobotDataset(LEROBOT / "two_task_h264", delta_timestamps={FRONT: [-1 / 30], "action": [0.0]})
    item = dataset[1]
    assert item[FRONT].shape == (3, 256, 256)
    assert item[f"{FRONT}_is_pad"].shape == (1,)
    assert item["action"].shape == (1, 6)
    assert torch.equal(item[FRONT], LeRobotDataset(dataset.root)[0][FRONT])


def test_chosen_episodes_are_a_dataset_of_their_own() -> None:
    whole, some = LeRobotDataset(LEROBOT / "two_task_h264"), LeRobotDataset(LEROBOT / "two_task_h264", episodes=[9, 2])
    assert (some.num_episodes, some.num_frames, some.episodes.tolist()) == (2, 160, [2, 9])
    assert [bounds.tolist() for bounds in some.episode_bounds] == [[0, 80], [80, 160]]
    assert set(some.column("episode_index")) == {2, 9}
    for here, there in ((3, 163), (80, 720)):
        for name, value in some[here].items():
            assert value == whole[there][name] if name == "task" else torch.equal(value, whole[there][name]), name


def test_columns_are_read_only_arrays_of_the_features_shape() -> None:
    dataset = LeRobotDataset(LEROBOT / "button_av1_cut")
    assert dataset.column("action").shape == (68, 4)
    assert dataset.column("next.reward").shape == (68,)
    assert dataset.column("next.success").dtype == bool
    with pytest.raises(ValueError, match="read-only"):
        dataset.column("action")[0] = 0


def test_several_files_of_each_kind_and_images_beside_video(tmp_path: Path) -> None:
    cameras = {FRONT: "video", "observation.images.wrist": "image"}
    whole = record(tmp_path / "whole", ["push", "pull", "push"], cameras=cameras)
    split = tmp_path / "split"
    shutil.copytree(whole, split)
    # The same frames again, but each episode in a data file and row group of its own.
    table = pq.read_table(whole / "data/chunk-000/file-000.parquet")
    ends = LeRobotDataset(whole).episode_bounds
    for number, (begin, end) in enumerate(zip(*ends, strict=True)):
        pq.write_table(table.slice(begin, end - begin), split / f"data/chunk-000/file-{number:03d}.parquet")
    one, other = LeRobotDataset(whole), LeRobotDataset(split)
    rows = [0, 11, 12, 24, 25, 38]
    for name, values in one.batch(rows).items():
        assert np.array_equal(values, other.batch(rows)[name]), name
    assert np.array_equal(one.frames("observation.images.wrist", np.array([[3], [14]])).shape, (2, 1, 3, 48, 64))


def test_reading_arrays_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from lerobot_ops.datasets.reader import LeRobotDataset;"
        f"d = LeRobotDataset({str(LEROBOT / 'button_av1_cut')!r}); d.batch([1]); d.stats;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def _read_in_child(dataset: LeRobotDataset, queue) -> None:
    queue.put(hashlib.sha256(dataset.batch(np.arange(0, 960, 97))[FRONT].tobytes()).hexdigest())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same(method: str) -> None:
    dataset = LeRobotDataset(LEROBOT / "two_task_h264")
    here = hashlib.sha256(dataset.batch(np.arange(0, 960, 97))[FRONT].tobytes()).hexdigest()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    count = 2 if method == "fork" else 1
    workers = [context.Process(target=_read_in_child, args=(dataset, queue)) for _ in range(count)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=120) for _ in workers] == [here] * count
    for worker in workers:
        worker.join(30)


def test_pickling_leaves_what_was_read_behind() -> None:
    dataset = LeRobotDataset(LEROBOT / "images_cut")
    dataset.batch(np.arange(20))
    assert len(pickle.dumps(dataset)) < 20_000
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[7][FRONT], dataset[7][FRONT])


def test_slices_and_negative_rows() -> None:
    dataset = LeRobotDataset(LEROBOT / "images_cut")
    assert [int(item["index"]) for item in dataset[-3::2]] == [17, 19]
    assert int(dataset[-1]["index"]) == 19
    with pytest.raises(IndexError, match="row 20 of a dataset of 20 frames"):
        dataset[20]
    with pytest.raises(IndexError, match="rows -1 to 3"):
        dataset.batch([3, -1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": [0, 12]}, r"no such episode(.|\n)*episodes(.|\n)*\[12\](.|\n)*0 to 11"),
        ({"delta_timestamps": {"action": [0.01]}}, r"do not fall on frames(.|\n)*action"),
        ({"delta_timestamps": {"actoin": [0.0]}}, r"actoin(.|\n)*did you mean 'action'"),
    ],
)
def test_what_cannot_be_read_is_named(options: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        LeRobotDataset(LEROBOT / "two_task_h264", **options)


def test_a_recording_that_was_killed_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"no episodes table(.|\n)*interrupted"):
        LeRobotDataset(LEROBOT / "crashed")


def test_a_column_that_is_missing_or_a_camera_is_named() -> None:
    dataset = LeRobotDataset(LEROBOT / "images_cut")
    with pytest.raises(DatasetError, match=r"no such feature(.|\n)*did you mean 'observation.state'"):
        dataset.column("observation.sate")
    with pytest.raises(DatasetError, match="no column of numbers"):
        dataset.column(FRONT)


def test_damage_is_found_when_it_is_read(tmp_path: Path) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(LEROBOT / "two_task_h264", root)
    data = root / "data/chunk-000/file-000.parquet"
    change_table(data, lambda table: table.slice(0, 900))
    with pytest.raises(DatasetError, match=r"fewer frames than the episodes table(.|\n)*900(.|\n)*960"):
        LeRobotDataset(root)[0]
    (root / "videos" / FRONT / "chunk-000/file-000.mp4").unlink()
    with pytest.raises(DatasetError, match=r"video of the dataset is missing(.|\n)*file-000.mp4"):
        LeRobotDataset(root).frames(FRONT, np.array([0]))
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(DatasetError, match=r"cannot be read(.|\n)*file-000.parquet"):
        LeRobotDataset(root).column("action")


def test_depth_comes_back_in_millimetres(tmp_path: Path) -> None:
    """Levels as LeRobot's encoder makes them: 12 bits of the logarithm, lossless HEVC."""
    metres = np.linspace(0.02, 9.9, 64 * 48).reshape(1, 48, 64)
    low, high, shift = 0.01, 10.0, 3.5
    share = (np.log(metres + shift) - np.log(low + shift)) / (np.log(high + shift) - np.log(low + shift))
    levels = np.clip(np.rint(4095 * share), 0, 4095).astype(np.uint16)
    path = tmp_path / "depth.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", 30, options={"x265-params": "lossless=1:log-level=error"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray12le"
        frame = av.VideoFrame.from_ndarray(levels[0], format="gray12le")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    decoded = decode_times(path, np.array([0.0]), pixels="gray12le")
    assert np.array_equal(decoded, levels)
    found = DepthRange(depth_min=low, depth_max=high, shift=shift).distances(decoded)
    assert found.dtype == np.float32
    assert np.abs(found - metres * 1000).max() < 4.5

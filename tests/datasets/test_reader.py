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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from recordings import LEROBOT, change_info, change_table, record, set_cells, write_grey

from lerobot_ops.datasets.buffers import Buffers
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.language import language_array, language_rows
from lerobot_ops.datasets.loader import batches_of
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.tables import load_episodes
from lerobot_ops.datasets.videos.decoder import Decoder
from lerobot_ops.datasets.videos.depth import DepthRange
from lerobot_ops.datasets.videos.video import Piece, cut_and_join
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


def test_rows_and_files_that_no_episode_points_at_are_passed_over(tmp_path: Path) -> None:
    """What a recording that is going on, or was killed, leaves in the folder."""
    whole = record(tmp_path / "whole", ["push", "pull", "push"])
    root = tmp_path / "live"
    shutil.copytree(whole, root)
    data = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(data)
    begin, end = (bounds.tolist() for bounds in LeRobotDataset(whole).episode_bounds)
    for number in (0, 2):
        pq.write_table(table.slice(begin[number], end[number] - begin[number]), data.with_name(f"file-{2 * number}.pq"))
    (data.with_name("file-0.pq")).rename(data.with_name("file-003.parquet"))
    # Episode 1 has rows around it that are nobody's, episode 0 lies in a later file, and the last file is an orphan.
    surplus = pa.concat_tables([table.slice(end[0] - 2), table.slice(0, 1)]).slice(0, end[1] - end[0] + 4)
    pq.write_table(surplus, data)
    (data.with_name("file-4.pq")).rename(data.with_name("file-001.parquet"))
    pq.write_table(table.slice(0, 5), data.with_name("file-007.parquet"))
    change_table(root / "meta/episodes/chunk-000/file-000.parquet", set_cells("data/file_index", {0: 3, 1: 0, 2: 1}))
    change_info(root, total_episodes=2, total_frames=end[1])
    one, other = LeRobotDataset(whole), LeRobotDataset(root)
    assert len(other) == len(one)
    rows = np.arange(len(one))
    for name, values in one.batch(rows).items():
        assert np.array_equal(values, other.batch(rows)[name]), name
    assert set(LeRobotDataset(root, episodes=[1]).column("episode_index")) == {1}


def test_episodes_are_chosen_by_what_the_table_says_of_them() -> None:
    root = LEROBOT / "two_task_h264"
    seen: list[dict] = []

    def pulls(row: dict) -> bool:
        seen.append(row)
        return row["tasks"] == ["pull the blue lever"]

    dataset = LeRobotDataset(root, episode_filter=pulls, episodes=range(6))
    assert dataset.episodes.tolist() == [1, 3, 5]
    assert {*seen[0]} >= {"length", "dataset_from_index", f"videos/{FRONT}/from_timestamp"}
    assert not any(name.startswith("stats/") for name in seen[0])
    with pytest.raises(DatasetError, match="filter keeps no episode"):
        LeRobotDataset(root, episode_filter=lambda row: row["length"] > 80)


def test_several_videos_of_one_camera(tmp_path: Path) -> None:
    root = record(tmp_path / "whole", ["push", "pull", "push"])
    split = tmp_path / "split"
    shutil.copytree(root, split)
    info, table = load_info(root), load_episodes(root)
    file = root / info.video_file(FRONT, 0, 0)
    lengths = table.column("length").to_pylist()
    for number, start in enumerate(table.column(f"videos/{FRONT}/from_timestamp").to_pylist()):
        cut_and_join([Piece(file, start, lengths[number])], split / info.video_file(FRONT, 1, number), info.fps)
    (split / info.video_file(FRONT, 0, 0)).unlink()
    episodes = split / "meta/episodes/chunk-000/file-000.parquet"
    change_table(episodes, set_cells(f"videos/{FRONT}/chunk_index", dict.fromkeys(range(3), 1)))
    change_table(episodes, set_cells(f"videos/{FRONT}/file_index", dict(enumerate(range(3)))))
    change_table(episodes, set_cells(f"videos/{FRONT}/from_timestamp", dict.fromkeys(range(3), 0.0)))
    rows = np.array([[30, 2, 2], [0, 20, 38]])
    assert np.array_equal(LeRobotDataset(root).frames(FRONT, rows), LeRobotDataset(split).frames(FRONT, rows))


def test_text_and_language_come_as_they_were_said(tmp_path: Path) -> None:
    root = record(tmp_path / "said", ["push"])
    count = len(LeRobotDataset(root))
    calls = [{"function": {"name": "say", "arguments": {"text": "done"}}}]
    subtask = {"role": "user", "content": "reach", "style": "subtask", "timestamp": 0.0, "camera": None}
    event = {"role": "robot", "content": None, "style": None, "camera": None, "tool_calls": calls}
    cells = {
        "note": pa.array([f"frame {number}" for number in range(count)]),
        "language_persistent": language_array(
            "language_persistent", [language_rows("language_persistent", [subtask], [])] * count
        ),
        "language_events": language_array(
            "language_events", [language_rows("language_events", [event], []), *[[]] * (count - 1)]
        ),
    }
    data = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(data)
    for name, values in cells.items():
        table = table.append_column(name, values)
    pq.write_table(table, data)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    kinds = {"note": "string", "language_persistent": "language", "language_events": "language"}
    added = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in kinds.items()}
    change_info(root, features=features | added)
    dataset = LeRobotDataset(root, delta_timestamps={"note": [-0.1, 0.0]})
    first, second = dataset[0], dataset[1]
    assert (second["note"], second["note_is_pad"].tolist()) == (["frame 0", "frame 1"], [False, False])
    assert first["note_is_pad"].tolist() == [True, False]
    assert first["language_persistent"] == [subtask | {"tool_calls": None}]
    assert (first["language_events"], second["language_events"]) == ([event], [])
    batch = dataset.batch([0, 1])
    assert batch["language_events"] == [[event], []]
    assert batch["note"][1] == ["frame 0", "frame 1"]


def test_a_loader_with_workers_gives_the_items() -> None:
    root = LEROBOT / "two_task_h264"
    dataset = LeRobotDataset(root, episodes=[1], delta_timestamps=windows(root))
    loader = torch.utils.data.DataLoader(dataset, 8, num_workers=2, multiprocessing_context="spawn")
    for number, batch in enumerate(loader):
        for place in (0, 7):
            for name, value in dataset[8 * number + place].items():
                found = batch[name][place]
                assert found == value if name == "task" else torch.equal(found, value), name
        assert batch[FRONT].is_shared()
    assert number == 9


def test_threads_give_the_batches_of_a_loader() -> None:
    dataset = LeRobotDataset(LEROBOT / "button_av1_cut", delta_timestamps={"action": [0.0, 1 / 80]})
    wanted = list(torch.utils.data.DataLoader(dataset, 16, drop_last=True))
    found = list(batches_of(dataset, 16, drop_last=True, threads=3))
    assert len(found) == len(wanted) == 4
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        assert all(
            value == other[name] if name == "task" else torch.equal(value, other[name]) for name, value in one.items()
        )
    orders = [
        [*batch["index"].tolist()]
        for epoch in (0, 0, 1)
        for batch in batches_of(dataset, 80, shuffle=True, epoch=epoch)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(68))


def test_memory_is_used_again_when_the_last_view_of_it_is_gone() -> None:
    buffers = Buffers(2**21)
    first = buffers.empty((4, 2**18), np.dtype(np.uint8))
    place = first.ctypes.data
    part = torch.from_numpy(first)[1:]
    del first
    assert buffers.empty((2**18,), np.dtype(np.float32)).ctypes.data != place
    view = part.numpy()[2:]
    del part
    view[:] = 7
    assert buffers.empty((2**18,), np.dtype(np.float32)).ctypes.data != place
    del view
    found = [buffers.empty((2**18,), np.dtype(np.float32)) for _ in range(2)]
    assert place in {array.ctypes.data for array in found}


def test_items_that_are_kept_stay_as_they_are() -> None:
    dataset = LeRobotDataset(LEROBOT / "button_av1_cut")
    kept = [dataset[row] for row in range(0, 68, 4)]
    assert all(
        torch.equal(item[key], dataset[4 * place][key])
        for place, item in enumerate(kept)
        for key in item.keys() - {"task"}
    )


def test_changed_items_are_collated_as_they_are() -> None:
    items = LeRobotDataset(LEROBOT / "images_cut")[:3]
    together = torch.utils.data.default_collate(items)
    assert together[FRONT].data_ptr() == items[0][FRONT].data_ptr()  # no copy
    items[1][FRONT] = torch.zeros_like(items[1][FRONT])
    assert not torch.utils.data.default_collate(items)[FRONT][1].any()
    assert torch.equal(torch.utils.data.default_collate(items[::-1])[FRONT][2], together[FRONT][0])
    assert type(pickle.loads(pickle.dumps(items[0]))) is dict


def test_a_frame_at_another_time_is_refused_unless_it_is_near(tmp_path: Path) -> None:
    root = record(tmp_path / "late", ["push", "pull"])
    episodes = root / "meta/episodes/chunk-000/file-000.parquet"
    change_table(episodes, set_cells(f"videos/{FRONT}/from_timestamp", {0: 0.01}))
    with pytest.raises(DatasetError, match=r"no frame at the time(.|\n)*within 0.0001 s"):
        LeRobotDataset(root)[0]
    assert LeRobotDataset(root, tolerance_s=0.02)[0][FRONT].shape == (3, 48, 64)


@pytest.mark.parametrize("unit", ["mm", "m"])
def test_depth_comes_back_in_the_unit_that_is_asked_for(tmp_path: Path, unit: str) -> None:
    """Levels as LeRobot's encoder makes them: 12 bits of the logarithm, lossless HEVC."""
    metres = np.linspace(0.02, 9.9, 64 * 48).reshape(48, 64)
    root = record(tmp_path / "deep", ["push"], frames=4)
    feature = {"dtype": "video", "shape": [48, 64, 1], "names": ["height", "width", "channels"]}
    about = {"is_depth_map": True, "depth_unit": "m", **DepthRange().info()}
    write_grey(root / load_info(root).video_file(FRONT, 0, 0), [DepthRange().levels(metres, "m")] * 4, 10)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    change_info(root, features=features | {FRONT: feature | {"info": about}})
    dataset = LeRobotDataset(root, depth_output_unit=unit, image_transforms=torch.zeros_like)
    depth = dataset[1][FRONT]
    factor = {"mm": 1000, "m": 1}[unit]
    assert (depth.dtype, depth.shape) == (torch.float32, (1, 48, 64))
    assert np.abs(depth[0].numpy() / factor - metres).max() < 0.0045
    raw = json.loads((root / "meta/stats.json").read_text())[FRONT]
    assert np.allclose(dataset.stats[FRONT]["max"], np.array(raw["max"]) * factor)
    assert dataset.stats[FRONT]["count"].tolist() == raw["count"]


def test_planes_equal_rgb_for_every_format() -> None:
    noise = np.random.default_rng(1)
    decoder = Decoder(LEROBOT / "two_task_h264" / load_info(LEROBOT / "two_task_h264").video_file(FRONT, 0, 0))
    for pixels in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"):
        for width, height in ((64, 48), (51, 37), (321, 240)):
            frame = av.VideoFrame(width, height, pixels)
            for plane in frame.planes:
                plane.update(noise.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
            assert np.array_equal(np.stack(decoder.planes(frame), -1), decoder.pixels(frame, "rgb24")), (pixels, width)


def test_opening_does_not_import_pandas_or_torch() -> None:
    code = (
        "import sys; from lerobot_ops.datasets.reader import LeRobotDataset;"
        f"d = LeRobotDataset({str(LEROBOT / 'button_av1_cut')!r}); d.column('action');"
        "sys.exit(', '.join({'torch', 'pandas', 'huggingface_hub'} & sys.modules.keys()) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

"""Streaming gives what random access gives, each frame once, and fetches only what it reads."""

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lerobot_ops.datasets.info import load_info, write_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.remote import local_root
from lerobot_ops.datasets.streaming.streaming import StreamingLeRobotDataset, _blocks, _pieces, _share
from lerobot_ops.datasets.tables import (
    load_data,
    load_episodes,
    load_stats,
    load_tasks,
    write_data,
    write_episodes,
    write_stats,
    write_tasks,
)
from lerobot_ops.datasets.videos.video import Piece, cut_and_join
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DatasetError, OpsError
from tests.hub.hub_server import Failure, HubServer, Repository, environment, pointed_at, serving
from tests.peer import peer_scenes as scenes

LEROBOT = Path(__file__).parents[1] / "data"
TWO = LEROBOT / "two_task_h264"
KEY = "observation.images.front"


def spread(source: Path, root: Path, data_episodes: int, video_episodes: int, one_group: bool = False) -> Path:
    """A copy with so many episodes in a data file and in a video file."""
    info, rows = load_info(source), load_episodes(source).to_pylist()
    data = load_data(source)
    for row in rows:
        for name in [name for name in row if name.startswith(("stats/", "meta/"))]:
            del row[name]
    for file, begin in enumerate(range(0, len(rows), data_episodes)):
        here = rows[begin : begin + data_episodes]
        tables = [data.slice(row["dataset_from_index"], row["length"]) for row in here]
        write_data(root / info.data_file(0, file), [pa.concat_tables(tables)] if one_group else tables, info.columns)
        for row in here:
            row |= {"data/chunk_index": 0, "data/file_index": file}
    for key in info.video_keys:
        for file, begin in enumerate(range(0, len(rows), video_episodes)):
            here = rows[begin : begin + video_episodes]
            places = [(row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]) for row in here]
            starts = [row[f"videos/{key}/from_timestamp"] for row in here]
            pieces = [
                Piece(source / info.video_file(key, *place), start, row["length"])
                for place, start, row in zip(places, starts, here, strict=True)
            ]
            for row, start in zip(
                here, cut_and_join(pieces, root / info.video_file(key, 0, file), info.fps), strict=True
            ):
                row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": file}
                row |= {f"videos/{key}/from_timestamp": start}
                row |= {f"videos/{key}/to_timestamp": start + row["length"] / info.fps}
    write_episodes(root, rows, info)
    write_tasks(root, load_tasks(source))
    write_stats(root, load_stats(source))
    write_info(root, info)
    return root


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve episodes in three data files and four videos, whose borders differ."""
    return spread(TWO, tmp_path_factory.mktemp("several") / "dataset", data_episodes=5, video_episodes=3)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving() as server:
        pointed_at(server, tmp_path / "hf", monkeypatch)
        yield server


def put(hub: HubServer, root: Path, **options: bool) -> None:
    repository = Repository(**options)
    paths = [path for path in root.rglob("*") if path.is_file()]
    commit = repository.commit({path.relative_to(root).as_posix(): path.read_bytes() for path in paths})
    repository.tags["v3.0"] = commit
    hub.repositories["datasets/team/two"] = repository


def assert_same(item: dict, expected: dict) -> None:
    assert item.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert item[name].dtype == value.dtype, name
            assert torch.equal(item[name], value), name
        else:
            assert item[name] == value, name


def indices(items: Iterable[dict]) -> list[int]:
    return [int(item["index"]) for item in items]


def windows(fps: int, camera: str) -> dict[str, list[float]]:
    return {
        "observation.state": [-1 / fps, 0],
        "action": [step / fps for step in range(-2, 18)],
        camera: [-3 / fps, 0, 2 / fps],
    }


@pytest.mark.parametrize("name", ["two_task_h264", "button_av1_cut", "images_cut", "several"])
@pytest.mark.parametrize("windowed", [False, True])
def test_items_are_those_of_the_reader(several: Path, name: str, windowed: bool) -> None:
    root = several if name == "several" else LEROBOT / name
    info = load_info(root)
    deltas = windows(info.fps, info.camera_keys[0]) if windowed else None
    reader = LeRobotDataset(root, delta_timestamps=deltas)
    stream = StreamingLeRobotDataset(
        root, delta_timestamps=deltas, shuffle=False, episodes=[0] if "cut" in name else [2, 7]
    )
    items = list(stream)
    assert len(items) == len(stream) == stream.num_frames
    chosen = items if not windowed else [*items[:20], *items[-20:]]
    for item in chosen:
        assert_same(item, reader[int(item["index"])])


@pytest.mark.parametrize("name", scenes.SCENES)
@pytest.mark.parametrize("finalised", [False, True])
def test_every_kind_of_feature_streams(tmp_path: Path, name: str, finalised: bool) -> None:
    root = tmp_path / "dataset"
    writer = DatasetWriter.create(root, fps=scenes.FPS, features=scenes.features(name))
    for episode in range(scenes.EPISODES):
        for frame in scenes.frames(name, episode):
            writer.add_frame(frame)
        writer.save_episode()
    if finalised:
        writer.finalize()
    options = {"delta_timestamps": scenes.deltas(name), "depth_output_unit": "m"}
    reader, items = LeRobotDataset(root, **options), list(StreamingLeRobotDataset(root, **options))
    assert sorted(indices(items)) == list(range(len(reader)))
    for item in items:
        assert_same(item, reader[int(item["index"])])


@pytest.mark.parametrize("options", [{"return_uint8": True}, {"image_transforms": lambda image: image * 0.5}])
def test_images_come_as_asked_for(options: dict) -> None:
    item = next(iter(StreamingLeRobotDataset(TWO, shuffle=False, **options)))
    plain = LeRobotDataset(TWO, return_uint8="return_uint8" in options)[0]
    plain[KEY] = options.get("image_transforms", lambda image: image)(plain[KEY])
    assert_same(item, plain)


def test_one_delta_of_a_video_has_no_time_axis(several: Path) -> None:
    deltas = {KEY: [0.0], "action": [0.0]}
    item = next(iter(StreamingLeRobotDataset(several, delta_timestamps=deltas, shuffle=False)))
    assert_same(item, LeRobotDataset(several, delta_timestamps=deltas)[0])


@pytest.fixture(scope="module")
def blind(several: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without its camera, for what is about order alone."""
    root = tmp_path_factory.mktemp("blind") / "dataset"
    info = load_info(several)
    rows = load_episodes(several).to_pylist()
    rows = [{k: v for k, v in row.items() if not k.startswith(("videos/", "meta/"))} for row in rows]
    blind = info.model_copy(
        update={"features": {k: f for k, f in info.features.items() if k != KEY}, "video_path": None}
    )
    write_episodes(root, rows, blind)
    write_tasks(root, load_tasks(several))
    write_info(root, blind)
    (root / "data").symlink_to(several / "data")
    return root


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_one_epoch_is_every_frame_once_whatever_the_workers(blind: Path, workers: int, shuffle: bool) -> None:
    stream = StreamingLeRobotDataset(blind, episodes=[1, 4, 5, 11], shuffle=shuffle, buffer_size=100)
    loader = DataLoader(stream, batch_size=7, num_workers=workers)
    seen = [int(index) for batch in loader for index in batch["index"]]
    bounds = load_episodes(blind, ["dataset_from_index", "dataset_to_index"]).to_pylist()
    expected = [i for e in (1, 4, 5, 11) for i in range(bounds[e]["dataset_from_index"], bounds[e]["dataset_to_index"])]
    assert sorted(seen) == expected
    assert len(stream) == len(expected)
    assert (seen == expected) == (not shuffle and workers < 2)


def test_the_order_depends_on_seed_and_epoch_alone(blind: Path) -> None:
    stream = StreamingLeRobotDataset(blind, buffer_size=100)
    first = indices(stream)
    assert first == indices(stream) == indices(StreamingLeRobotDataset(blind, buffer_size=100, seed=42))
    assert first != indices(StreamingLeRobotDataset(blind, buffer_size=100, seed=43))
    stream.set_epoch(1)
    second = indices(stream)
    assert second != first
    assert sorted(second) == sorted(first)
    assert indices(pickle.loads(pickle.dumps(stream))) == second


def test_workers_that_stay_alive_hear_of_the_epoch(blind: Path) -> None:
    stream = StreamingLeRobotDataset(blind, buffer_size=100)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    first = indices(loader)
    stream.set_epoch(1)
    second = indices(loader)
    assert first != second
    assert sorted(first) == sorted(second)


def test_frames_are_mixed_over_the_buffer(blind: Path) -> None:
    one = indices(StreamingLeRobotDataset(blind, buffer_size=1))
    assert len({index // 80 for index in one[:80]}) == 1
    mixed = indices(StreamingLeRobotDataset(blind, buffer_size=400))
    episodes = Counter(index // 80 for index in mixed[:100])
    assert len(episodes) >= 4
    assert max(episodes.values()) < 60


RANKS = """
import sys, json, torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from lerobot_ops.datasets.streaming.streaming import StreamingLeRobotDataset

def main(root, method, rank):
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=2)
    stream = StreamingLeRobotDataset(root, buffer_size=100)
    spawned = {"num_workers": 1, "multiprocessing_context": "spawn"} if rank else {}
    loader = DataLoader(stream, batch_size=None, **spawned)
    print(json.dumps([len(stream), [int(item["index"]) for item in loader]]))
    dist.destroy_process_group()

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def test_ranks_share_an_epoch_without_overlap(blind: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANKS)
    command = [sys.executable, str(script), str(blind), f"file://{tmp_path}/meet"]
    paths = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, env=paths) for rank in (0, 1)]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [length for length, _ in found] == [480, 480]
    assert sorted(found[0][1] + found[1][1]) == list(range(960))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 20),
)
def test_shares_and_blocks_lose_and_repeat_nothing(lengths: list[int], ranks: int, workers: int, buffer: int) -> None:
    total, seen = sum(lengths), []
    for rank in range(ranks):
        whole = _share(0, total, rank, ranks)
        sizes = []
        for worker in range(workers):
            begin, end = _share(*whole, worker, workers)
            sizes.append(end - begin)
            blocks = list(_blocks(_pieces(range(len(lengths)), np.array(lengths), begin, end), buffer))
            frames = [sum(piece.end - piece.begin for piece in block) for block in blocks]
            assert all(buffer <= count < buffer + 9 for count in frames[:-1])
            seen += [(p.episode, row) for block in blocks for p in block for row in range(p.begin, p.end)]
        assert max(sizes) - min(sizes) <= 1
    assert seen == [(episode, row) for episode, length in enumerate(lengths) for row in range(length)]


def test_a_stream_from_the_hub_is_the_dataset(hub: HubServer, several: Path) -> None:
    put(hub, several)
    reader = LeRobotDataset(several)
    stream = StreamingLeRobotDataset("team/two", buffer_size=200)
    count = 0
    for item in stream:
        if count % 20 == 0:
            assert_same(item, reader[int(item["index"])])
        count += 1
    assert count == len(reader) == len(stream)
    assert not hub.asked(r"GET .*\.git")
    size = sum(path.stat().st_size for path in several.rglob("*") if path.is_file())
    assert hub.bytes_sent < 1.5 * size


def test_only_what_the_episodes_need_is_sent(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lerobot_ops.datasets.streaming.files.BLOCK", 1 << 14)
    put(hub, TWO)
    stream = StreamingLeRobotDataset("hf://datasets/team/two@v3.0", episodes=[6], shuffle=False)
    sent = hub.bytes_sent
    items = list(stream)
    assert_same(items[-1], LeRobotDataset(TWO)[int(items[-1]["index"])])
    size = sum(path.stat().st_size for path in TWO.rglob("*") if path.is_file() and "meta" not in path.parts)
    assert hub.bytes_sent - sent < size / 4
    assert not list((tmp_path / "hf").rglob("*.mp4"))


def test_the_reader_fetches_the_files_of_its_episodes_alone(hub: HubServer, several: Path, tmp_path: Path) -> None:
    put(hub, several)
    deltas = windows(30, KEY)
    reader, whole = (
        LeRobotDataset("team/two", episodes=[6], delta_timestamps=deltas),
        LeRobotDataset(several, delta_timestamps=deltas),
    )
    for row in (0, len(reader) - 1):
        item = reader[row]
        assert_same(item, whole[int(item["index"])])
    fetched = [path.relative_to(reader.root).as_posix() for path in reader.root.rglob("*") if "meta" not in path.parts]
    files = [name for name in fetched if name.endswith(("parquet", "mp4"))]
    assert sorted(files) == ["data/chunk-000/file-001.parquet", f"videos/{KEY}/chunk-000/file-002.mp4"]


def test_many_small_files_are_fetched_once_each(hub: HubServer, tmp_path: Path) -> None:
    root = spread(TWO, tmp_path / "dataset", data_episodes=1, video_episodes=1)
    put(hub, root)
    videos = sum(path.stat().st_size for path in root.rglob("*.mp4"))
    rest = sum(path.stat().st_size for path in root.rglob("*.parquet"))
    stream = StreamingLeRobotDataset("team/two", buffer_size=2000, return_uint8=True)
    assert sorted(indices(stream)) == list(range(960))
    assert hub.bytes_sent < videos + 2 * rest + 100_000


def test_what_is_on_this_machine_is_not_fetched_again(
    hub: HubServer, several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, several)
    local_root("team/two")
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert sorted(indices(StreamingLeRobotDataset("team/two"))) == list(range(960))
    assert hub.requests == []


def test_workers_stream_from_a_private_dataset_through_a_busy_hub(
    hub: HubServer, several: Path, tmp_path: Path
) -> None:
    put(hub, several, private=True)
    hub.failures = [Failure("GET /lfs/", 429), Failure("GET /lfs/", 503)]
    code = (
        "from torch.utils.data import DataLoader; from lerobot_ops.datasets.streaming.streaming import *\n"
        "stream = StreamingLeRobotDataset('team/two', episodes=range(6), buffer_size=200)\n"
        "loader = DataLoader(stream, batch_size=None, num_workers=2)\n"
        "print(sorted(int(item['index']) for item in loader) == [*range(480)])"
    )
    variables = os.environ | environment(hub, tmp_path / "other") | {"HF_TOKEN": "hf_" + "t" * 34}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert not any(failure.times for failure in hub.failures)


def test_what_is_wrong_is_named(hub: HubServer, several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(DatasetError, match="no such episode"):
        StreamingLeRobotDataset(several, episodes=[3, 99])
    with pytest.raises(DatasetError, match="unknown feature"):
        StreamingLeRobotDataset(several, delta_timestamps={"actoin": [0.0]})
    with pytest.raises(DatasetError, match="do not fall on frames"):
        StreamingLeRobotDataset(several, delta_timestamps={"action": [0.013]})
    put(hub, several)
    files = hub.files("datasets/team/two")
    stream = StreamingLeRobotDataset("team/two", shuffle=False)
    removed = {name: files.pop(name) for name in [*files] if name.endswith(".mp4")}
    with pytest.raises(DatasetError, match="missing on the Hub") as error:
        next(iter(stream))
    assert "file-000.mp4" in str(error.value)
    files |= removed
    hub.failures = [Failure("GET /lfs/", 503, times=1000)]
    with pytest.raises(OpsError, match=r"busy or down \(it answered 503\)"):
        next(iter(stream))
    hub.failures = []
    assert int(next(iter(stream))["index"]) == 0


def test_large_row_groups_and_few_open_files_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = spread(TWO, tmp_path / "dataset", data_episodes=4, video_episodes=1, one_group=True)
    assert pq.read_metadata(root / "data/chunk-000/file-000.parquet").num_row_groups == 1
    monkeypatch.setattr("lerobot_ops.datasets.streaming.streaming._OPEN_GROUPS", 1)
    monkeypatch.setattr("lerobot_ops.datasets.streaming.files._OPEN_VIDEOS", 1)
    monkeypatch.setattr("lerobot_ops.datasets.streaming.files._MOST_OPEN_VIDEOS", 2)
    reader = LeRobotDataset(TWO)
    for number, item in enumerate(StreamingLeRobotDataset(root, buffer_size=300)):
        if number % 40 == 0:
            expected = reader[int(item["index"])]
            assert_same(item, expected)
    assert number == 959


def test_a_row_that_no_episode_points_at_is_not_read(several: Path, tmp_path: Path) -> None:
    root = spread(TWO, tmp_path / "dataset", data_episodes=6, video_episodes=12)
    last = root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(last)
    pq.write_table(pa.concat_tables([table, table.slice(0, 5)]), last)
    (root / "data/chunk-000/file-002.parquet").write_bytes(b"interrupted")
    assert sorted(indices(StreamingLeRobotDataset(root, shuffle=False, return_uint8=True))) == list(range(960))

"""LeRobot's side of the dataset benchmarks; run by the interpreter that has it: `peer_datasets.py CASE DATA OUT`.

Every case prints one JSON object of figures. Nothing of LeRobot is changed; its defaults are what a user gets.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import scenes
import torch
from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets, split_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CASE, DATA, OUT = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])


def dataset(name: str, deltas: bool = False, **options) -> LeRobotDataset:
    if deltas:
        fps = json.loads((DATA / name / "meta/info.json").read_text())["fps"]
        options["delta_timestamps"] = {"action": [step / fps for step in range(scenes.CHUNK)]}
    return LeRobotDataset(f"peer/{name}", root=DATA / name, **options)


def make(name: str) -> dict:
    scene = scenes.DATASETS[name]
    has_video = any(feature["dtype"] == "video" for feature in scene["cameras"].values())
    made = LeRobotDataset.create(
        f"peer/{name}",
        fps=scene["fps"],
        features=scenes.features(name),
        root=DATA / name,
        robot_type="synthetic",
        use_videos=has_video,
        image_writer_threads=4 if scene["cameras"] else 0,
    )
    for episode in range(scene["episodes"]):
        for frame in scenes.frames(name, episode):
            made.add_frame(frame)
        made.save_episode()
    made.finalize()
    return {"frames": made.num_frames}


def delete(name: str) -> dict:
    source = dataset(name)
    return timed(lambda: delete_episodes(source, [1, 3, 5, 7, 9], output_dir=OUT / "made", repo_id="peer/made"))


def split(name: str) -> dict:
    source = dataset(name)
    return timed(lambda: split_dataset(source, {"train": 0.8, "val": 0.2}, output_dir=OUT / "made"))


def merge(name: str) -> dict:
    sources = [dataset(name), dataset(name)]
    return timed(lambda: merge_datasets(sources, output_repo_id="peer/made", output_dir=OUT / "made"))


def construct(name: str) -> dict:
    begin = time.perf_counter()
    dataset(name)
    cold = time.perf_counter() - begin
    return {"cold_s": cold, "warm_s": timed(lambda: dataset(name))["s"]}


def items(name: str, count: int, deltas: bool, **options) -> dict:
    source = dataset(name, deltas, **options)
    rows = np.random.default_rng(0).integers(0, len(source), count)
    source[int(rows[0])]
    begin = time.perf_counter()
    for row in rows:
        source[int(row)]
    return {"items_per_s": count / (time.perf_counter() - begin)}


def loader(name: str, batches: int) -> dict:
    source = dataset(name, True)
    loading = torch.utils.data.DataLoader(
        source,
        batch_size=8,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        prefetch_factor=4,
        persistent_workers=True,
        multiprocessing_context="spawn",
        generator=torch.Generator().manual_seed(0),
    )
    begin = time.perf_counter()
    feed = iter(loading)
    next(feed)
    first = time.perf_counter() - begin
    for _ in range(8):
        next(feed)
    begin = time.perf_counter()
    for _ in range(batches):
        next(feed)
    return {"frames_per_s": batches * 8 / (time.perf_counter() - begin), "first_s": first}


def record(name: str) -> dict:
    pictures = [list(scenes.frames(name, episode)) for episode in range(5)]
    made = LeRobotDataset.create(
        "peer/made",
        fps=scenes.DATASETS[name]["fps"],
        features=scenes.features(name),
        root=OUT / "made",
        streaming_encoding=True,
    )
    slowest, begin = 0.0, time.perf_counter()
    for episode in pictures:
        for frame in episode:
            before = time.perf_counter()
            made.add_frame(frame)
            slowest = max(slowest, time.perf_counter() - before)
        made.save_episode()
    made.finalize()
    seconds = time.perf_counter() - begin
    return {"frames_per_s": sum(map(len, pictures)) / seconds, "slowest_add_s": slowest}


def timed(work) -> dict:
    begin = time.perf_counter()
    work()
    return {"s": time.perf_counter() - begin}


CASES = {
    "make": make,
    "delete": delete,
    "split": split,
    "merge": merge,
    "construct": construct,
    "plain items": lambda name: items(name, 2000, False),
    "windows": lambda name: items(name, 1000, True),
    "frames torchcodec": lambda name: items(name, 300, True, video_backend="torchcodec"),
    "frames pyav": lambda name: items(name, 200, True, video_backend="pyav"),
    "images": lambda name: items(name, 30, True),
    "loader": lambda name: loader(name, 40),
    "record": record,
}

if __name__ == "__main__":
    case, _, name = CASE.partition(":")
    found = CASES[case](name)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print("RESULT " + json.dumps(found), flush=True)
    os._exit(0)  # LeRobot's worker processes would be waited for

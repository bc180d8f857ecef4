"""Our side of the dataset benchmarks: the cases of `peer_datasets`, by name, and some that only we have."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# pyarrow imports these two at its first use; what imports take is left out on both sides
import numpy.ma
import pyarrow.compute  # noqa: F401
import scenes

from lerobot_ops.datasets.reader import LeRobotDataset

CASE, DATA, OUT = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])


def dataset(name: str, deltas: bool = False, **options) -> LeRobotDataset:
    if deltas:
        fps = json.loads((DATA / name / "meta/info.json").read_text())["fps"]
        options["delta_timestamps"] = {"action": [step / fps for step in range(scenes.CHUNK)]}
    return LeRobotDataset(DATA / name, **options)


def delete(name: str) -> dict:
    from lerobot_ops.datasets.editing.edit import delete_episodes

    return timed(lambda: delete_episodes(DATA / name, OUT / "made", [1, 3, 5, 7, 9]))


def split(name: str) -> dict:
    from lerobot_ops.datasets.editing.edit import split

    targets = {part: OUT / "made" / part for part in ("train", "val")}
    return timed(lambda: split(DATA / name, targets, {"train": 0.8, "val": 0.2}))


def merge(name: str) -> dict:
    from lerobot_ops.datasets.editing.edit import merge

    return timed(lambda: merge([DATA / name, DATA / name], OUT / "made"))


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


def loader(name: str, batches: int, **options) -> dict:
    import torch

    source = dataset(name, True, **options)
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


def batches(name: str, count: int, **options) -> dict:
    """As `loader`, with the threads that our training decodes in."""
    import torch.utils.data  # noqa: F401

    from lerobot_ops.datasets.loader import batches_of

    source = dataset(name, True, **options)
    begin = time.perf_counter()
    feed = iter(batches_of(source, 8, shuffle=True, seed=0, drop_last=True, threads=2))
    next(feed)
    first = time.perf_counter() - begin
    for _ in range(8):
        next(feed)
    begin = time.perf_counter()
    for _ in range(count):
        next(feed)
    return {"frames_per_s": count * 8 / (time.perf_counter() - begin), "first_s": first}


def record(name: str) -> dict:
    from lerobot_ops.datasets.writing.writer import DatasetWriter

    pictures = [list(scenes.frames(name, episode)) for episode in range(5)]
    slowest, begin = 0.0, time.perf_counter()
    writer = DatasetWriter.create(OUT / "made", fps=scenes.DATASETS[name]["fps"], features=scenes.features(name))
    for episode in pictures:
        for frame in episode:
            before = time.perf_counter()
            writer.add_frame(frame)
            slowest = max(slowest, time.perf_counter() - before)
        writer.save_episode()
    writer.finalize()
    seconds = time.perf_counter() - begin
    return {"frames_per_s": sum(map(len, pictures)) / seconds, "slowest_add_s": slowest}


def save_after_a_minute(_: str) -> dict:
    """60 s of two 640x480 cameras at 30 fps, fed at that rate; then how long saving takes."""
    from lerobot_ops.datasets.writing.writer import DatasetWriter

    shape = {"dtype": "video", "shape": (480, 640, 3), "names": scenes.CHANNELS}
    made = {"observation.images.front": shape, "observation.images.wrist": shape, "action": scenes.joints()}
    pictures = [scenes.picture(640, 0, frame, 0)[:480].copy() for frame in range(60)]
    writer = DatasetWriter.create(OUT / "made", fps=30, features=made)
    late, begin = 0.0, time.perf_counter()
    for frame in range(1800):
        due = begin + frame / 30
        time.sleep(max(0.0, due - time.perf_counter()))
        late = max(late, time.perf_counter() - due)
        shown = {"observation.images.front": pictures[frame % 60], "observation.images.wrist": pictures[-frame % 60]}
        writer.add_frame({**shown, "action": np.full(6, frame, np.float32), "task": "hold still"})
    found = timed(writer.save_episode)
    writer.finalize()
    return found | {"latest_frame_s": late}


def append(_: str) -> dict:
    """10,000 episodes of 10 frames: the first and the last hundred."""
    from lerobot_ops.datasets.writing.writer import DatasetWriter

    writer = DatasetWriter.create(OUT / "made", fps=30, features={"action": scenes.joints()})
    seconds = []
    for _episode in range(10_000):
        before = time.perf_counter()
        for frame in range(10):
            writer.add_frame({"action": np.full(6, frame, np.float32), "task": "hold still"})
        writer.save_episode()
        seconds.append(time.perf_counter() - before)
    closing = timed(writer.finalize)
    first, last = (1000 * float(np.median(part)) for part in (seconds[:100], seconds[-100:]))
    return {"first_ms": first, "last_ms": last, "finalize_s": closing["s"]}


def validate(_: str) -> dict:
    """100,000 rows without video, 100 episodes of 1,000."""
    from lerobot_ops.datasets.validation.validate import validate
    from lerobot_ops.datasets.writing.writer import DatasetWriter

    rng = np.random.default_rng(0)
    with DatasetWriter.create(OUT / "made", fps=30, features=scenes.features("table")) as writer:
        for _episode in range(100):
            steps = rng.normal(size=(2, 1000, 6)).cumsum(1).astype(np.float32)
            for state, action in zip(*steps, strict=True):
                writer.add_frame({"observation.state": state, "action": action, "task": "walk about"})
            writer.save_episode()
    return timed(lambda: validate(OUT / "made"))


def started(arguments: list[str]) -> dict:
    return timed(lambda: subprocess.run(arguments, check=True, capture_output=True))


def timed(work: Callable[[], object]) -> dict:
    begin = time.perf_counter()
    work()
    return {"s": time.perf_counter() - begin}


BIN = Path(sys.executable).parent
CASES: dict[str, Callable[[str], dict]] = {
    "delete": delete,
    "split": split,
    "merge": merge,
    "construct": construct,
    "plain items": lambda name: items(name, 2000, False),
    "windows": lambda name: items(name, 1000, True),
    "frames": lambda name: items(name, 300, True),
    "images": lambda name: items(name, 300, True),
    "loader": lambda name: loader(name, 40),
    "threads": lambda name: batches(name, 40),
    "threads cached": lambda name: batches(name, 40, frame_cache=OUT / "frames"),
    "record": record,
    "save": save_after_a_minute,
    "append": append,
    "validate": validate,
    "import": lambda _: started(
        [sys.executable, "-c", "import lerobot_ops.datasets.reader, lerobot_ops.datasets.editing.edit"]
    ),
    "help": lambda _: started([str(BIN / "lerobot-ops"), "edit", "--help"]),
}

if __name__ == "__main__":
    case, _, name = CASE.partition(":")
    found = CASES[case](name)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print("RESULT " + json.dumps(found), flush=True)
    os._exit(0)

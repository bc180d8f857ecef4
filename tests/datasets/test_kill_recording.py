"""A recording that is killed again and again: what was saved is there at once, and the end result shows no trace.

The kills are SIGKILL, at random moments and before each of the steps by which files get their names.
"""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import probe
from lerobot_ops.datasets.writing.beginning import is_recording
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.versioning.digest import digest
from tests.forking import FORKING

CAMERA, PICTURE = "observation.images.front", "observation.images.wrist"
FEATURES = {
    CAMERA: {"dtype": "video", "shape": (64, 64, 3), "names": None},
    PICTURE: {"dtype": "image", "shape": (16, 16, 3), "names": None},
    "observation.state": {"dtype": "float32", "shape": (3,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
}
EPISODES = 6
STEPS = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
KILLS = 104


def frame(episode: int, number: int) -> dict[str, Any]:
    """Everything in it follows from the episode and the number of the frame."""
    level = 30 * episode + 5 * number
    return {
        CAMERA: np.full((64, 64, 3), level, np.uint8),
        PICTURE: np.full((16, 16, 3), level + 1, np.uint8),
        "observation.state": np.array([episode, number, episode + number / 10], np.float32),
        "next.done": np.array([number == 3 + episode % 3]),
        "task": f"task {episode // 2}",
    }


def record(root: Path, tell: Callable[[str], None] = lambda _: None) -> None:
    """Record what is missing at `root`, and finalise it. Episodes come in another order than that of the dataset."""
    if root.exists() or list(root.parent.glob(f".{root.name}.partial-before")):
        writer = DatasetWriter.resume(root)
    else:
        encoding = VideoEncoding(vcodec="h264", crf=10)
        writer = DatasetWriter.create(root, fps=10, features=FEATURES, video=encoding)
    for index in sorted(writer.saved):
        tell(f"saved {index}")
    for index in (0, 1, 3, 2, 5, 4):
        if index not in writer.saved:
            with writer.episode(index) as episode:
                for number in range(4 + index % 3):
                    episode.add_frame(frame(index, number))
            tell(f"saved {index}")
    writer.finalize()
    tell("finalised")


def recording_process(root: Path, pipe: Connection, fatal_step: int | None) -> None:
    """Tell through the pipe what is done; kill yourself before the step with the given number."""
    steps = 0

    def count(event: str, _: tuple[Any, ...]) -> None:
        nonlocal steps
        if event in STEPS:
            steps += 1
            if steps == fatal_step:
                os.kill(os.getpid(), signal.SIGKILL)

    if fatal_step is not None:
        sys.addaudithook(count)
    record(root, pipe.send)
    pipe.send(f"steps {steps}")
    pipe.close()


class Killed:
    """A recording in processes of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.announced = root, set[int]()
        self.finalised = False
        self.steps = 0

    def run(self, *, seconds: float | None = None, fatal_step: int | None = None) -> bool:
        """Let it record; kill it after so many seconds. Whether it was killed."""
        mine, its = FORKING.Pipe(duplex=False)
        process = FORKING.Process(target=recording_process, args=(self.root, its, fatal_step))
        process.start()
        its.close()
        if seconds is not None:
            process.join(seconds)
            process.kill()
        self._listen(mine)
        process.join()
        return process.exitcode == -signal.SIGKILL

    def _listen(self, pipe: Connection) -> None:
        try:
            while True:
                word, _, number = pipe.recv().partition(" ")
                self.announced |= {int(number)} if word == "saved" else set()
                self.finalised |= word == "finalised"
                self.steps = int(number) if word == "steps" else self.steps
        except EOFError:
            pass


def check(killed: Killed) -> None:
    """Every announced episode that is not waiting for another is in the dataset, with every frame."""
    root = killed.root
    turn = next(index for index in range(EPISODES + 1) if index not in killed.announced)
    waiting = {index for index in killed.announced if index > turn}
    if not turn and not killed.announced and not list(root.glob("meta/episodes/*/*")):
        return
    read = LeRobotDataset(root)
    assert read.num_episodes >= turn
    for index in waiting:
        held = root / f".recording/{index:06d}/frames.parquet"
        assert index < read.num_episodes or held.exists()
    assert load_info(root).total_episodes in (read.num_episodes, read.num_episodes - 1)
    batch = read.batch(range(len(read)))
    row = 0
    for index in range(read.num_episodes):
        for number in range(4 + index % 3):
            expected = frame(index, number)
            assert (batch["episode_index"][row], batch["frame_index"][row]) == (index, number)
            assert batch["observation.state"][row].tolist() == expected["observation.state"].tolist()
            assert batch["task"][row] == expected["task"]
            assert (batch[PICTURE][row] == expected[PICTURE].transpose(2, 0, 1)).all()
            assert np.abs(batch[CAMERA][row].astype(int) - expected[CAMERA][0, 0, 0]).max() <= 6
            row += 1
    assert row == len(read)
    if not is_recording(root):
        assert sum(probe(path).frames for path in root.glob(f"videos/{CAMERA}/*/*.mp4")) == row


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The recording without a kill."""
    root = tmp_path_factory.mktemp("whole") / "dataset"
    record(root)
    return root


def recordings_with_kills(folder: Path, chance: random.Random, expected: str) -> int:
    """Make recordings, each killed several times, until there have been enough kills; return how many."""
    calm, made, kills = Killed(folder / "calm"), ["calm", "first"], 0
    assert not Killed(folder / "first").run()  # waits for the server of processes, which may take many times as long
    began = time.monotonic()
    assert not calm.run(fatal_step=-1)
    seconds = time.monotonic() - began
    while kills < KILLS // 2:
        killed = Killed(folder / f"killed{len(made)}")
        made.append(killed.root.name)
        while not killed.finalised:
            if kills % 3:
                dead = killed.run(fatal_step=chance.randrange(1, calm.steps + 1))
            else:
                dead = killed.run(seconds=chance.uniform(0.02, 0.7 * seconds))
            kills += dead
            check(killed)
        assert killed.announced == set(range(EPISODES))
        assert digest(killed.root) == expected
    assert sorted(path.name for path in folder.iterdir()) == sorted(made)
    return kills


def test_a_recording_survives_kills_at_any_moment(whole: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", "0"))
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor() as pool:
        chances = [random.Random(2 * seed), random.Random(2 * seed + 1)]
        kills = list(pool.map(recordings_with_kills, folders, chances, [digest(whole)] * 2))
    assert sum(kills) >= KILLS


def interrupted_process(root: Path, pipe: Connection) -> None:
    """Record one after the other until Ctrl-C comes."""
    with contextlib.suppress(KeyboardInterrupt), DatasetWriter.resume(root) as writer:
        pipe.send("begun")
        for index in range(writer.num_episodes, 1000):
            for number in range(4 + index % 3):
                writer.add_frame(frame(index % EPISODES, number))
            writer.save_episode()
            pipe.send(f"saved {index}")
    pipe.send("finalised")
    pipe.close()


def test_ctrl_c_at_any_moment_finalises_what_was_saved(tmp_path: Path) -> None:
    chance, root = random.Random(int(os.environ.get("KILL_SEED", "0"))), tmp_path / "d"
    record(root)
    announced = EPISODES
    for _ in range(12):
        mine, its = FORKING.Pipe(duplex=False)
        process = FORKING.Process(target=interrupted_process, args=(root, its))
        process.start()
        its.close()
        assert mine.recv() == "begun"
        time.sleep(chance.uniform(0, 0.6))
        while process.exitcode is None:  # Python drops an interrupt that comes while it frees something
            os.kill(process.pid, signal.SIGINT)
            process.join(10)
        words = []
        with contextlib.suppress(EOFError):
            while True:
                words.append(mine.recv())
        assert words[-1] == "finalised"
        announced = max([announced, *(int(word.split()[1]) + 1 for word in words[:-1])])
        read = LeRobotDataset(root)
        assert read.num_episodes in (announced, announced + 1)  # the last one may not have been announced
        announced = read.num_episodes
        assert not is_recording(root)
        assert os.listdir(tmp_path) == ["d"]
        frames = sum(probe(path).frames for path in root.glob(f"videos/{CAMERA}/*/*.mp4"))
        assert frames == len(read) == len(read.column("index"))
        assert read.column("observation.state")[:, 0].tolist() == (read.column("episode_index") % EPISODES).tolist()

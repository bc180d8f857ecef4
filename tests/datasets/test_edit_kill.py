"""Edits that are killed again and again: the result is there whole or not at all, and the sources are as they were.

The kills are SIGKILL, at random moments and before each of the steps by which files get their names.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from recordings import record

from lerobot_ops.datasets.editing.edit import delete_episodes, merge, rechunk, split, trim
from lerobot_ops.versioning.digest import digest
from tests.forking import FORKING

STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "fcntl.flock", "fcntl.ioctl"}
KILLS = 120
CAMERAS = {"observation.images.front": "video", "observation.images.wrist": "image"}

EDITS = {
    "delete": lambda arm, other, target: delete_episodes(arm, target, [1]),
    "split": lambda arm, other, target: split(arm, {n: target / n for n in "ab"}, {"a": 0.5, "b": 0.5}),
    "merge": lambda arm, other, target: merge([arm, other, arm], target),
    "trim": lambda arm, other, target: trim(arm, target, head_s=0.3, tail_s=0.2),
    "rechunk": lambda arm, other, target: rechunk(arm, target, chunks_size=1, video_files_size_in_mb=1),
}


def editing_process(name: str, arm: Path, other: Path, target: Path, fatal_step: int | None) -> None:
    """Run one edit; kill yourself before the step with the given number."""
    steps = 0

    def count(event: str, _: tuple[Any, ...]) -> None:
        nonlocal steps
        if event in STEPS:
            steps += 1
            if steps == fatal_step:
                os.kill(os.getpid(), signal.SIGKILL)

    if fatal_step is not None:
        sys.addaudithook(count)
    EDITS[name](arm, other, target)


class Edit:
    """One of `EDITS`, in processes of its own."""

    def __init__(self, name: str, arm: Path, other: Path, folder: Path) -> None:
        self.name, self.sources, self.target = name, (arm, other), folder / name
        EDITS[name](*self.sources, self.target)
        self.expected = digest(self.target)
        self.remove()

    def run(self, *, seconds: float | None = None, fatal_step: int | None = None) -> bool:
        """Run it; kill it after so many seconds. Whether it was killed."""
        process = FORKING.Process(target=editing_process, args=(self.name, *self.sources, self.target, fatal_step))
        process.start()
        if seconds is not None:
            process.join(seconds)
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    def check(self) -> None:
        """The result is there and right, or not at all; what is left besides hides its name."""
        left = sorted(path.name for path in self.target.parent.iterdir() if not path.name.startswith("."))
        assert left in ([], [self.name])
        if left:
            assert digest(self.target) == self.expected

    def remove(self) -> None:
        """Make room for the next run."""
        shutil.rmtree(self.target)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    arm = record(folder / "arm", ["push", "pull", "push"], cameras=CAMERAS)
    return arm, record(folder / "other", ["lift"], cameras=CAMERAS, seed=4)


@pytest.fixture(params=EDITS)
def edit(request, sources, tmp_path):
    return Edit(request.param, *sources, tmp_path)


def test_an_edit_survives_kills(edit):
    before = [digest(source) for source in edit.sources]
    for _ in range(2):  # the first process waits for what all of them share
        begin = time.monotonic()
        assert not edit.run()
        whole = time.monotonic() - begin
        edit.check()
        edit.remove()
    kills = steps = 0
    step = 1
    while edit.run(fatal_step=step):  # before one step after the other, until there are no more
        edit.check()
        if edit.target.exists():
            edit.remove()
        kills, steps, step = kills + 1, steps + 1, step + 1 + step // 8
    edit.check()
    edit.remove()
    moments = random.Random(0)
    while kills < KILLS / len(EDITS):
        kills += edit.run(seconds=moments.uniform(0, whole))
        edit.check()
        if edit.target.exists():
            edit.remove()
    assert steps > 5
    assert not edit.run()
    edit.check()
    assert edit.target.exists()
    assert not list(edit.target.parent.glob(".*.partial-*"))
    assert [digest(source) for source in edit.sources] == before

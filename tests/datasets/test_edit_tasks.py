"""Editing task texts: which text wins, how tasks are numbered, and what stays as it is."""

from pathlib import Path

import numpy as np
import pytest
from edited import same_statistics_as_recomputed, sound
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import ACTION, LEROBOT, STATE, columns_of, frames_of, record

from lerobot_ops.datasets.editing.edit import merge
from lerobot_ops.datasets.editing.tasks import modify_tasks
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.tables import load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DatasetError
from lerobot_ops.versioning.digest import digest

H264 = LEROBOT / "two_task_h264"
FRONT = "observation.images.front"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return record(tmp_path_factory.mktemp("plain") / "plain", ["push", "pull", "push", "lift"], frames=3, cameras={})


@pytest.fixture(scope="module")
def turning(tmp_path_factory):
    """Two episodes whose frames have two tasks each."""
    root = tmp_path_factory.mktemp("turning") / "turning"
    with DatasetWriter.create(root, fps=10, features={"observation.state": STATE, "action": ACTION}) as writer:
        for tasks in (["reach", "reach", "grasp", "grasp"], ["grasp", "lift", "lift"]):
            for task in tasks:
                writer.add_frame({"observation.state": np.ones(3, "f4"), "action": np.ones(2, "f4"), "task": task})
            writer.save_episode()
    return root


def texts_of(root: Path) -> list[str]:
    """The task text of every frame."""
    tasks = load_tasks(root)
    return [tasks[number] for number in columns_of(root, ["task_index"])["task_index"]]


def test_one_new_task_for_all(plain, tmp_path):
    result = modify_tasks(plain, tmp_path / "new", new_task="stack the blocks")
    assert result.tasks == load_tasks(result.path) == ["stack the blocks"]
    assert set(columns_of(result.path, ["task_index"])["task_index"]) == {0}
    assert load_info(result.path).total_tasks == 1
    assert load_stats(result.path)["task_index"]["max"] == 0
    sound(result.path)


def test_an_episodes_task_wins_over_a_replacement_and_that_over_the_new_task(plain, tmp_path):
    result = modify_tasks(
        plain,
        tmp_path / "new",
        new_task="wait",
        episode_tasks={2: "shove"},
        task_replacements={"push": "nudge", "pull": "drag"},
    )
    assert [row["tasks"] for row in load_episodes(result.path).to_pylist()] == [
        ["nudge"],
        ["drag"],
        ["shove"],
        ["wait"],
    ]
    sound(result.path)
    same_statistics_as_recomputed(result.path)


def test_texts_that_become_equal_are_one_task_and_numbers_follow_the_first_appearance(plain, tmp_path):
    result = modify_tasks(plain, tmp_path / "new", task_replacements={"lift": "push", "push": "press"})
    assert load_tasks(result.path) == ["press", "pull", "push"]
    result = modify_tasks(plain, tmp_path / "swapped", task_replacements={"pull": "push", "push": "pull"})
    assert load_tasks(result.path) == ["pull", "push", "lift"]
    result = modify_tasks(plain, tmp_path / "one", task_replacements={"pull": "push"})
    assert load_tasks(result.path) == ["push", "lift"]


def test_frames_of_one_episode_keep_their_own_tasks(turning, tmp_path):
    result = modify_tasks(turning, tmp_path / "new", task_replacements={"grasp": "close the hand"})
    assert texts_of(result.path) == ["reach"] * 2 + ["close the hand"] * 3 + ["lift"] * 2
    assert [row["tasks"] for row in load_episodes(result.path).to_pylist()] == [
        ["reach", "close the hand"],
        ["close the hand", "lift"],
    ]
    sound(result.path)
    result = modify_tasks(turning, tmp_path / "whole", episode_tasks={0: "tidy up"})
    assert texts_of(result.path) == ["tidy up"] * 4 + ["grasp"] + ["lift"] * 2


def test_everything_else_stays_as_it_is(tmp_path):
    result = modify_tasks(H264, tmp_path / "new", new_task="press")
    names = [name for name in load_info(H264).columns if name != "task_index"]
    assert columns_of(result.path, names) == columns_of(H264, names)
    for path in H264.rglob("*.mp4"):
        assert (result.path / path.relative_to(H264)).read_bytes() == path.read_bytes()
    np.testing.assert_array_equal(frames_of(result.path, 11, FRONT), frames_of(H264, 11, FRONT))
    sound(result.path)


def test_datasets_with_other_words_for_one_task_can_be_joined(plain, tmp_path):
    modify_tasks(plain, tmp_path / "new", task_replacements={"pull": "drag"})
    modify_tasks(tmp_path / "new", tmp_path / "back", task_replacements={"drag": "pull"})
    assert merge([plain, tmp_path / "back"], tmp_path / "all").tasks == ["push", "pull", "lift"]


def test_gives_the_same_bytes_every_time(plain, tmp_path):
    first, second = (modify_tasks(plain, tmp_path / name, new_task="wait").path for name in ("first", "second"))
    assert digest(first) == digest(second)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "no new task is named"),
        ({"new_task": " "}, "a task is empty"),
        ({"episode_tasks": {4: "x"}}, "0 to 3"),
        ({"episode_tasks": {-1: "x"}}, "0 to 3"),
        ({"task_replacements": {"pusj": "x"}}, "did you mean 'push'"),
        ({"task_replacements": {"push": ""}}, "a task is empty"),
    ],
)
def test_what_cannot_be_meant_is_refused(plain, tmp_path, fields, says):
    with pytest.raises(DatasetError, match=says):
        modify_tasks(plain, tmp_path / "new", **fields)
    assert not list(tmp_path.iterdir())


WORDS = st.sampled_from(["push", "pull", "lift", "press", "wait"])


@settings(max_examples=15, deadline=None)
@given(
    new=st.none() | WORDS,
    episodes=st.dictionaries(st.integers(0, 3), WORDS),
    old=st.dictionaries(st.sampled_from(["push", "pull", "lift"]), WORDS),
)
def test_every_frame_has_the_text_that_the_rule_gives_it(plain, tmp_path_factory, new, episodes, old):
    if new is None and not episodes and not old:
        return
    before = ["push"] * 3 + ["pull"] * 4 + ["push"] * 5 + ["lift"] * 6
    owner = [0] * 3 + [1] * 4 + [2] * 5 + [3] * 6
    expected = [episodes.get(e, old.get(text, new or text)) for e, text in zip(owner, before, strict=True)]
    target = tmp_path_factory.mktemp("any") / "new"
    result = modify_tasks(plain, target, new_task=new, episode_tasks=episodes, task_replacements=old)
    assert texts_of(result.path) == expected
    assert load_tasks(result.path) == list(dict.fromkeys(expected))

"""Which episodes get a clip, and that a clip is what its record says."""

from dataclasses import replace

import pytest

from lerobot_ops.evaluation import clips, rollout
from lerobot_ops.evaluation.actors import zero
from lerobot_ops.evaluation.clips import Clip, Unfaithful, chosen
from lerobot_ops.evaluation.config import ClipsConfig
from lerobot_ops.evaluation.records import Record
from lerobot_ops.evaluation.rollout import Episode

TASK = "button-press-topdown-v3"


def record(task, episode, success, error=None) -> Record:
    return Record(task, episode, 7, None, success, error, 10, 1.0, 1.0, "00", 0.1, 0, 1)


RECORDS = [
    record("a", 0, True, error="died"),
    record("a", 1, True),
    record("a", 2, False),
    record("a", 3, True),
    record("b", 0, False),
    record("b", 1, False),
    record("c", 0, True),
]


@pytest.mark.parametrize(
    ("config", "episodes"),
    [
        ({}, [("a", 1), ("a", 2), ("b", 0), ("c", 0)]),
        ({"max_tasks": 1}, [("a", 1), ("a", 2)]),
        ({"per_outcome": 2}, [("a", 1), ("a", 2), ("a", 3), ("b", 0), ("b", 1), ("c", 0)]),
    ],
)
def test_the_first_successes_and_failures_of_the_first_tasks(config, episodes):
    assert [found.key for found in chosen(RECORDS, ClipsConfig(**config))] == episodes


@pytest.fixture(scope="module")
def worker(venv_sandbox):
    with venv_sandbox.spawn({"video": True}) as worker:
        yield worker


def test_a_clip_is_kept_only_when_the_episode_went_the_same_again(worker, tmp_path):
    (tmp_path / "clips").mkdir()
    episode, config = Episode(TASK, 0, 1000, 24), ClipsConfig(size=64)
    first = rollout.play(worker, episode, zero, cameras=[])
    made = clips.film(worker, episode, first, zero, tmp_path, config, [])
    assert made == Clip(path=f"clips/{TASK}-000-failure.mp4", task=TASK, episode=0, seed=1000, success=False)
    assert [path.name for path in (tmp_path / "clips").iterdir()] == [f"{TASK}-000-failure.mp4"]

    other = replace(first, episode=1, success=True, steps=12)
    dropped = clips.film(worker, Episode(TASK, 1, 1000, 24), other, zero, tmp_path, config, [])
    assert isinstance(dropped, Unfaithful)
    assert str(dropped) == (
        f"no clip of {TASK} episode 1: it succeeded after 12 steps, and when played again failed after 24"
    )
    assert len(list((tmp_path / "clips").iterdir())) == 1


def test_equal_episodes_give_equal_clips(worker, tmp_path):
    episode, config = Episode(TASK, 0, 1000, 500), ClipsConfig(size=64, fps=5)
    first, actions = rollout.play_expert(worker, episode)
    assert len(actions) == first.steps
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        (folder / "clips").mkdir(parents=True)
        made = clips.film(worker, episode, first, None, folder, config, [])
        assert made.success
        contents.append((folder / made.path).read_bytes())
    assert contents[0] == contents[1]

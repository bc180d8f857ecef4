"""Which episodes get a clip, and that a clip is what its record says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import probe
from lerobot_ops.datasets.videos.video_writer import encode
from lerobot_ops.evaluation import clips, rollout
from lerobot_ops.evaluation.actors import zero
from lerobot_ops.evaluation.clips import Clip, Unfaithful, chosen, stride, write_sheets
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
        ({}, [("a", 2), ("a", 1), ("b", 0), ("c", 0)]),
        ({"max_tasks": 1}, [("a", 2), ("a", 1)]),
        ({"max_tasks": 2}, [("a", 2), ("a", 1), ("b", 0), ("c", 0)]),
        ({"per_outcome": 2}, [("a", 2), ("a", 1), ("a", 3), ("b", 0), ("b", 1), ("c", 0)]),
    ],
)
def test_the_first_failures_and_successes_of_the_first_tasks_that_have_any(config, episodes):
    assert [found.key for found in chosen(RECORDS, ClipsConfig(**config))] == episodes


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 30),
)
def test_shards_film_what_the_whole_evaluation_shows(outcomes, per_outcome, max_tasks, cut):
    found = [record(f"task-{t}", n, success) for t, task in enumerate(outcomes) for n, success in enumerate(task)]
    config = ClipsConfig(per_outcome=per_outcome, max_tasks=max_tasks)
    filmed = {each.key for part in (found[:cut], found[cut:]) for each in chosen(part, config)}
    assert {each.key for each in chosen(found, config)} <= filmed


@pytest.mark.parametrize(
    ("control_rate", "wanted", "every"),
    [(80, 20, 4), (20, 20, 1), (10, 20, 1), (50, 20, 2), (80, 30, 2), (500, 20, 25), (23, 20, 1)],
)
def test_a_clip_takes_as_long_as_the_simulated_time(control_rate, wanted, every):
    assert stride(control_rate, wanted) == every
    assert control_rate % every == 0


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

    path = tmp_path / made.path
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a browser plays it while it loads
    found = probe(path)
    assert (found.codec, found.pix_fmt, found.fps) == ("h264", "yuv420p", 20)
    assert found.seconds == pytest.approx((24 / 4 + 1) / 20)  # 24 steps at 80 Hz, and the picture before the first


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


def test_a_contact_sheet_shows_how_each_clip_of_a_task_ends(tmp_path):
    (tmp_path / "clips").mkdir()
    encoding, made = VideoEncoding(vcodec="h264", crf=10, g=20), []
    for task, greys in (("a", [40, 80, 120, 160, 200, 240]), ("b", [100])):
        for episode, grey in enumerate(greys):
            frames = np.zeros((8, 64, 64, 3), np.uint8)
            frames[-1] = grey
            encode(tmp_path / f"clips/{task}-{episode}.mp4", frames, 20, encoding)
            made.append(Clip(path=f"clips/{task}-{episode}.mp4", task=task, episode=episode, seed=0, success=False))
    assert write_sheets(tmp_path, made) == {"a": "clips/a.jpg", "b": "clips/b.jpg"}
    sheet = np.asarray(Image.open(tmp_path / "clips/a.jpg"), dtype=float)
    tiles = sheet.reshape(2, 192, 5, 192, 3).mean(axis=(1, 3, 4))
    assert tiles.ravel()[:6] == pytest.approx([40, 80, 120, 160, 200, 240], abs=4)
    assert tiles.ravel()[6:] == pytest.approx(0, abs=4)
    assert Image.open(tmp_path / "clips/b.jpg").size == (192, 192)

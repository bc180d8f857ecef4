"""Statistics computed anew: from every frame, and for actions relative to the state."""

import json
import shutil

import numpy as np
import pytest
from edited import same_statistics_as_recomputed, sound
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import ACTION, LEROBOT, STATE, columns_of, frames_of, record

from lerobot_ops.datasets.editing import statistics as edit_statistics
from lerobot_ops.datasets.editing.edit import delete_episodes
from lerobot_ops.datasets.editing.statistics import recompute_stats, relative_chunks
from lerobot_ops.datasets.histograms import load_histograms
from lerobot_ops.datasets.statistics import camera_stats, numeric_stats
from lerobot_ops.datasets.tables import episode_stats, load_episodes, load_stats
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DatasetError
from lerobot_ops.versioning.digest import digest

FRONT = "observation.images.front"
H264 = LEROBOT / "two_task_h264"


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """Three episodes of 6, 7 and 8 frames with a video and images."""
    cameras = {FRONT: "video", "observation.images.wrist": "image"}
    return record(tmp_path_factory.mktemp("arm") / "arm", ["push"] * 3, frames=6, cameras=cameras)


def relative_by_hand(root, chunk_size: int, mask: list[int]) -> list[np.ndarray]:
    """Per episode all its chunks of relative actions, one number at a time."""
    data = columns_of(root, ["action", "observation.state", "episode_index"])
    episodes = []
    for episode in sorted(set(data["episode_index"])):
        rows = [row for row, number in enumerate(data["episode_index"]) if number == episode]
        chunks = []
        for start in rows[: len(rows) - chunk_size + 1]:
            state = np.array(data["observation.state"][start], np.float32)
            for row in range(start, start + chunk_size):
                action = np.array(data["action"][row], np.float32)
                chunks.append([a - s if m else a for a, s, m in zip(action, state, mask, strict=False)])
        episodes.append(np.array(chunks, np.float32))
    return episodes


def test_numbers_and_cameras_are_those_of_every_frame(tmp_path):
    result = recompute_stats(H264, tmp_path / "new", skip_image_video=False)
    pictures = [frames_of(H264, episode, FRONT) for episode in range(12)]
    for episode, row in enumerate(load_episodes(result.path).to_pylist()):
        for name, value in camera_stats(pictures[episode]).items():
            np.testing.assert_allclose(episode_stats(row)[FRONT][name], value, atol=1e-12)
    for name, value in camera_stats(np.concatenate(pictures)).items():
        np.testing.assert_allclose(load_stats(result.path)[FRONT][name], value, atol=1e-12)
    assert {number: list(cameras) for number, cameras in load_histograms(result.path).items()} == {
        number: [FRONT] for number in range(12)
    }
    same_statistics_as_recomputed(result.path)
    sound(result.path)


def test_everything_but_the_statistics_stays_as_it_is(arm, tmp_path):
    shutil.copytree(arm, tmp_path / "old")
    stats = json.loads((tmp_path / "old/meta/stats.json").read_text())
    stats["action"]["mean"] = [9.0, 9.0]
    (tmp_path / "old/meta/stats.json").write_text(json.dumps(stats))
    shutil.rmtree(tmp_path / "old/meta/histograms")
    result = recompute_stats(tmp_path / "old", tmp_path / "new")
    for path in [*arm.rglob("*.mp4"), *arm.glob("data/*/*.parquet")]:
        assert (result.path / path.relative_to(arm)).read_bytes() == path.read_bytes()
    np.testing.assert_allclose(load_stats(result.path)["action"]["mean"], load_stats(arm)["action"]["mean"])
    for name, value in load_stats(arm)[FRONT].items():
        if not name.startswith("q"):
            np.testing.assert_allclose(load_stats(result.path)[FRONT][name], value)
    assert not load_histograms(result.path)
    assert digest(recompute_stats(arm, tmp_path / "again").path) == digest(
        delete_episodes(arm, tmp_path / "c", []).path
    )


def test_pixel_counts_make_later_edits_exact(arm, tmp_path):
    shutil.copytree(arm, tmp_path / "old")
    shutil.rmtree(tmp_path / "old/meta/histograms")
    counted = recompute_stats(tmp_path / "old", tmp_path / "new", skip_image_video=False).path
    kept = delete_episodes(counted, tmp_path / "kept", [1]).path
    expected = camera_stats(np.concatenate([frames_of(arm, episode, FRONT) for episode in (0, 2)]))
    for name, value in expected.items():
        np.testing.assert_allclose(load_stats(kept)[FRONT][name], value, atol=1e-12)


@pytest.mark.parametrize(("excluded", "mask"), [([], [1, 1]), (["DY"], [1, 0]), (None, [1, 1])])
def test_relative_actions_are_chunks_minus_the_state_at_their_beginning(arm, tmp_path, excluded, mask):
    result = recompute_stats(
        arm, tmp_path / "new", relative_action=True, relative_exclude_joints=excluded, chunk_size=4
    )
    episodes = relative_by_hand(arm, 4, mask)
    found = [load_stats(result.path)["action"]]
    found += [episode_stats(row)["action"] for row in load_episodes(result.path).to_pylist()]
    for stats, values in zip(found, [np.concatenate(episodes), *episodes], strict=True):
        for name, value in numeric_stats(values).items():
            np.testing.assert_allclose(stats[name], value, rtol=1e-9, err_msg=name)
    for name, value in load_stats(arm)["observation.state"].items():
        np.testing.assert_array_equal(load_stats(result.path)["observation.state"][name], value)
    assert columns_of(result.path, ["action"]) == columns_of(arm, ["action"])
    sound(result.path)


def test_an_episode_shorter_than_a_chunk_counts_only_for_itself(arm, tmp_path):
    result = recompute_stats(arm, tmp_path / "new", relative_action=True, chunk_size=7)
    long = np.concatenate(relative_by_hand(arm, 7, [1, 1])[1:])
    np.testing.assert_allclose(load_stats(result.path)["action"]["q90"], numeric_stats(long)["q90"])
    assert load_stats(result.path)["action"]["count"] == len(long) == 7 + 14
    short = episode_stats(load_episodes(result.path).to_pylist()[0])["action"]
    np.testing.assert_allclose(short["mean"], relative_by_hand(arm, 6, [1, 1])[0].mean(0), rtol=1e-6)


def test_many_chunks_give_the_same_statistics_part_by_part(arm, tmp_path, monkeypatch):
    whole = recompute_stats(arm, tmp_path / "whole", relative_action=True, chunk_size=3).path
    monkeypatch.setattr(edit_statistics, "_AT_ONCE", 8)
    parts = recompute_stats(arm, tmp_path / "parts", relative_action=True, chunk_size=3).path
    for name, value in load_stats(whole)["action"].items():
        np.testing.assert_allclose(load_stats(parts)["action"][name], value, rtol=1e-12)


def test_a_later_edit_has_the_statistics_of_the_actions_again(arm, tmp_path):
    relative = recompute_stats(arm, tmp_path / "new", relative_action=True, chunk_size=4).path
    again = delete_episodes(relative, tmp_path / "again", []).path
    for name, value in load_stats(arm)["action"].items():
        np.testing.assert_array_equal(load_stats(again)["action"][name], value)
    sound(again)


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"chunk_size": 9}, "1 to 8"), ({"relative_exclude_joints": ["gripper"]}, "no joint has this name")],
)
def test_relative_actions_that_make_no_sense_are_refused(arm, tmp_path, fields, says):
    with pytest.raises(DatasetError, match=says):
        recompute_stats(arm, tmp_path / "new", relative_action=True, **fields)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"action": ACTION}, "need an action and a state"),
        ({"action": STATE | {"shape": [2], "names": None}, "observation.state": ACTION | {"shape": [1]}}, "2 or more"),
    ],
)
def test_relative_actions_need_a_state_of_their_size(tmp_path, features, says):
    root = tmp_path / "old"
    with DatasetWriter.create(root, fps=10, features=features) as writer:
        values = {name: np.ones(feature["shape"], np.float32) for name, feature in features.items()}
        for _ in range(3):
            writer.add_frame(values | {"task": "push"})
        writer.save_episode()
    with pytest.raises(DatasetError, match=says):
        recompute_stats(root, tmp_path / "new", relative_action=True, chunk_size=2)


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 9), size=st.integers(1, 9), extra=st.integers(0, 2), at_once=st.integers(1, 50))
def test_chunks_are_the_same_whatever_is_held_at_a_time(frames, size, extra, at_once):
    if size > frames:
        return
    rng = np.random.default_rng(frames * 10 + size)
    actions, states = rng.normal(size=(frames, 2)), rng.normal(size=(frames, 2 + extra))
    mask = np.array([1, 0], np.float32)
    before, edit_statistics._AT_ONCE = edit_statistics._AT_ONCE, at_once
    try:
        found = np.concatenate(list(relative_chunks(actions, states, mask, size)))
    finally:
        edit_statistics._AT_ONCE = before
    a, s = actions.astype(np.float32), states.astype(np.float32)
    expected = [a[t + h] - s[t, :2] * mask for t in range(frames - size + 1) for h in range(size)]
    np.testing.assert_array_equal(found, expected)

"""Editing LeRobot's and our own recordings: what stays is untouched, what is refused leaves nothing behind."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from edited import same_statistics_as_recomputed, sound
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import (
    ACTION,
    LEROBOT,
    STATE,
    around_lerobot_av1,
    change_info,
    change_table,
    columns_of,
    frames_of,
    lay_around,
    record,
    set_cells,
)

from lerobot_ops.artifacts import staged
from lerobot_ops.datasets.editing.edit import EditPlan, delete_episodes, merge, remove_features, split
from lerobot_ops.datasets.info import DatasetInfo, load_info, with_defaults
from lerobot_ops.datasets.tables import load_data, load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.validation.validate import validate
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video_writer import encode
from lerobot_ops.errors import ArtifactError, DatasetError
from lerobot_ops.versioning.digest import digest

FRONT = "observation.images.front"
H264 = LEROBOT / "two_task_h264"


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """Four episodes of two tasks with a video camera."""
    return record(tmp_path_factory.mktemp("arm") / "arm", ["push", "pull", "push", "pull"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Five episodes without a camera."""
    return record(tmp_path_factory.mktemp("plain") / "plain", ["push"] * 3 + ["pull"] * 2, frames=4, cameras={})


@pytest.fixture(scope="module")
def av1(tmp_path_factory):
    return around_lerobot_av1(tmp_path_factory.mktemp("av1") / "av1")


class TestDelete:
    def test_keeps_the_pixels_of_a_lerobot_h264_video(self, tmp_path):
        kept = [1, 2, 5, 6, 7, 8, 9, 10]
        result = delete_episodes(H264, tmp_path / "new", [0, 3, 4, 11])
        assert (result.episodes, result.frames) == (8, 640)
        for new, old in enumerate(kept):
            np.testing.assert_array_equal(frames_of(tmp_path / "new", new, FRONT), frames_of(H264, old, FRONT))
        sound(tmp_path / "new")
        same_statistics_as_recomputed(tmp_path / "new")

    def test_keeps_the_pixels_of_a_lerobot_av1_video(self, av1, tmp_path):
        delete_episodes(av1, tmp_path / "new", [1])
        for new, old in enumerate([0, 2, 3]):
            np.testing.assert_array_equal(frames_of(tmp_path / "new", new, FRONT), frames_of(av1, old, FRONT))
        sound(tmp_path / "new")

    def test_keeps_the_pixels_of_an_episode_that_begins_between_keyframes(self, tmp_path):
        features = with_defaults({"observation.state": STATE, FRONT: {"dtype": "video", "shape": [48, 64, 3]}})
        info = DatasetInfo(fps=10, features=features)
        pictures = np.random.default_rng(0).integers(0, 255, (30, 6, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        path = tmp_path / "old" / info.video_file(FRONT, 0, 0)
        path.parent.mkdir(parents=True)
        encode(path, pictures, 10, VideoEncoding(vcodec="h264", g=30))
        old = lay_around(tmp_path / "old", info, FRONT, [13, 8, 9])
        assert [found.check for found in validate(old).findings] == ["video-keyframes"]
        delete_episodes(old, tmp_path / "new", [1])
        np.testing.assert_array_equal(frames_of(tmp_path / "new", 0, FRONT), frames_of(old, 0, FRONT))
        np.testing.assert_array_equal(frames_of(tmp_path / "new", 1, FRONT), frames_of(old, 2, FRONT))

    def test_renumbers_and_keeps_the_rest_of_every_row(self, plain, tmp_path):
        result = delete_episodes(plain, tmp_path / "new", [0, 3])
        old, new = (
            columns_of(root, ["observation.state", "action", "frame_index", "timestamp"])
            for root in (plain, result.path)
        )
        kept = [
            row
            for row, episode in enumerate(columns_of(plain, ["episode_index"])["episode_index"])
            if episode in (1, 2, 4)
        ]
        assert new == {name: [values[row] for row in kept] for name, values in old.items()}
        numbers = columns_of(result.path, ["index", "episode_index", "task_index"])
        assert numbers["index"] == list(range(result.frames))
        assert numbers["episode_index"] == [0] * 5 + [1] * 6 + [2] * 8
        assert numbers["task_index"] == [0] * 11 + [1] * 8
        same_statistics_as_recomputed(result.path)

    def test_forgets_tasks_that_are_not_used_any_more(self, plain, tmp_path):
        result = delete_episodes(plain, tmp_path / "new", [0, 1, 2])
        assert load_tasks(result.path) == result.tasks == ["pull"]
        assert set(columns_of(result.path, ["task_index"])["task_index"]) == {0}
        assert load_info(result.path).total_tasks == 1

    def test_of_nothing_is_a_copy(self, arm, tmp_path):
        result = delete_episodes(arm, tmp_path / "new", [])
        assert load_data(arm).equals(load_data(result.path))
        assert load_info(result.path) == load_info(arm)
        assert load_stats(result.path).keys() == load_stats(arm).keys()
        sound(result.path)

    def test_gives_the_same_bytes_every_time(self, arm, tmp_path):
        first, second = (delete_episodes(arm, tmp_path / name, [2]).path for name in ("first", "second"))
        assert digest(first) == digest(second)

    def test_leaves_the_source_alone(self, arm, tmp_path):
        before = digest(arm)
        delete_episodes(arm, tmp_path / "new", [2])
        assert digest(arm) == before

    def test_keeps_columns_of_the_episodes_table_that_others_added(self, arm, tmp_path):
        shutil.copytree(arm, tmp_path / "old")
        extra = pa.table(
            {
                "sparse_subtask_names": [["reach", "push"], [], ["reach"], ["pull", "let go"]],
                "sparse_subtask_end_frames": pa.array([[3, 12], [], [14], [2, 15]], pa.list_(pa.int32())),
                "arm_length": pa.array([0.5, None, 0.75, 0.25], pa.float32()),
            }
        )

        def add(table: pa.Table) -> pa.Table:
            for name in extra.column_names:
                table = table.append_column(extra.schema.field(name), extra.column(name))
            return table

        change_table(tmp_path / "old/meta/episodes/chunk-000/file-000.parquet", add)
        result = delete_episodes(tmp_path / "old", tmp_path / "new", [1])
        assert load_episodes(result.path).select(extra.column_names).equals(extra.take([0, 2, 3]))

    def test_drops_an_episode_with_nan_but_refuses_to_keep_it(self, plain, tmp_path):
        shutil.copytree(plain, tmp_path / "old")
        change_table(tmp_path / "old/data/chunk-000/file-000.parquet", set_cells("next.reward", {5: float("nan")}))
        with pytest.raises(DatasetError, match=r"next\.reward of episode 1"):
            delete_episodes(tmp_path / "old", tmp_path / "kept", [0])
        assert not (tmp_path / "kept").exists()
        sound(delete_episodes(tmp_path / "old", tmp_path / "dropped", [1]).path)

    def test_keeps_images_byte_by_byte(self, tmp_path):
        root = record(tmp_path / "old", ["push", "pull"], cameras={FRONT: "image"})
        result = delete_episodes(root, tmp_path / "new", [0])
        assert columns_of(result.path, [FRONT])[FRONT] == columns_of(root, [FRONT])[FRONT][12:]
        sound(result.path)

    @pytest.mark.parametrize("dtype", ["image", "video"])
    def test_computes_a_cameras_statistics_where_the_source_has_none(self, tmp_path, dtype):
        root = record(tmp_path / "old", ["push", "pull"], cameras={FRONT: dtype})
        before = load_stats(root)[FRONT]
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        change_table(path, lambda table: table.drop([name for name in table.column_names if name.startswith("stats/")]))
        found = load_stats(delete_episodes(root, tmp_path / "new", []).path)[FRONT]
        for name, value in before.items():
            np.testing.assert_allclose(found[name], value, atol=0 if dtype == "image" else 0.05, err_msg=name)


class TestSplit:
    def test_by_fractions_gives_the_last_what_rounding_leaves(self, plain, tmp_path):
        targets = {name: tmp_path / "parts" / name for name in ("train", "test")}
        train, test = split(plain, targets, {"train": 0.5, "test": 0.5})
        assert (train.episodes, test.episodes) == (2, 3)
        rows = [columns_of(part.path, ["action"])["action"] for part in (train, test)]
        assert rows[0] + rows[1] == columns_of(plain, ["action"])["action"]

    def test_by_lists_keeps_the_pixels(self, tmp_path):
        first, second = split(H264, {"a": tmp_path / "a", "b": tmp_path / "b"}, {"a": [11, 3], "b": [4]})
        np.testing.assert_array_equal(frames_of(first.path, 1, FRONT), frames_of(H264, 11, FRONT))
        np.testing.assert_array_equal(frames_of(second.path, 0, FRONT), frames_of(H264, 4, FRONT))
        for part in (first, second):
            sound(part.path)
            same_statistics_as_recomputed(part.path)

    def test_appears_with_all_parts_at_once(self, plain, tmp_path):
        shutil.copytree(plain, tmp_path / "old")
        change_table(tmp_path / "old/data/chunk-000/file-000.parquet", set_cells("next.reward", {-1: float("nan")}))
        targets = {name: tmp_path / "parts" / name for name in ("train", "test")}
        with pytest.raises(DatasetError, match="not finite"):
            split(tmp_path / "old", targets, {"train": [0, 1], "test": [4]})
        assert [path.name for path in tmp_path.iterdir()] == ["old"]

    def test_names_need_targets(self, plain, tmp_path):
        with pytest.raises(DatasetError, match="different names"):
            split(plain, {"train": tmp_path / "a"}, {"train": 0.5, "test": 0.5})


class TestMerge:
    def test_joins_rows_tasks_and_videos(self, arm, tmp_path):
        other = record(tmp_path / "other", ["lift", "pull"], seed=9)
        result = merge([arm, other], tmp_path / "new")
        assert result.tasks == load_tasks(result.path) == ["push", "pull", "lift"]
        assert [row["tasks"] for row in load_episodes(result.path).to_pylist()] == [
            [task] for task in ["push", "pull", "push", "pull", "lift", "pull"]
        ]
        assert columns_of(result.path, ["action"])["action"] == list(
            itertools.chain.from_iterable(columns_of(root, ["action"])["action"] for root in (arm, other))
        )
        for new, (root, old) in enumerate([*((arm, n) for n in range(4)), *((other, n) for n in range(2))]):
            np.testing.assert_array_equal(frames_of(result.path, new, FRONT), frames_of(root, old, FRONT))
        sound(result.path)
        same_statistics_as_recomputed(result.path)

    def test_of_the_parts_of_a_split_is_the_whole(self, tmp_path):
        parts = split(H264, {"a": tmp_path / "a", "b": tmp_path / "b"}, {"a": 0.4, "b": 0.6})
        result = merge([part.path for part in parts], tmp_path / "new")
        whole = delete_episodes(H264, tmp_path / "whole", [])
        assert load_data(result.path).equals(load_data(whole.path))
        for name in ("action", "observation.state", FRONT, "index"):
            for statistic, value in load_stats(whole.path)[name].items():
                np.testing.assert_allclose(
                    load_stats(result.path)[name][statistic], value, err_msg=f"{name} {statistic}"
                )
        for episode in range(12):
            np.testing.assert_array_equal(frames_of(result.path, episode, FRONT), frames_of(H264, episode, FRONT))

    def test_begins_new_files_at_the_size_limit(self, tmp_path):
        shutil.copytree(H264, tmp_path / "old")
        change_info(tmp_path / "old", video_files_size_in_mb=1, chunks_size=2)
        result = merge([tmp_path / "old", tmp_path / "old"], tmp_path / "new")
        videos = sorted(path.relative_to(result.path).as_posix() for path in (result.path / "videos").rglob("*.mp4"))
        assert videos == [f"videos/{FRONT}/chunk-00{c}/file-00{f}.mp4" for c, f in ((0, 0), (0, 1), (1, 0))]
        assert max((result.path / name).stat().st_size for name in videos) < 1024**2
        np.testing.assert_array_equal(frames_of(result.path, 23, FRONT), frames_of(H264, 11, FRONT))
        sound(result.path)

    def test_of_common_features_leaves_out_the_camera_that_one_lacks(self, arm, plain, tmp_path):
        with pytest.raises(DatasetError, match=f"with {FRONT}"):
            merge([plain, arm], tmp_path / "new")
        with pytest.raises(DatasetError, match=f"without {FRONT}"):
            merge([arm, plain], tmp_path / "new")
        result = merge([arm, plain], tmp_path / "new", features="common")
        info = load_info(result.path)
        assert set(info.features) == set(load_info(plain).features)
        assert info.video_path is None
        assert not (result.path / "videos").exists()
        assert not [name for name in load_episodes(result.path).column_names if FRONT in name]
        sound(result.path)
        same_statistics_as_recomputed(result.path)

    def test_forgets_the_encoder_settings_that_differ(self, arm, tmp_path):
        shutil.copytree(arm, tmp_path / "other")
        features = json.loads((arm / "meta/info.json").read_text())["features"]
        features[FRONT]["info"]["video.crf"] = 18
        change_info(tmp_path / "other", features=features)
        info = load_info(merge([arm, tmp_path / "other"], tmp_path / "new").path).features[FRONT].info
        assert info["video.crf"] is None
        assert info["video.codec"] == "h264"


class TestRemoveFeatures:
    def test_drops_a_column_and_its_statistics(self, arm, tmp_path):
        result = remove_features(arm, tmp_path / "new", ["next.reward"])
        assert "next.reward" not in load_info(result.path).features
        assert "next.reward" not in load_data(result.path).column_names
        assert "next.reward" not in load_stats(result.path)
        assert not [name for name in load_episodes(result.path).column_names if "next.reward" in name]
        sound(result.path)

    def test_drops_a_camera_with_its_videos(self, arm, tmp_path):
        result = remove_features(arm, tmp_path / "new", [FRONT])
        assert not (result.path / "videos").exists()
        assert load_info(result.path).video_path is None
        sound(result.path)

    def test_needs_no_video_of_the_camera_that_goes(self, arm, tmp_path):
        shutil.copytree(arm, tmp_path / "old")
        shutil.rmtree(tmp_path / "old/videos")
        sound(remove_features(tmp_path / "old", tmp_path / "new", [FRONT]).path)


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(arm, tmp_path):
    plan = delete_episodes(arm, tmp_path / "new", [0], dry_run=True)
    assert isinstance(plan, EditPlan)
    assert (plan.episodes, plan.frames, plan.tasks) == (3, 13 + 14 + 15, ["push", "pull"])
    assert plan.bytes > 1000
    assert "3 episodes" in str(plan)
    assert list(tmp_path.iterdir()) == []


def two(folder: Path) -> dict[str, Path]:
    return {"a": folder / "a", "b": folder / "b"}


REFUSED = {
    "unknown episode": (lambda s, t: delete_episodes(s["arm"], t, [1, 4, -1]), ["-1, 4", "0 to 3"]),
    "all episodes": (lambda s, t: delete_episodes(s["arm"], t, [0, 1, 2, 3]), ["all episodes", "4 of 4"]),
    "overlapping splits": (lambda s, t: split(s["arm"], two(t), {"a": [0, 1], "b": [1]}), ["episode 1 is in 'a'"]),
    "unknown in a split": (lambda s, t: split(s["arm"], {"a": t / "a"}, {"a": [7]}), ["no such episode", "7"]),
    "fractions above 1": (lambda s, t: split(s["arm"], two(t), {"a": 0.7, "b": 0.7}), ["sum of 1 at most"]),
    "mixed splits": (lambda s, t: split(s["arm"], two(t), {"a": 0.7, "b": [3]}), ["all fractions or all lists"]),
    "empty split": (lambda s, t: split(s["arm"], two(t), {"a": 0.1, "b": 0.9}), ["splits.a", "empty"]),
    "nothing to merge": (lambda s, t: merge([], t), ["nothing to merge"]),
    "other fps": (lambda s, t: merge([s["arm"], s["fast"]], t), ["fps", "20", "10, as in", "meta/info.json"]),
    "other robot": (lambda s, t: merge([s["arm"], s["leg"]], t), ["robot_type", "leg", "arm"]),
    "other shape": (lambda s, t: merge([s["plain"], s["wide"]], t), ["features.action", "float32[2]"]),
    "nothing in common": (lambda s, t: merge([s["arm"], s["other"]], t, features="common"), ["no features in common"]),
    "other codec": (lambda s, t: merge([s["arm"], s["av1"]], t), ["64x48 av1", "64x48 h264", "re-encod"]),
    "unknown feature": (lambda s, t: remove_features(s["arm"], t, ["observation.stat"]), ["'observation.state'"]),
    "default feature": (lambda s, t: remove_features(s["arm"], t, ["timestamp"]), ["cannot be removed", "timestamp"]),
    "every feature": (lambda s, t: remove_features(s["other"], t, ["force"]), ["no feature would be left"]),
    "no dataset": (lambda s, t: delete_episodes(s["arm"].parent, t, [0]), ["no dataset here"]),
    "a crashed recording": (lambda s, t: delete_episodes(LEROBOT / "crashed", t, [0]), ["no episodes table", "fix"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(arm, plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    wide = {"action": ACTION | {"shape": [3], "names": None}}
    made = {
        "fast": record(folder / "fast", ["push"], fps=20),
        "leg": record(folder / "leg", ["push"], robot_type="leg"),
        "av1": record(folder / "av1", ["push"], vcodec="libsvtav1"),
        "other": record(folder / "other", ["push"], cameras={}, features={"force": ACTION}),
        "wide": record(folder / "wide", ["push"], cameras={}),
    }
    features = json.loads((made["wide"] / "meta/info.json").read_text())["features"]
    change_info(made["wide"], features=features | wide)
    return made | {"arm": arm, "plain": plain}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_before_anything_is_written(name, sources, tmp_path):
    attempt, expected = REFUSED[name]
    with pytest.raises(DatasetError) as error:
        attempt(sources, tmp_path / "new")
    for text in expected:
        assert text in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_refuses_an_output_that_exists(arm, tmp_path):
    with pytest.raises(ArtifactError, match="exists already"):
        delete_episodes(arm, arm, [0])
    with pytest.raises(ArtifactError, match="exists already"):
        split(arm, {"a": tmp_path / "a", "b": tmp_path}, {"a": [0], "b": [1]}, dry_run=True)


def test_refuses_an_output_that_another_edit_is_writing(arm, tmp_path):
    with staged(tmp_path / "new", key="edit") as folder:
        (folder / "half").write_bytes(b"")
        with pytest.raises(ArtifactError, match="another process"):
            delete_episodes(arm, tmp_path / "new", [0])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["half"]


def test_refuses_a_table_that_disagrees_with_its_data(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "old")
    change_table(tmp_path / "old/meta/episodes/chunk-000/file-000.parquet", set_cells("length", {2: 9}))
    with pytest.raises(DatasetError, match=r"disagree(.|\n)*episode 2(.|\n)*6 rows(.|\n)*9 rows"):
        delete_episodes(tmp_path / "old", tmp_path / "new", [0])


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(5)), cuts=st.sets(st.integers(1, 4), max_size=2))
def test_any_split_merged_again_has_every_frame_once(plain, tmp_path_factory, order, cuts):
    folder = tmp_path_factory.mktemp("any")
    bounds = [0, *sorted(cuts), 5]
    parts = {f"part{begin}": order[begin:end] for begin, end in itertools.pairwise(bounds)}
    results = split(plain, {name: folder / "parts" / name for name in parts}, parts)
    joined = merge([result.path for result in results], folder / "joined")
    old, new = (columns_of(root, ["action", "episode_index"]) for root in (plain, joined.path))
    expected = [
        action
        for part in parts.values()
        for episode in sorted(part)
        for action, number in zip(old["action"], old["episode_index"], strict=True)
        if number == episode
    ]
    assert new["action"] == expected
    sound(joined.path)
    same_statistics_as_recomputed(joined.path)

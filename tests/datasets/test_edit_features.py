"""Adding, renaming and casting features: values and names are right everywhere, the rest stays."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from edited import same_statistics_as_recomputed, sound
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import ACTION, LEROBOT, STATE, camera, change_table, columns_of, frames_of, picture, record

from lerobot_ops.datasets.editing.column_file import read_column
from lerobot_ops.datasets.editing.edit import delete_episodes, merge
from lerobot_ops.datasets.editing.features import NewFeature, add_features, cast_features, rename_features
from lerobot_ops.datasets.info import Feature, load_info, write_info
from lerobot_ops.datasets.language import language_array
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.tables import load_data, load_episodes, load_stats
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DatasetError

FRONT, TOP = "observation.images.front", "observation.images.top"
H264 = LEROBOT / "two_task_h264"
FRAMES = 4 + 5 + 6


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Three episodes of 4, 5 and 6 frames."""
    return record(tmp_path_factory.mktemp("plain") / "plain", ["push", "pull", "push"], frames=4, cameras={})


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """Two episodes with every kind of column, and a column that others added to the episodes table."""
    root = tmp_path_factory.mktemp("rich") / "rich"
    features = {
        "observation.state": STATE,
        "action": ACTION,
        "grid": {"dtype": "float64", "shape": [2, 3], "names": None},
        "note": {"dtype": "string", "shape": [1], "names": None},
        FRONT: camera("video"),
        "observation.images.wrist": camera("image"),
    }
    rng = np.random.default_rng(0)
    with DatasetWriter.create(root, fps=10, features=features) as writer:
        for episode in range(2):
            for number in range(5):
                writer.add_frame(
                    {
                        "observation.state": rng.normal(size=3).astype("f4"),
                        "action": rng.normal(size=2).astype("f4"),
                        "grid": rng.normal(size=(2, 3)),
                        "note": f"frame {number} ✓",
                        FRONT: picture(episode, number),
                        "observation.images.wrist": picture(episode + 5, number),
                        "task": "push",
                    }
                )
            writer.save_episode()
    info = load_info(root)
    language = {name: Feature(dtype="language", shape=(1,)) for name in ("language_persistent", "language_events")}
    write_info(root, info.model_copy(update={"features": info.features | language}))
    subtask = {"role": "assistant", "content": "reach", "style": "subtask", "timestamp": 0.0}
    asked = {"role": "user", "content": "red?", "style": "vqa", "camera": FRONT}
    called = {"role": "assistant", "tool_calls": ['{"function": {"name": "say"}}']}

    def annotate(table: pa.Table) -> pa.Table:
        events = [[asked, called] if row == 7 else [] for row in range(table.num_rows)]
        for name, cells in (("language_persistent", [[subtask]] * table.num_rows), ("language_events", events)):
            table = table.append_column(name, language_array(name, cells))
        return table

    change_table(next(root.glob("data/*/*.parquet")), annotate)
    scores = pa.array([0.5, None], pa.float32())
    change_table(next(root.glob("meta/episodes/*/*.parquet")), lambda table: table.append_column("score", scores))
    return root


def same_but(before: Path, after: Path, changed: set[str]) -> None:
    """Every other column and every extra column of the episodes table is the same."""
    names = [name for name in load_info(before).columns if name not in changed]
    assert columns_of(after, names) == columns_of(before, names)
    assert [row.get("score") for row in load_episodes(after).to_pylist()] == [
        row.get("score") for row in load_episodes(before).to_pylist()
    ]


class TestAdd:
    def test_an_array_with_a_value_per_frame(self, plain, tmp_path):
        force = np.random.default_rng(1).normal(size=(FRAMES, 2)).astype(np.float32)
        new = NewFeature(Feature(dtype="float32", shape=(2,), names=["left", "right"]), force)
        result = add_features(plain, tmp_path / "new", {"observation.force": new})
        info = load_info(result.path)
        assert list(info.features)[-6:] == ["observation.force", *list(load_info(plain).features)[-5:]]
        assert info.features["observation.force"].names == ["left", "right"]
        np.testing.assert_array_equal(columns_of(result.path, ["observation.force"])["observation.force"], force)
        same_but(plain, result.path, set())
        same_statistics_as_recomputed(result.path)
        sound(result.path)

    def test_a_function_of_an_episodes_columns(self, plain, tmp_path):
        speed = NewFeature(
            Feature(dtype="float32", shape=(1,)),
            lambda episode: np.linalg.norm(np.gradient(episode["observation.state"], axis=0), axis=1).astype("f4"),
        )
        late = NewFeature(
            Feature(dtype="bool", shape=(1,)), lambda episode: episode["frame_index"] > len(episode["action"]) // 2
        )
        result = add_features(plain, tmp_path / "new", {"observation.speed": speed, "late": late})
        data = columns_of(result.path, ["observation.speed", "late", "observation.state"])
        state = np.array(data["observation.state"][4:9], np.float32)
        expected = np.linalg.norm(np.gradient(state, axis=0), axis=1)
        np.testing.assert_allclose(data["observation.speed"][4:9], expected, rtol=1e-6)
        assert data["late"] == [False] * 3 + [True] + [False] * 3 + [True] * 2 + [False] * 4 + [True] * 2
        same_statistics_as_recomputed(result.path)
        sound(result.path)

    def test_texts_and_grids_beside_cameras_and_language(self, rich, tmp_path):
        texts = np.array([f"said {row}" for row in range(10)])
        grids = np.arange(10 * 2 * 2, dtype=np.int16).reshape(10, 2, 2)
        features = {
            "said": NewFeature(Feature(dtype="string", shape=(1,)), texts),
            "counts": NewFeature(Feature(dtype="int64", shape=(2, 2)), grids),
        }
        result = add_features(rich, tmp_path / "new", features)
        assert columns_of(result.path, ["said"])["said"] == texts.tolist()
        np.testing.assert_array_equal(columns_of(result.path, ["counts"])["counts"], grids)
        same_but(rich, result.path, set())
        np.testing.assert_array_equal(frames_of(result.path, 1, FRONT), frames_of(rich, 1, FRONT))
        item = LeRobotDataset(result.path)[7]
        assert item["said"] == "said 7"
        assert item["counts"].tolist() == grids[7].tolist()
        sound(result.path)

    @pytest.mark.parametrize(
        ("name", "feature", "values", "says"),
        [
            ("action", {"dtype": "float32", "shape": (2,)}, np.zeros((FRAMES, 2), "f4"), "such a feature already"),
            ("a", {"dtype": "float32", "shape": (2,)}, np.zeros((FRAMES - 1, 2), "f4"), "15 frames"),
            ("a", {"dtype": "float32", "shape": (3,)}, np.zeros((FRAMES, 2), "f4"), r"\[15, 3\]"),
            ("a", {"dtype": "float32", "shape": (1,)}, np.full(FRAMES, 0.1), "holds exactly"),
            ("a", {"dtype": "uint8", "shape": (1,)}, np.full(FRAMES, -1), "holds exactly"),
            ("a", {"dtype": "float32", "shape": (1,)}, np.full(FRAMES, np.nan, "f4"), "NaN"),
            ("a", {"dtype": "string", "shape": (1,)}, np.zeros(FRAMES), "a text is not a text"),
            ("a", {"dtype": "video", "shape": (4, 4, 3)}, np.zeros(FRAMES), "only numbers and texts"),
            ("task", {"dtype": "float32", "shape": (1,)}, np.zeros(FRAMES, "f4"), "keeps for itself"),
            ("a", {"dtype": "float32", "shape": (1,)}, lambda episode: episode["action"], "of episode 0"),
        ],
    )
    def test_refuses_what_does_not_fit(self, plain, tmp_path, name, feature, values, says):
        with pytest.raises(DatasetError, match=says):
            add_features(plain, tmp_path / "new", {name: NewFeature(Feature(**feature), values)})
        assert not list(tmp_path.iterdir())


class TestColumnFile:
    def test_holds_arrays_of_any_shape(self, tmp_path):
        values = np.random.default_rng(0).normal(size=(5, 2, 3))
        np.save(tmp_path / "a.npy", values)
        np.savez(tmp_path / "a.npz", force=values, other=values[:, 0, 0])
        cells = pa.array([cell.tolist() for cell in values])
        pq.write_table(pa.table({"force": cells, "said": ["x"] * 5}), tmp_path / "a.parquet")
        np.testing.assert_array_equal(read_column(tmp_path / "a.npy"), values)
        np.testing.assert_array_equal(read_column(tmp_path / "a.npz", "force"), values)
        np.testing.assert_array_equal(read_column(tmp_path / "a.npz", default="force"), values)
        np.testing.assert_array_equal(read_column(tmp_path / "a.parquet", "force"), values)
        assert read_column(tmp_path / "a.parquet", "said").tolist() == ["x"] * 5

    def test_says_what_is_wrong_with_it(self, tmp_path):
        np.savez(tmp_path / "a.npz", one=np.zeros(3), two=np.zeros(3))
        np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
        (tmp_path / "bad.npy").write_bytes(b"no array")
        (tmp_path / "a.csv").write_text("1")
        pq.write_table(pa.table({"a": [[1], [2, 3]], "b": [1, None]}), tmp_path / "a.parquet")
        for file, column, says in (
            ("a.npz", None, "several columns"),
            ("a.npz", "twoo", "did you mean 'two'"),
            ("objects.npy", None, "cannot be read"),
            ("bad.npy", None, "cannot be read"),
            ("gone.npy", None, "missing"),
            ("a.csv", None, "unknown kind"),
            ("a.parquet", "a", "differ in length"),
            ("a.parquet", "b", "nulls"),
        ):
            with pytest.raises(DatasetError, match=says):
                read_column(tmp_path / file, column)


class TestRename:
    def test_a_column_with_its_statistics(self, plain, tmp_path):
        result = rename_features(plain, tmp_path / "new", {"next.reward": "reward"})
        assert list(load_info(result.path).features) == [
            "reward" if name == "next.reward" else name for name in load_info(plain).features
        ]
        assert columns_of(result.path, ["reward"])["reward"] == columns_of(plain, ["next.reward"])["next.reward"]
        assert [name for name in load_episodes(result.path).column_names if "next.reward" in name] == []
        np.testing.assert_array_equal(load_stats(result.path)["reward"]["q90"], load_stats(plain)["next.reward"]["q90"])
        same_but(plain, result.path, {"next.reward"})
        same_statistics_as_recomputed(result.path)
        sound(result.path)

    def test_a_camera_with_its_video_statistics_and_what_is_said_about_it(self, rich, tmp_path):
        result = rename_features(rich, tmp_path / "new", {FRONT: TOP, "observation.images.wrist": "observation.hand"})
        assert sorted(path.name for path in (result.path / "videos").iterdir()) == [TOP]
        source = next((rich / "videos").rglob("*.mp4"))
        assert next((result.path / "videos").rglob("*.mp4")).read_bytes() == source.read_bytes()
        np.testing.assert_array_equal(frames_of(result.path, 1, TOP), frames_of(rich, 1, FRONT))
        for old, new in ((FRONT, TOP), ("observation.images.wrist", "observation.hand")):
            for name, value in load_stats(rich)[old].items():
                np.testing.assert_array_equal(load_stats(result.path)[new][name], value)
        before, after = (columns_of(root, ["language_events"])["language_events"] for root in (rich, result.path))
        assert after[7][0] == before[7][0] | {"camera": TOP}
        assert after[7][1:] == before[7][1:]
        assert after[:7] + after[8:] == before[:7] + before[8:]
        same_but(rich, result.path, {"observation.images.wrist", "language_events"})
        assert not [path for path in result.path.rglob("*") if FRONT in str(path)]
        assert FRONT not in (result.path / "meta/info.json").read_text() + (result.path / "meta/stats.json").read_text()
        sound(result.path)

    def test_there_and_back_is_the_same_dataset(self, rich, tmp_path):
        rename_features(rich, tmp_path / "new", {FRONT: TOP, "note": "said"})
        back = rename_features(tmp_path / "new", tmp_path / "back", {TOP: FRONT, "said": "note"}).path
        copy = delete_episodes(rich, tmp_path / "copy", []).path
        assert load_data(back).equals(load_data(copy))
        assert load_info(back) == load_info(copy)
        assert load_episodes(back).equals(load_episodes(copy))

    def test_two_features_change_places(self, plain, tmp_path):
        swapped = rename_features(
            plain, tmp_path / "new", {"observation.state": "action", "action": "observation.state"}
        )
        data, old = (columns_of(root, ["observation.state", "action"]) for root in (swapped.path, plain))
        assert data == {"observation.state": old["action"], "action": old["observation.state"]}
        sound(swapped.path)

    def test_lets_datasets_with_other_names_be_joined(self, plain, tmp_path):
        other = rename_features(plain, tmp_path / "other", {"next.reward": "reward"}).path
        with pytest.raises(DatasetError, match="different features"):
            merge([plain, other], tmp_path / "all")
        back = rename_features(other, tmp_path / "back", {"reward": "next.reward"}).path
        assert merge([plain, back], tmp_path / "all").episodes == 6

    @pytest.mark.parametrize(
        ("names", "says"),
        [
            ({}, "no feature to rename"),
            ({"actoin": "a"}, "did you mean 'action'"),
            ({"timestamp": "t"}, "every dataset has"),
            ({"action": "index"}, "cannot have this name"),
            ({"action": "a/b"}, "cannot have this name"),
            ({"action": "language_events"}, "cannot have this name"),
            ({"action": "next.reward"}, "the same name"),
            ({"action": "a", "next.reward": "a"}, "the same name"),
        ],
    )
    def test_refuses_names_that_do_not_work(self, plain, tmp_path, names, says):
        with pytest.raises(DatasetError, match=says):
            rename_features(plain, tmp_path / "new", names)
        assert not list(tmp_path.iterdir())


class TestCast:
    def test_that_keeps_every_value(self, plain, tmp_path):
        result = cast_features(plain, tmp_path / "new", {"action": "float64", "next.success": "int64"})
        info = load_info(result.path)
        assert (info.features["action"].dtype, info.features["next.success"].dtype) == ("float64", "int64")
        data = load_data(result.path)
        assert data.schema.field("action").type == pa.list_(pa.field("element", pa.float64()), 2)
        assert data.schema.field("next.success").type == pa.int64()
        old, new = (columns_of(root, ["action", "next.success"]) for root in (plain, result.path))
        assert new == old | {"next.success": [int(value) for value in old["next.success"]]}
        same_but(plain, result.path, {"action", "next.success"})
        same_statistics_as_recomputed(result.path)
        sound(result.path)
        back = cast_features(result.path, tmp_path / "back", {"action": "float32", "next.success": "bool"}).path
        assert columns_of(back, ["action", "next.success"]) == old

    def test_that_rounds_is_done_only_when_allowed(self, rich, tmp_path):
        with pytest.raises(DatasetError, match="a cast would change values"):
            cast_features(rich, tmp_path / "new", {"grid": "float32"})
        assert not list(tmp_path.iterdir())
        result = cast_features(rich, tmp_path / "new", {"grid": "float32"}, allow_lossy=True)
        expected = np.array(columns_of(rich, ["grid"])["grid"]).astype(np.float32)
        np.testing.assert_array_equal(columns_of(result.path, ["grid"])["grid"], expected)
        same_but(rich, result.path, {"grid"})
        sound(result.path)

    @pytest.mark.parametrize(
        ("dtypes", "says"),
        [
            ({}, "no feature to cast"),
            ({"actoin": "float64"}, "did you mean 'action'"),
            ({"index": "int32"}, "every dataset has"),
            ({"action": "float42"}, "only to numbers"),
            ({"action": "string"}, "only to numbers"),
            ({"action": "uint8"}, "out of the range"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, plain, tmp_path, dtypes, says):
        with pytest.raises(DatasetError, match=says):
            cast_features(plain, tmp_path / "new", dtypes, allow_lossy=True)
        assert not list(tmp_path.iterdir())

    @settings(max_examples=10, deadline=None)
    @given(dtype=st.sampled_from(["float16", "float32", "int8", "uint16", "int64", "uint64", "bool"]), data=st.data())
    def test_values_come_back_or_the_cast_is_refused(self, plain, tmp_path_factory, dtype, data):
        numbers = st.one_of(st.integers(-300, 300), st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1]))
        values = np.array(data.draw(st.lists(numbers, min_size=FRAMES, max_size=FRAMES)), np.int64)
        folder = tmp_path_factory.mktemp("any")
        feature = NewFeature(Feature(dtype="int64", shape=(1,)), values)
        root = add_features(plain, folder / "old", {"number": feature}).path
        with np.errstate(over="ignore"):
            exact = values.astype(dtype).tolist() == values.tolist()  # Python compares 2**53 + 1 and 2.0**53 exactly
        try:
            made = cast_features(root, folder / "new", {"number": dtype}).path
        except DatasetError:
            assert not exact
            return
        assert [int(value) for value in columns_of(made, ["number"])["number"]] == values.tolist()

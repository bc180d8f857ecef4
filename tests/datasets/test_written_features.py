"""Every kind of feature, written and read back: arrays, text, language, depth in videos and in the table."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lerobot_ops.datasets.histograms import load_histograms
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.statistics import numeric_stats
from lerobot_ops.datasets.tables import load_data, load_episodes, load_stats
from lerobot_ops.datasets.videos.depth import LEVELS, DepthRange
from lerobot_ops.datasets.videos.encoding import DepthEncoding, VideoEncoding
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DatasetError

VIDEO, RAW, METRES = "observation.images.depth", "observation.images.raw", "observation.images.metres"
DEPTH = {"shape": (48, 64, 1), "names": ["height", "width", "channels"], "info": {"is_depth_map": True}}
SHAPES = {"u1": (3,), "u2": (2, 3), "u3": (2, 3, 2), "u4": (1, 2, 3, 2), "u5": (2, 1, 2, 3, 2)}
DTYPES = ["float32", "float64", "int64", "int32", "uint8", "int16", "bool"]
LANGUAGE = {name: {"dtype": "language", "shape": (1,)} for name in ("language_persistent", "language_events")}


def distances(number: int) -> np.ndarray:
    """uint16 millimetres from nothing to 12 m."""
    return (np.linspace(0, 11_000, 48 * 64).reshape(48, 64) + 100 * number).astype(np.uint16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_up_to_five_dimensions(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    features = {name: {"dtype": dtype, "shape": shape, "names": None} for name, shape in SHAPES.items()}
    features["scalar"] = {"dtype": dtype, "shape": (1,), "names": None}
    frames = [
        {name: rng.integers(0, 100, feature["shape"]).astype(dtype) for name, feature in features.items()}
        for _ in range(7)
    ]
    with DatasetWriter.create(tmp_path / "d", fps=10, features=features) as writer:
        for number, frame in enumerate(frames):
            writer.add_frame(frame | {"task": "count"})
            if number in (3, 6):
                writer.save_episode()
    read = LeRobotDataset(tmp_path / "d")
    for name in features:
        expected = np.stack([frame[name] for frame in frames])
        found = read.column(name)
        assert found.dtype == dtype
        assert np.array_equal(found.reshape(expected.shape), expected), name
        exact = numeric_stats(expected if name != "scalar" else expected[:, 0])
        for key, value in load_stats(tmp_path / "d")[name].items():
            assert np.array_equal(value, exact[key]), (name, key)


@pytest.mark.parametrize(("unit", "dtype"), [("mm", np.uint16), ("m", np.float32)])
def test_depth_comes_back_within_a_level(tmp_path: Path, unit: str, dtype: type) -> None:
    root, scale = tmp_path / "d", 1 if unit == "mm" else 1000
    features = {VIDEO: {"dtype": "video", **DEPTH}, RAW: {"dtype": "image", **DEPTH}}
    frames = [(distances(number) / scale).astype(dtype) for number in range(6)]
    with DatasetWriter.create(root, fps=10, features=features, depth=DepthEncoding(depth_max=8.0)) as writer:
        for number, frame in enumerate(frames):
            shaped = frame[..., None] if number % 2 else frame
            writer.add_frame({VIDEO: shaped, RAW: frame, "task": "look"})
            if number % 3 == 2:
                writer.save_episode()
    info, read = load_info(root), LeRobotDataset(root)
    assert (info.features[VIDEO].info or {})["depth_unit"] == (info.features[RAW].info or {})["depth_unit"] == unit
    assert (info.features[VIDEO].info or {})["video.depth_max"] == 8.0
    batch = read.batch(range(6))
    millimetres = np.stack([distances(number) for number in range(6)])[:, None].astype(np.float64)
    inside = np.clip(millimetres, 10, 8000)
    levels = DepthRange(depth_max=8.0).table("mm")
    assert np.abs(batch[VIDEO] - inside).max() <= np.diff(levels).max() / 2 + 1
    assert np.abs(batch[RAW] - millimetres).max() <= (0 if unit == "mm" else 0.01)
    stats = load_stats(root)
    assert stats[VIDEO]["count"].tolist() == [6]
    assert np.allclose(stats[VIDEO]["mean"] * scale, inside.mean(), rtol=1e-3)
    assert np.allclose(stats[VIDEO]["q90"] * scale, np.quantile(inside, 0.9), rtol=2e-3)
    assert np.allclose(stats[RAW]["max"] * scale, 10_000)  # LeRobot's range, because a table's depth has none
    counts = load_histograms(root)[1][VIDEO]
    assert (counts.counts.shape, counts.counts.sum()) == ((1, LEVELS), 3 * 48 * 64)


def test_depth_that_was_not_measured_is_nearest(tmp_path: Path) -> None:
    frame = np.full((48, 64), 2.0, np.float32)
    frame[:24] = np.nan
    with DatasetWriter.create(tmp_path / "d", fps=10, features={VIDEO: {"dtype": "video", **DEPTH}}) as writer:
        writer.add_frame({VIDEO: frame, "task": "look"})
        writer.save_episode()
    found = LeRobotDataset(tmp_path / "d").batch([0])[VIDEO][0, 0]
    assert (found[:24] == 10).all()
    assert np.abs(found[24:] - 2000).max() <= 2


def test_the_unit_of_depth_does_not_change(tmp_path: Path) -> None:
    features = {VIDEO: {"dtype": "video", **DEPTH}}
    with DatasetWriter.create(tmp_path / "d", fps=10, features=features) as writer:
        for bad in (distances(0).astype(np.int32), distances(0)[:40], distances(0).astype(np.float64)):
            with pytest.raises(DatasetError, match=r"depth(.|\n)*uint16 \(mm\) or float32 \(m\)"):
                writer.add_frame({VIDEO: bad, "task": "look"})
        with writer.episode(1) as waiting:
            waiting.add_frame({VIDEO: distances(1), "task": "look"})
        with pytest.raises(DatasetError, match=r"depth(.|\n)*float32(.|\n)*uint16 \(mm\),"):
            writer.add_frame({VIDEO: (distances(0) / 1000).astype(np.float32), "task": "look"})
        writer.close()
    with DatasetWriter.resume(tmp_path / "d") as writer:  # the waiting episode has told the unit
        with pytest.raises(DatasetError, match=r"float32(.|\n)*uint16 \(mm\),"):
            writer.add_frame({VIDEO: (distances(0) / 1000).astype(np.float32), "task": "look"})
        writer.add_frame({VIDEO: distances(0), "task": "look"})
        writer.save_episode()
    assert LeRobotDataset(tmp_path / "d").num_episodes == 2


def test_language_is_kept_with_its_episode_and_its_frame(tmp_path: Path) -> None:
    camera = {"dtype": "image", "shape": (16, 16, 3), "names": None}
    features = {"observation.images.front": camera, **LANGUAGE}
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": "done"}}}
    picture = {"observation.images.front": np.zeros((16, 16, 3), np.uint8), "task": "tidy up"}
    events = [
        {"role": "user", "content": "careful", "style": "interjection"},
        {"role": "user", "content": "what is red?", "style": "vqa", "camera": "observation.images.front"},
        {"role": "assistant", "tool_calls": [call]},
    ]
    with DatasetWriter.create(tmp_path / "d", fps=10, features=features) as writer:
        for number in range(4):
            writer.add_frame(picture | ({"language_events": events} if number == 2 else {}))
        plan = [{"role": "assistant", "content": "first the cups", "style": "plan", "timestamp": 0}]
        writer.save_episode(language_persistent=plan)
        with writer.episode() as episode:
            episode.add_frame(picture)
            episode.set_language([plan[0] | {"style": "subtask", "timestamp": 0.5}])
    rows = load_data(tmp_path / "d", ["language_persistent", "language_events"]).to_pylist()
    blank = {"camera": None, "tool_calls": None}
    assert [row["language_persistent"] for row in rows[:4]] == [[plan[0] | blank]] * 4
    assert rows[4]["language_persistent"][0]["style"] == "subtask"
    assert [len(row["language_events"]) for row in rows] == [0, 0, 3, 0, 0]
    assert json.loads(rows[2]["language_events"][2]["tool_calls"][0]) == call
    assert "language_events" not in load_stats(tmp_path / "d")
    schema = pq.read_schema(tmp_path / "d/data/chunk-000/file-000.parquet")
    described = json.loads(schema.metadata[b"huggingface"])["info"]["features"]["language_events"]
    assert described["feature"]["tool_calls"] == {"feature": {"_type": "Json"}, "_type": "List"}


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([{"content": "who?"}], r"no role"),
        ([{"role": "user", "style": "plan"}], r"unknown style(.|\n)*plan"),
        ([{"role": "user", "style": "vqa"}], r"about a camera's picture"),
        ([{"role": "user", "style": "vqa", "camera": "observation.images.fron"}], r"did you mean"),
        ([{"role": "user", "style": "interjection", "camera": "observation.images.front"}], r"only vqa and trace"),
        ([{"role": "user", "timestamp": 1.0}], r"other fields(.|\n)*timestamp"),
        ({"role": "user"}, r"takes a list of rows"),
    ],
)
def test_wrong_language_is_refused(tmp_path: Path, events: object, message: str) -> None:
    camera = {"dtype": "image", "shape": (16, 16, 3), "names": None}
    features = {"observation.images.front": camera, **LANGUAGE}
    picture = {"observation.images.front": np.zeros((16, 16, 3), np.uint8), "task": "tidy up"}
    with DatasetWriter.create(tmp_path / "d", fps=10, features=features) as writer:
        writer.add_frame(picture)
        with pytest.raises(DatasetError, match=message):
            writer.add_frame(picture | {"language_events": events})
        with pytest.raises(DatasetError, match=r"has not(.|\n)*language_persistent"):
            writer.add_frame(picture | {"language_persistent": []})
        writer.save_episode()
    assert LeRobotDataset(tmp_path / "d").num_frames == 1


@pytest.mark.parametrize("vcodec", ["libsvtav1", "hevc"])
def test_several_cameras_of_several_kinds(tmp_path: Path, vcodec: str) -> None:
    colour = {"dtype": "video", "shape": (64, 96, 3), "names": None}
    features = {"left": colour, "right": colour, "depth": {"dtype": "video", **DEPTH}}
    with DatasetWriter.create(tmp_path / "d", fps=20, features=features, video=VideoEncoding(vcodec=vcodec)) as writer:
        for episode in range(2):
            for number in range(9):
                level = 10 * number + 50 * episode
                left, right = np.full((64, 96, 3), level, np.uint8), np.full((64, 96, 3), 255 - level, np.uint8)
                writer.add_frame({"left": left, "right": right, "depth": distances(number), "task": "look"})
            writer.save_episode()
    batch = LeRobotDataset(tmp_path / "d").batch(range(18))
    levels = [10 * number + 50 * episode for episode in range(2) for number in range(9)]
    assert np.abs(batch["left"].mean((1, 2, 3)) - levels).max() < 3
    assert np.abs(batch["right"].mean((1, 2, 3)) - 255 + levels).max() < 3
    rows = load_episodes(tmp_path / "d").to_pylist()
    assert [row["videos/depth/from_timestamp"] for row in rows] == [0.0, 9 / 20]

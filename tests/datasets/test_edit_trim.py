"""Trimming episodes: the frames that stay are the same, and everything that names a moment moves with them."""

import itertools
import shutil

import numpy as np
import pyarrow as pa
import pytest
from edited import same_statistics_as_recomputed, sound
from recordings import LEROBOT, change_info, change_table, columns_of, frames_of, record

from lerobot_ops.datasets.editing.edit import rechunk, trim
from lerobot_ops.datasets.histograms import load_histograms
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.language import EVENTS, PERSISTENT, language_array
from lerobot_ops.datasets.statistics import camera_stats
from lerobot_ops.datasets.tables import episode_stats, load_data, load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.validation.validate import validate
from lerobot_ops.errors import DatasetError

FRONT = "observation.images.front"
H264 = LEROBOT / "two_task_h264"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"
LENGTHS = [12, 13, 14]
FPS = 10


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """Three episodes of 12, 13 and 14 frames with a video camera."""
    return record(tmp_path_factory.mktemp("arm") / "arm", ["push", "pull", "push"], fps=FPS)


@pytest.fixture
def copy(arm, tmp_path):
    shutil.copytree(arm, tmp_path / "old")
    return tmp_path / "old"


def findings(root) -> set[str]:
    return {finding.check for finding in validate(root).findings}


def rows_of(root, begin, end):
    return {name: values[begin:end] for name, values in columns_of(root, ["action", "observation.state"]).items()}


def test_ranges_of_frames(arm, tmp_path):
    result = trim(arm, tmp_path / "new", ranges={0: (3, 12), 2: (0, 5)})
    assert (result.episodes, result.frames) == (3, 9 + 13 + 5)
    bounds = list(itertools.pairwise([0, 9, 22, 27]))
    for episode, ((begin, end), first, old) in enumerate(zip(bounds, (3, 0, 0), (0, 12, 25), strict=True)):
        assert rows_of(result.path, begin, end) == rows_of(arm, old + first, old + first + end - begin)
        expected = frames_of(arm, episode, FRONT)[first : first + end - begin]
        np.testing.assert_array_equal(frames_of(result.path, episode, FRONT), expected)
    numbers = columns_of(result.path, ["frame_index", "timestamp", "index"])
    assert numbers["frame_index"] == [*range(9), *range(13), *range(5)]
    assert numbers["timestamp"][:3] == [0.0, np.float32(0.1), np.float32(0.2)]
    assert numbers["index"] == list(range(27))
    # One episode is copied from the keyframe before its first frame, another ends before its success.
    assert findings(result.path) == {"video-keyframes", "video-frames", "episode-without-success"}
    same_statistics_as_recomputed(result.path)


def test_a_trimmed_episodes_camera_statistics_are_those_of_its_frames(arm, tmp_path):
    result = trim(arm, tmp_path / "new", ranges={1: (4, 9)})
    row = episode_stats(load_episodes(result.path).to_pylist()[1])
    for name, value in camera_stats(frames_of(result.path, 1, FRONT)).items():
        np.testing.assert_array_equal(row[FRONT][name], value, err_msg=name)
    before, after = load_histograms(arm), load_histograms(result.path)
    np.testing.assert_array_equal(before[0][FRONT].counts, after[0][FRONT].counts)
    whole = (after[0][FRONT] + after[1][FRONT] + after[2][FRONT]).stats()
    for name, value in load_stats(result.path)[FRONT].items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


def test_seconds_from_both_ends(arm, tmp_path):
    everywhere = trim(arm, tmp_path / "everywhere", head_s=0.2, tail_s=0.3)
    assert load_episodes(everywhere.path).column("length").to_pylist() == [7, 8, 9]
    np.testing.assert_array_equal(frames_of(everywhere.path, 2, FRONT), frames_of(arm, 2, FRONT)[2:11])
    one = trim(arm, tmp_path / "one", tail_s=0.5, episodes=[1])
    assert load_episodes(one.path).column("length").to_pylist() == [12, 8, 14]
    assert findings(one.path) == {"episode-without-success"}


def test_pixels_of_lerobots_video_between_keyframes(tmp_path):
    result = trim(H264, tmp_path / "new", ranges={0: (7, 20), 5: (33, 34)})
    np.testing.assert_array_equal(frames_of(result.path, 0, FRONT), frames_of(H264, 0, FRONT)[7:20])
    np.testing.assert_array_equal(frames_of(result.path, 5, FRONT), frames_of(H264, 5, FRONT)[33:34])
    np.testing.assert_array_equal(frames_of(result.path, 6, FRONT), frames_of(H264, 6, FRONT))


def test_tasks_of_frames_that_are_gone_are_forgotten(copy, tmp_path):
    numbers = pa.array([0] * 6 + [1] * 6 + [0] * 27)
    change_table(
        copy / DATA, lambda table: table.set_column(table.column_names.index("task_index"), "task_index", numbers)
    )
    assert load_tasks(copy) == ["push", "pull"]
    assert load_tasks(trim(copy, tmp_path / "both", ranges={0: (5, 8)}).path) == ["push", "pull"]
    result = trim(copy, tmp_path / "one", ranges={0: (2, 6)})
    assert load_tasks(result.path) == result.tasks == ["push"]
    assert load_episodes(result.path).column("tasks").to_pylist()[0] == ["push"]


def subtasks(table: pa.Table) -> pa.Table:
    columns = {
        "subtask_names": [["reach", "push", "leave"], None, []],
        "subtask_start_frames": [[0, 4, 9], None, []],
        "subtask_end_frames": [[3, 8, 11], None, []],
        "sparse_subtask_names": [["all"], ["all"], ["all"]],
        "sparse_subtask_start_times": [[0.0], [0.0], [0.0]],
        "sparse_subtask_end_times": [[1.1], [1.2], [1.3]],
        "arm_length": [0.5, 0.25, None],
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table


def test_parts_of_a_task_move_with_the_frames(copy, tmp_path):
    change_table(copy / EPISODES, subtasks)
    result = trim(copy, tmp_path / "new", ranges={0: (5, 11), 2: (0, 7)})
    found = load_episodes(result.path)
    assert found.column("subtask_names").to_pylist() == [["push", "leave"], None, []]
    assert found.column("subtask_start_frames").to_pylist() == [[0, 4], None, []]
    assert found.column("subtask_end_frames").to_pylist() == [[3, 5], None, []]
    np.testing.assert_allclose(found.column("sparse_subtask_end_times").to_pylist(), [[0.5], [1.2], [0.6]])
    assert found.column("arm_length").to_pylist() == [0.5, 0.25, None]


def spoken(text, style, second=None):
    row = {"role": "assistant", "content": text, "style": style, "camera": None, "tool_calls": None}
    return row if second is None else row | {"timestamp": second}


def test_language_moves_with_the_frames(copy, tmp_path):
    lines = [("reach", 0.0), ("push", 0.4), ("leave", 0.9)]
    persistent = [spoken("go", "plan", 0.0), *(spoken(text, "subtask", second) for text, second in lines)]
    events = [[spoken("stop", "interjection")] if frame == 7 else [] for frame in range(sum(LENGTHS))]

    def add(table: pa.Table) -> pa.Table:
        cells = {PERSISTENT: [persistent] * len(events), EVENTS: events}
        for name, values in cells.items():
            table = table.append_column(name, language_array(name, values))
        return table

    change_table(copy / DATA, add)
    language = {name: {"dtype": "language", "shape": [1], "names": None} for name in (PERSISTENT, EVENTS)}
    features = {name: feature.entry() for name, feature in load_info(copy).features.items()}
    change_info(copy, features=features | language)
    result = trim(copy, tmp_path / "new", ranges={0: (5, 9)})
    said = [(row["content"], row["timestamp"]) for row in columns_of(result.path, [PERSISTENT])[PERSISTENT][0]]
    assert said == [("go", 0.0), ("push", 0.0)]
    assert columns_of(result.path, [PERSISTENT])[PERSISTENT][4:] == columns_of(copy, [PERSISTENT])[PERSISTENT][12:]
    assert [len(cell) for cell in columns_of(result.path, [EVENTS])[EVENTS][:4]] == [0, 0, 1, 0]
    new, old = (load_data(root).schema.field(PERSISTENT).type for root in (result.path, copy))
    assert new == old


REFUSED = {
    "both ways": ({"ranges": {0: (1, 2)}, "head_s": 0.1}, "ranges of frames or as seconds"),
    "nothing": ({}, "ranges of frames or as seconds"),
    "backwards": ({"ranges": {0: (5, 5)}}, "episode 0"),
    "beyond the end": ({"ranges": {0: (5, 13)}}, "12 frames"),
    "all of an episode": ({"head_s": 0.6, "tail_s": 0.6}, "trim it less, or delete it"),
    "an unknown episode": ({"ranges": {7: (0, 1)}}, "no such episode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_before_anything_is_written(arm, tmp_path, name):
    arguments, problem = REFUSED[name]
    with pytest.raises(DatasetError) as error:
        trim(arm, tmp_path / "new", **arguments)
    assert problem in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_rechunk_writes_files_of_other_sizes(tmp_path):
    result = rechunk(H264, tmp_path / "new", video_files_size_in_mb=1, chunks_size=1)
    info = load_info(result.path)
    assert (info.video_files_size_in_mb, info.data_files_size_in_mb, info.chunks_size) == (1, 100, 1)
    videos = sorted(path.relative_to(result.path).as_posix() for path in result.path.rglob("*.mp4"))
    assert videos == [f"videos/{FRONT}/chunk-{n:03d}/file-000.mp4" for n in range(len(videos))]
    assert len(videos) > 1
    for episode in (0, 6, 11):
        np.testing.assert_array_equal(frames_of(result.path, episode, FRONT), frames_of(H264, episode, FRONT))
    sound(result.path)
    again = rechunk(result.path, tmp_path / "again", video_files_size_in_mb=200, chunks_size=1000)
    assert len(list(again.path.rglob("*.mp4"))) == 1
    with pytest.raises(DatasetError, match="needs room"):
        rechunk(H264, tmp_path / "none", chunks_size=0)

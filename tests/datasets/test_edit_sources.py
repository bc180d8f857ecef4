"""Editing datasets as they are found: recordings in progress, gaps, other row groups, large tables, broken files."""

import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from edited import same_statistics_as_recomputed, sound
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from recordings import (
    ACTION,
    LEROBOT,
    STATE,
    camera,
    change_info,
    change_table,
    frames_of,
    lay_rows,
    picture,
    record,
    set_cells,
)

from lerobot_ops.datasets.editing.edit import EditPlan, delete_episodes, merge, rechunk, split
from lerobot_ops.datasets.editing.quantiles import streamed_quantiles
from lerobot_ops.datasets.histograms import load_histograms
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.statistics import QUANTILES
from lerobot_ops.datasets.tables import column_array, load_data, load_episodes, load_stats
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DatasetError
from lerobot_ops.versioning.digest import digest

FRONT = "observation.images.front"
H264 = LEROBOT / "two_task_h264"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """Four episodes of two tasks with a video camera."""
    return record(tmp_path_factory.mktemp("arm") / "arm", ["push", "pull", "push", "pull"])


@pytest.fixture
def copy(arm, tmp_path):
    """A copy of it to damage."""
    shutil.copytree(arm, tmp_path / "old")
    return tmp_path / "old"


def test_a_recording_in_progress_is_edited_as_it_is(tmp_path):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(5, 8, 3)).astype(np.float32)
    features = {"observation.state": STATE, FRONT: camera()}
    root = tmp_path / "live"
    writer = DatasetWriter.create(root, fps=10, features=features, video=VideoEncoding(vcodec="h264"))
    with writer:
        for episode, rows in enumerate(states):
            for number, row in enumerate(rows):
                writer.add_frame({"observation.state": row, FRONT: picture(episode, number), "task": "push"})
            writer.save_episode()
        orphan = root / "data/chunk-000/file-005.parquet"
        shutil.copy(root / "data/chunk-000/file-004.parquet", orphan)  # as a save that was killed leaves it
        info = load_info(root)
        change_info(root, total_episodes=4, total_frames=32)
        assert len(list(root.rglob("*.mp4"))) == 5
        result = delete_episodes(root, tmp_path / "new", [1])
        change_info(root, total_episodes=info.total_episodes, total_frames=info.total_frames)
        orphan.unlink()
    assert len(list(result.path.rglob("*.mp4"))) == len(list(result.path.glob("data/*/*"))) == 1
    found = load_data(result.path).column("observation.state").to_pylist()
    np.testing.assert_array_equal(found, states[[0, 2, 3, 4]].reshape(-1, 3))
    for new, old in enumerate([0, 2, 3, 4]):
        np.testing.assert_array_equal(frames_of(result.path, new, FRONT), frames_of(root, old, FRONT))
    sound(result.path)
    same_statistics_as_recomputed(result.path)


def test_gaps_in_file_numbers_and_other_row_groups_do_not_matter(arm, copy, tmp_path):
    os.rename(copy / "data/chunk-000/file-000.parquet", copy / "data/chunk-000/file-007.parquet")
    path = copy / "data/chunk-000/file-007.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=5)
    video = copy / f"videos/{FRONT}/chunk-000/file-000.mp4"
    (copy / f"videos/{FRONT}/chunk-002").mkdir()
    os.rename(video, copy / f"videos/{FRONT}/chunk-002/file-003.mp4")
    places = {"data/file_index": 7, f"videos/{FRONT}/chunk_index": 2, f"videos/{FRONT}/file_index": 3}
    for name, place in places.items():
        change_table(copy / EPISODES, set_cells(name, dict.fromkeys(range(4), place)))
    found = delete_episodes(copy, tmp_path / "found", [2])
    expected = delete_episodes(arm, tmp_path / "expected", [2])
    assert digest(found.path) == digest(expected.path)


def test_extra_columns_of_some_files_are_kept(arm, copy, tmp_path):
    table = pq.read_table(copy / EPISODES)
    second = copy / "meta/episodes/chunk-000/file-001.parquet"
    pq.write_table(table.slice(2).append_column("quality", pa.array([0.5, 0.25])), second)
    pq.write_table(table.slice(0, 2), copy / EPISODES)
    result = delete_episodes(copy, tmp_path / "new", [2])
    assert load_episodes(result.path).column("quality").to_pylist() == [None, None, 0.25]
    sound(result.path)


def test_pixel_counts_make_a_cameras_statistics_exact(arm, tmp_path):
    counts = load_histograms(arm)
    result = delete_episodes(arm, tmp_path / "new", [0])
    whole = (counts[1][FRONT] + counts[2][FRONT] + counts[3][FRONT]).stats()
    for name, value in load_stats(result.path)[FRONT].items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    assert load_histograms(result.path).keys() == {0, 1, 2}
    np.testing.assert_array_equal(load_histograms(result.path)[2][FRONT].counts, counts[3][FRONT].counts)


def test_pixel_counts_that_do_not_fit_are_left_out(copy, tmp_path):
    change_table(copy / EPISODES, set_cells(f"stats/{FRONT}/mean", {1: [[[0.5]], [[0.5]], [[0.5]]]}))
    result = delete_episodes(copy, tmp_path / "new", [0])
    assert load_histograms(result.path).keys() == {1, 2}
    own = load_episodes(result.path).column(f"stats/{FRONT}/mean")[0].as_py()
    assert own == [[[0.5]], [[0.5]], [[0.5]]]


class TestFilesTakenOverWhole:
    @pytest.fixture
    def files(self, tmp_path):
        """LeRobot's recording with a limit below the size of its video, and above half of its data's."""
        shutil.copytree(H264, tmp_path / "old")
        change_info(tmp_path / "old", video_files_size_in_mb=1)
        return tmp_path / "old"

    def planned(self, plan):
        assert isinstance(plan, EditPlan)
        return {file.path: file.how for file in plan.files}

    def test_a_video_of_at_least_half_the_limit_stays_as_it_is(self, files, tmp_path):
        old = files / f"videos/{FRONT}/chunk-000/file-000.mp4"
        big = old.stat().st_size / 1024**2
        change_info(files, video_files_size_in_mb=int(big) + 1)
        assert (int(big) + 1) / 2 <= big
        plan = self.planned(merge([files, files], tmp_path / "new", dry_run=True))
        assert [how for path, how in plan.items() if path.startswith("videos")] == ["whole", "whole"]
        result = merge([files, files], tmp_path / "new")
        for number in range(2):
            assert (result.path / f"videos/{FRONT}/chunk-000/file-00{number}.mp4").read_bytes() == old.read_bytes()
        np.testing.assert_array_equal(frames_of(result.path, 17, FRONT), frames_of(H264, 5, FRONT))
        sound(result.path)

    def test_small_files_are_joined(self, arm, tmp_path):
        plan = self.planned(merge([arm, arm, arm], tmp_path / "new", dry_run=True))
        assert list(plan.values()) == ["written", "cut"]

    def test_rows_that_keep_their_numbers_stay_as_they_are(self, files, tmp_path):
        first = self.planned(split(files, {"a": tmp_path / "a"}, {"a": 1.0}, dry_run=True)[0])
        assert first["data/chunk-000/file-000.parquet"] == "whole"
        result = rechunk(files, tmp_path / "new", chunks_size=3)
        new, old = (root / "data/chunk-000/file-000.parquet" for root in (result.path, files))
        assert new.read_bytes() == old.read_bytes()
        same_statistics_as_recomputed(result.path)

    @pytest.mark.parametrize("edit", [
        lambda root, target, **more: delete_episodes(root, target, [3], **more),
        lambda root, target, **more: merge([root, root], target, **more),
        lambda root, target, **more: rechunk(root, target, video_files_size_in_mb=5, chunks_size=1, **more),
    ])  # fmt: skip
    def test_a_plan_names_the_files_that_are_written(self, files, tmp_path, edit):
        plan = edit(files, tmp_path / "new", dry_run=True)
        assert not (tmp_path / "new").exists()
        root = edit(files, tmp_path / "new").path
        written = {path.relative_to(root).as_posix() for path in root.rglob("*/chunk-*/*") if "meta" not in path.parts}
        assert {file.path for file in plan.files} == written
        assert sum((root / name).stat().st_size for name in written) == pytest.approx(plan.bytes, rel=0.2)
        for file in plan.files:
            if file.how == "whole":
                assert (root / file.path).read_bytes() == file.sources[0].read_bytes()


BROKEN = {
    "a video is gone": (f"videos/{FRONT}/chunk-000/file-000.mp4", None, "missing"),
    "a video is cut off": (f"videos/{FRONT}/chunk-000/file-000.mp4", 0.6, "fewer frames|cannot be read"),
    "a data file is gone": ("data/chunk-000/file-000.parquet", None, "missing"),
    "a data file is cut off": ("data/chunk-000/file-000.parquet", 0.9, "cannot be read"),
    "the episodes table is cut off": (EPISODES, 0.5, "cannot be read"),
    "the task table is gone": ("meta/tasks.parquet", None, "missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sources_are_refused_before_anything_is_written(copy, tmp_path, name):
    file, share, problem = BROKEN[name]
    content = (copy / file).read_bytes()
    (copy / file).unlink()
    if share is not None:
        (copy / file).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DatasetError, match=problem) as error:
        delete_episodes(copy, tmp_path / "new", [0])
    assert file.rsplit("/", 1)[1] in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@settings(max_examples=60, deadline=None)
@given(
    values=st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.float16]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.tuples(st.integers(1, 60), st.integers(1, 3)),
            elements={"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None,
        )
    ),
    size=st.integers(1, 25),
)
def test_streamed_quantiles_are_numpys(values, size):
    def read():
        return (values[first : first + size] for first in range(0, len(values), size))

    with np.errstate(all="ignore"):  # differences of the largest numbers
        expected = np.quantile(values.astype(np.float64), QUANTILES, axis=0)
        np.testing.assert_array_equal(streamed_quantiles(read), expected)


LARGE = textwrap.dedent("""
    import re, sys
    from pathlib import Path
    from lerobot_ops.datasets.editing.edit import delete_episodes, merge
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    merge([source, source], target)
    delete_episodes(target, target.with_name("less"), [1])
    print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
""")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc: run it on Linux")
def test_two_million_rows_need_little_memory_and_have_exact_statistics(tmp_path):
    source = lay_rows(tmp_path / "old", {"observation.state": STATE, "action": ACTION}, episodes=20, frames=50_000)
    command = [sys.executable, "-c", LARGE, str(source), str(tmp_path / "new")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) / 1024 < 300
    assert load_info(tmp_path / "new").total_frames == 2_000_000
    for root in (tmp_path / "new", tmp_path / "less"):
        overall = load_stats(root)
        for name in ("observation.state", "index"):
            info = load_info(root)
            values = column_array(load_data(root, [name]).column(name), info.features[name])
            rows = values.reshape(info.total_frames, -1).astype(np.float64)
            for quantile, expected in zip(QUANTILES, np.quantile(rows, QUANTILES, axis=0), strict=True):
                np.testing.assert_array_equal(overall[name][f"q{round(quantile * 100):02d}"], expected)
            np.testing.assert_allclose(overall[name]["mean"], rows.mean(0), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(overall[name]["std"], rows.std(0), rtol=1e-9)
            np.testing.assert_array_equal(overall[name]["min"], rows.min(0))

"""What we edit LeRobot reads item for item, and where it has the same edit, both come to the same."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_round_trip import HERE, call, peer, read, record

from lerobot_ops.datasets.editing.statistics import recompute_stats
from lerobot_ops.datasets.editing.tasks import modify_tasks
from lerobot_ops.datasets.editing.video import convert_images_to_video, reencode_videos
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.tables import load_stats
from lerobot_ops.datasets.videos.encoding import VideoEncoding

__all__ = ["peer"]  # a fixture
FRONT = "observation.images.front"
EDITS = {
    "tasks": ("shapes", lambda source, target: modify_tasks(source, target, new_task="wait", episode_tasks={2: "go"})),
    "convert": ("images", convert_images_to_video),
    "reencode": ("cameras", lambda source, target: reencode_videos(source, target, rgb_encoder=VideoEncoding(crf=35))),
    "depth": ("depth", lambda source, target: reencode_videos(source, target, rgb_encoder=None)),
    "statistics": ("cameras", lambda source, target: recompute_stats(source, target, skip_image_video=False)),
}


def theirs(peer: str, edit: str, root: Path, **options: object):
    """What LeRobot's own edit returns."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": f"{root}.home", "HF_DATASETS_CACHE": f"{root}.cache"}
    command = [peer, str(HERE / "peer_edits.py"), edit, str(root), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", EDITS)
def test_lerobot_reads_our_edit(tmp_path: Path, name: str, peer: str) -> None:
    scene, edit = EDITS[name]
    edit(record(tmp_path / "made", scene), tmp_path / "edited")
    assert json.loads(call(peer, "read", scene, tmp_path / "edited")[-1]) == read(tmp_path / "edited", scene)


def test_tasks_are_those_that_lerobot_gives(tmp_path: Path, peer: str) -> None:
    made = record(tmp_path / "made", "shapes")
    options = {"new_task": "wait", "episode_tasks": {"2": "go"}, "task_replacements": {"pull the lever": "drag it"}}
    ours = modify_tasks(made, tmp_path / "ours", **options | {"episode_tasks": {2: "go"}})
    found = [(item["task"], int(item["episode_index"])) for item in LeRobotDataset(ours.path)]
    expected = theirs(peer, "tasks", shutil.copytree(made, tmp_path / "theirs"), **options)
    assert len(found) == len(expected)
    # LeRobot gives the episode that has two tasks one of them; with us its frames keep their own.
    alike = [row for row, (_, episode) in enumerate(found) if episode != 1]
    assert [found[row][0] for row in alike] == [expected[row] for row in alike]


def test_statistics_of_relative_actions_are_lerobots(tmp_path: Path, peer: str) -> None:
    made = record(tmp_path / "made", "shapes")
    recompute_stats(made, tmp_path / "ours", relative_action=True, relative_exclude_joints=["j1"], chunk_size=6)
    ours = load_stats(tmp_path / "ours")["action"]
    expected = theirs(peer, "relative", made, chunk_size=6, exclude_joints=["j1"])
    for name in ("min", "max", "count"):
        np.testing.assert_array_equal(ours[name], expected[name])
    for name in ("mean", "std"):  # LeRobot's are in single precision, and its quantiles are estimates
        np.testing.assert_allclose(ours[name], expected[name], atol=1e-5)


def test_a_converted_camera_looks_and_is_described_as_lerobots(tmp_path: Path, peer: str) -> None:
    made = record(tmp_path / "made", "images")
    ours = convert_images_to_video(made, tmp_path / "ours").path
    expected = theirs(peer, "convert", made, to=str(tmp_path / "theirs"))
    info = load_info(ours).features[FRONT].info
    assert {name: info[name] for name in expected[FRONT]} == expected[FRONT]
    video = next((tmp_path / "theirs").rglob("*.mp4")), next(ours.rglob("*.mp4"))
    sizes = [path.stat().st_size for path in video]
    assert max(sizes) < 1.5 * min(sizes)

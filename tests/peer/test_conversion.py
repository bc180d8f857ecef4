"""LeRobot's own converter and ours make the same dataset of a v2.1 one, as LeRobot's reader sees it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lerobot_ops.datasets.converting.convert import ConvertConfig, convert
from tests.datasets.legacy_recordings import make_legacy

DATA = Path(__file__).parents[1] / "data"
COMPARE = """
import sys, torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

ours, theirs = (LeRobotDataset("peer/converted", root=root) for root in sys.argv[1:])
assert ours.meta.features == theirs.meta.features
assert ours.meta.tasks.equals(theirs.meta.tasks)
assert (len(ours), ours.num_episodes) == (len(theirs), theirs.num_episodes)
for row in {*range(0, len(ours), 7), len(ours) - 1}:
    one, other = ours[row], theirs[row]
    assert one.keys() == other.keys()
    for name, value in other.items():
        same = one[name] == value if isinstance(value, str) else torch.equal(one[name], value)
        assert same, (row, name)
"""


@pytest.fixture(scope="module")
def peer() -> str:
    python = os.environ.get("LEROBOT_PEER_PYTHON")
    if not python:
        pytest.skip("LEROBOT_PEER_PYTHON: a Python 3.12 with `pip install 'lerobot[dataset]==0.6.1'`")
    return python


@pytest.mark.parametrize("name", ["two_task_h264", "button_av1_cut", "images_cut"])
def test_both_converters_make_the_same_dataset(tmp_path: Path, name: str, peer: str) -> None:
    old = make_legacy(DATA / name, tmp_path / "old")
    theirs = tmp_path / "theirs"
    shutil.copytree(old, theirs)
    ours = convert(ConvertConfig(root=str(old), new_root=tmp_path / "ours")).root
    home = {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": f"{tmp_path}/home", "HF_DATASETS_CACHE": f"{tmp_path}/cache"}

    def run(*arguments: str) -> None:
        done = subprocess.run([peer, *arguments], capture_output=True, text=True, env=os.environ | home, timeout=250)
        assert done.returncode == 0, done.stderr[-2000:]

    converter = ["-m", "lerobot.scripts.convert_dataset_v21_to_v30", "--repo-id", "peer/converted"]
    run(*converter, "--root", str(theirs), "--push-to-hub", "false")
    run("-c", COMPARE, str(ours), str(theirs))

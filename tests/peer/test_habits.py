"""What LeRobot's tools leave behind is at most a warning, and a repair makes it as it should be."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_round_trip import HERE, peer

from lerobot_ops.datasets.repairing.repair import RepairConfig, repair
from lerobot_ops.datasets.validation.validate import ValidateConfig, validate

__all__ = ["peer"]  # a fixture
DATA = HERE.parent / "data"
LEFT = {
    # the ids of the warnings
    "videos": [],  # task texts were changed in place
    "deleted": [],
    "split/first": [],
    "split/second": [],
    "merged": ["duplicate-episodes"],
    "blind": [],
    "added": ["episode-stats", "stats-missing"],
    "converted": ["data-pointers", "episode-stats", "episodes-schema", "stats-missing"],
    "streamed": [],
}


@pytest.fixture(scope="module")
def left(peer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets that LeRobot edited and recorded."""
    out = tmp_path_factory.mktemp("left")
    sources = [
        shutil.copytree(DATA / name, out / to) for name, to in (("two_task_h264", "videos"), ("images_cut", "images"))
    ]
    environment = {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": f"{out}.home", "HF_DATASETS_CACHE": f"{out}.cache"}
    command = [peer, str(HERE / "peer_habits.py"), *map(str, sources), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.parametrize("name", LEFT)
def test_it_is_at_most_a_warning(left: Path, name: str) -> None:
    report = validate(left / name, config=ValidateConfig(decode="all"))
    assert report.ok, report.markdown()
    found = {each.check for each in report.at_least("warning")}
    assert sorted(found - {"stats-stale"}) == LEFT[name], report.markdown()


@pytest.mark.parametrize("name", ["added", "converted"])
def test_a_repair_completes_it(left: Path, name: str, tmp_path: Path) -> None:
    result = repair(RepairConfig(root=left / name, new_root=tmp_path / "mended"))
    assert (result.lost, result.remaining) == ([], [])
    assert validate(tmp_path / "mended").findings == []

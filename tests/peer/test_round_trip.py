"""LeRobot reads what we write and edit, item for item, and we read what it writes.

The tests that run LeRobot need an environment with it: `LEROBOT_PEER_PYTHON` names its interpreter. What it returned
for our recordings is kept in `read_by_lerobot.json`, so that everywhere else our reader is held to it.
"""

import json
import os
import subprocess
from pathlib import Path

import peer_scenes as scenes
import pytest

from lerobot_ops.datasets.editing import edit
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.writing.writer import DatasetWriter

HERE = Path(__file__).parent
RECORDED = HERE / "read_by_lerobot.json"


@pytest.fixture(scope="session")
def peer() -> str:
    python = os.environ.get("LEROBOT_PEER_PYTHON")
    if not python:
        pytest.skip("LEROBOT_PEER_PYTHON: a Python 3.12 with `pip install 'lerobot[dataset]==0.6.1'`")
    return python


def call(peer: str, verb: str, name: str, root: Path) -> list[str]:
    environment = {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": f"{root}.home", "HF_DATASETS_CACHE": f"{root}.cache"}
    arguments = [peer, str(HERE / "peer_process.py"), verb, name, str(root)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | environment, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def record(root: Path, name: str, *, finalize: bool = True) -> Path:
    writer = DatasetWriter.create(root, fps=scenes.FPS, features=scenes.features(name), robot_type="arm")
    for episode in range(scenes.EPISODES):
        for frame in scenes.frames(name, episode):
            writer.add_frame(frame)
        writer.save_episode()
    if finalize:
        writer.finalize()
    return root


def read(root: Path, name: str) -> dict:
    plain, windows = LeRobotDataset(root), LeRobotDataset(root, delta_timestamps=scenes.deltas(name))
    rows = range(plain.num_frames)
    found = {kind: scenes.fingerprints(items, rows) for kind, items in (("plain", plain), ("windows", windows))}
    return found | {"episodes": plain.num_episodes}


@pytest.mark.parametrize("name", scenes.SCENES)
def test_we_return_what_lerobot_returned_for_our_recording(tmp_path: Path, name: str) -> None:
    assert read(record(tmp_path / "made", name), name) == json.loads(RECORDED.read_text())[name]


@pytest.mark.parametrize("name", scenes.SCENES)
def test_lerobot_reads_our_recording(tmp_path: Path, name: str, peer: str) -> None:
    root = record(tmp_path / "made", name)
    assert json.loads(call(peer, "read", name, root)[-1]) == json.loads(RECORDED.read_text())[name]


@pytest.mark.parametrize("name", scenes.SCENES)
def test_lerobot_reads_a_recording_that_was_never_finalised(tmp_path: Path, name: str, peer: str) -> None:
    root = record(tmp_path / "made", name, finalize=False)
    assert json.loads(call(peer, "read", name, root)[-1]) == read(root, name)


@pytest.mark.parametrize("name", scenes.SCENES)
def test_lerobot_reads_what_we_edited(tmp_path: Path, name: str, peer: str) -> None:
    source, kept, joined = record(tmp_path / "made", name), tmp_path / "kept", tmp_path / "joined"
    edit.delete_episodes(source, kept, [1])
    edit.merge([source, kept], joined)
    assert json.loads(call(peer, "read", name, joined)[-1]) == read(joined, name)


@pytest.mark.parametrize("name", scenes.SCENES)
def test_we_read_what_lerobot_recorded(tmp_path: Path, name: str, peer: str) -> None:
    root = tmp_path / "made"
    call(peer, "write", name, root)
    assert json.loads(call(peer, "read", name, root)[-1]) == read(root, name)


if __name__ == "__main__":  # record anew what LeRobot returns for our recordings
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: json.loads(
                call(os.environ["LEROBOT_PEER_PYTHON"], "read", name, record(Path(folder) / name, name))[-1]
            )
            for name in scenes.SCENES
        }
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")

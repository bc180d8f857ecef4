"""A third party's robot, teleoperator and camera, made of the files that docs/adding-a-robot.md shows, at work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lerobot_ops.datasets.info import load_info
from lerobot_ops.motors.simulator import simulate

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-robot.md"
PROGRAM = str(Path(sys.executable).with_name("lerobot-ops"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's package is installed."""
    folder, target = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("site")
    files = re.findall(r"^`([\w./-]+)`\n\n```\w*\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["pyproject.toml", "mount/robot.py", "mount/circle.py", "mount/noise.py"]
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Other work may hold this machine up, and the simulated motors with it.
        (folder / name).write_text(content.replace("num_retry=2", "num_retry=100"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(folder)]
    subprocess.run(install, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return target


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, env=known, stdin=subprocess.DEVNULL, timeout=120
    )


def test_it_is_recorded_as_the_page_says(site: Path, tmp_path: Path) -> None:
    root = tmp_path / "circles"
    eye = "{eye: {type: noise, width: 64, height: 48, fps: 30}}"
    with simulate("so101", timing=False) as arm:  # motors 1 and 2 answer here, too
        done = run(
            site,
            "record",
            "--robot.type=mount",
            f"--robot.port={arm.port}",
            f"--robot.cameras={eye}",
            "--teleop.type=circle",
            f"--dataset.root={root}",
            "--dataset.repo_id=me/circles",
            "--dataset.single_task=Draw a circle",
            "--dataset.num_episodes=2",
            "--dataset.episode_time_s=1",
            "--dataset.reset_time_s=0",
            "--dataset.rgb_encoder.vcodec=h264",
            "--safety.watchdog_ms=2000",  # other work may hold this machine
            "--safety.max_camera_age_ms=2000",
        )
        assert done.returncode == 0, done.stderr
        assert not any(arm.torques.values())
    info = load_info(root)
    assert (info.robot_type, info.total_episodes) == ("mount", 2)
    assert info.features["action"].names == ["pan.pos", "tilt.pos"]
    assert info.features["observation.images.eye"].shape == (48, 64, 3)


def test_its_flags_are_described_and_its_names_suggested(site: Path) -> None:
    help_text = run(site, "calibrate", "--robot.type=mount", "--help").stdout
    assert "--robot.max_step float (default: 10.0)" in help_text
    assert "noise" in help_text
    assert "did you mean 'mount'" in run(site, "calibrate", "--robot.type=mouth", "--robot.port=x").stderr


def test_a_package_that_is_broken_takes_nothing_with_it(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    entries = "[lerobot_ops.robots]\nwalker = nowhere:WalkerConfig\nhead = mount.robot:MountConfig\n"
    (broken / "entry_points.txt").write_text(entries)
    done = run(Path(f"{tmp_path}:{site}"), "find-port", "--as_json")
    assert json.loads(done.stdout) is not None
    assert "the robot 'walker' of nowhere:WalkerConfig cannot be used" in done.stderr
    assert "'head' of mount.robot:MountConfig cannot be used" in done.stderr
    assert "'mount'" in done.stderr

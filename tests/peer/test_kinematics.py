"""An arm is where LeRobot's kinematics has it, and joints for a pose are at least as exact as LeRobot's.

What LeRobot computed is kept in `kinematics_by_lerobot.json`, so that everywhere else ours is held to it.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from test_round_trip import HERE, peer

from lerobot_ops.teleoperators.kinematics import Kinematics

__all__ = ["peer"]  # a fixture
RECORDED = HERE / "kinematics_by_lerobot.json"
URDF = HERE.parent / "data/arm.urdf"
LIMITS = [(-110.0, 110.0), (-100.0, 100.0), (-97.0, 97.0), (-95.0, 95.0), (-157.0, 162.0)]


def cases() -> list[Any]:
    """Joints, and others a few degrees farther."""
    chance = np.random.default_rng(0)
    starts = chance.uniform(-90, 90, (40, 5)).round(2)
    return [[start.tolist(), (start + chance.normal(0, 2, 5)).round(2).tolist()] for start in starts]


def test_what_lerobot_computed_is_what_we_compute() -> None:
    arm = Kinematics(URDF, "gripper_frame_link")
    for (joints, goal), theirs in zip(cases(), json.loads(RECORDED.read_text()), strict=True):
        pose = arm.forward(goal)
        assert np.abs(pose - theirs["forward"]).max() < 1e-9
        off = {
            name: np.linalg.norm(arm.forward(found)[:3, 3] - pose[:3, 3])
            for name, found in (("ours", arm.inverse(joints, pose, LIMITS)), ("theirs", theirs["inverse"]))
        }
        assert off["ours"] < min(1e-6, off["theirs"])


def test_what_is_recorded_is_what_lerobot_computes(peer: str, tmp_path: Path) -> None:
    asked = tmp_path / "cases.json"
    asked.write_text(json.dumps(cases()))
    command = [peer, str(HERE / "peer_kinematics.py"), str(URDF), str(asked)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    recorded = json.loads(RECORDED.read_text())
    for now, then in zip(json.loads(done.stdout.splitlines()[-1]), recorded, strict=True):
        assert np.abs(np.subtract(now["forward"], then["forward"])).max() < 1e-12
        assert np.abs(np.subtract(now["inverse"], then["inverse"])).max() < 1e-6

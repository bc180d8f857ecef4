"""A simulated follower and a leader that a hand waves, and configurations of sessions with them."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_ops.flags import build
from lerobot_ops.motors.calibration import save_calibration
from lerobot_ops.motors.simulator import SimulatedArm, simulate
from lerobot_ops.recording.config import RecordConfig

PATIENT = {"watchdog_ms": 5000, "max_camera_age_ms": 5000}
"""Other work may hold this machine up: what is measured in real time gets time, except where it is what is tested."""
CAMERA = {"type": "pattern", "width": 64, "height": 48, "fps": 30, "frozen_after_s": 5}


def waved(seconds: float) -> dict[str, float]:
    """What a gentle hand does to a leader, in degrees."""
    pans = {"shoulder_pan": 20, "elbow_flex": 15, "wrist_flex": 10}
    return {name: size * math.sin(2 * math.pi * seconds / 3) for name, size in pans.items()}


@dataclass
class Arms:
    """Both arms, and a folder for everything."""

    follower: SimulatedArm
    leader: SimulatedArm
    folder: Path

    @property
    def limp(self) -> bool:
        """Whether no motor of the follower holds."""
        return not any(self.follower.torques.values())

    def robot(self, **more: Any) -> dict[str, Any]:
        """The settings of the follower, with a camera called front."""
        own = {"type": "so101_follower", "port": self.follower.port, "id": "follower", "num_read_retries": 100}
        return {**own, "calibration_dir": str(self.folder), "cameras": {"front": CAMERA}, **more}

    def teleop(self) -> dict[str, Any]:
        """The settings of the leader."""
        own = {"type": "so101_leader", "port": self.leader.port, "id": "leader", "num_read_retries": 100}
        return {**own, "calibration_dir": str(self.folder)}

    def values(self, **more: Any) -> dict[str, Any]:
        """A recording of three short episodes, without a pause between them."""
        dataset = {"repo_id": "tests/wave", "root": str(self.folder / "wave"), "single_task": "wave"}
        short = {"episode_time_s": 0.5, "reset_time_s": 0, "num_episodes": 3, "min_free_gb": 0}
        encoder = {"rgb_encoder": {"vcodec": "h264"}}
        asked = {"robot": self.robot(), "teleop": self.teleop(), "safety": PATIENT, **more}
        return {**asked, "dataset": {**dataset, **short, **encoder, **more.get("dataset", {})}}

    def config(self, **more: Any) -> RecordConfig:
        """The same as a configuration."""
        return build(RecordConfig, self.values(**more), source="a test")


@contextlib.contextmanager
def simulated_arms(folder: Path, *, timing: bool = False, latency_s: float = 0.0) -> Iterator[Arms]:
    """Both arms, calibrated; the leader waves."""
    with (
        simulate("so101", name="follower", directory=folder, timing=timing, latency_s=latency_s) as follower,
        simulate("so101", name="leader", directory=folder, timing=timing, latency_s=latency_s) as leader,
    ):
        for arm in (follower, leader):
            save_calibration(folder / f"{arm.name}.json", arm.calibration)
        leader.hand(waved)
        yield Arms(follower, leader, folder)

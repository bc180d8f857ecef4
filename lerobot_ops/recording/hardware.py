"""Whether everything that a recording needs is there and well, without moving anything."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

from lerobot_ops.config import Config
from lerobot_ops.recording.config import RecordConfig
from lerobot_ops.recording.continuing import check_continuing
from lerobot_ops.recording.frames import Processors
from lerobot_ops.recording.operator import Operator
from lerobot_ops.recording.record import episodes_wanted, layout_of
from lerobot_ops.recording.safety import STATE
from lerobot_ops.recording.session import session
from lerobot_ops.recording.sources import Teleoperation


class HardwareFacts(Config):
    """What was found."""

    robot: dict[str, Any]
    """See `Robot.identity`."""
    teleop: str | None
    positions: dict[str, float]
    """Of the robot's joints."""
    status: dict[str, float]
    """Temperature, voltage, current and load of every motor; see `Robot.status`."""
    ages_ms: dict[str, float]
    """How old each camera's picture was."""
    episodes_wanted: int
    """How many a recording with this configuration would make."""
    free_gb: float
    """On the dataset's disk."""

    def __str__(self) -> str:
        cameras = ", ".join(f"{name} ({age:.0f} ms old)" for name, age in self.ages_ms.items()) or "none"
        kinds = {kind: [v for k, v in self.status.items() if k.endswith(kind)] for kind in (".temperature", ".voltage")}
        heat, volts = kinds[".temperature"], kinds[".voltage"]
        lines = [
            f"robot      {self.robot.get('type')} {self.robot.get('id') or ''}, {len(self.positions)} joints",
            f"teleop     {self.teleop or 'none'}",
            f"cameras    {cameras}",
            f"motors     {max(heat):.0f} °C at most" if heat else "motors     say nothing about themselves",
            f"dataset    {self.episodes_wanted} episodes to record, {self.free_gb:.0f} GB free",
        ]
        if volts:
            lines[3] += f", {min(volts):.1f} to {max(volts):.1f} V"
        return "\n".join(lines)


def check_hardware(config: RecordConfig, *, processors: Processors | None = None) -> HardwareFacts:
    """Connect everything, look once, and disconnect; no torque is switched on.

    Raises what `record` would: DeviceError for a device that is not there, not calibrated or not well, DatasetError for
    a dataset that cannot be continued with this robot, ArtifactError for one that exists, ConfigError.
    """
    processors = processors or Processors()
    root = config.dataset.place
    wanted = episodes_wanted(config, root)
    with contextlib.ExitStack() as stack:
        arm, teleop, _ = stack.enter_context(session(config, Operator(), config.teleop))
        stack.enter_context(arm)
        if teleop is not None:
            Teleoperation(teleop, arm.robot, processors)
            teleop.get_action()
        observation = processors.observation(arm.observe())
        layout = layout_of(config, arm, processors)
        layout.observation(observation)
        if root.exists():
            check_continuing(config, arm.robot, layout)
        now = time.perf_counter()
        return HardwareFacts(
            robot=arm.robot.identity(),
            teleop=None if teleop is None else teleop.name,
            positions={key: float(observation[key]) for key in arm.robot.action_features if key in observation},
            status=arm.status,
            ages_ms={name: 1000 * (now - at) for name, at in arm.robot.observed_at.items() if name != STATE},
            episodes_wanted=wanted,
            free_gb=shutil.disk_usage(_existing(root)).free / 1e9,
        )


def _existing(path: Path) -> Path:
    """The path, or the folder nearest above it that exists."""
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)

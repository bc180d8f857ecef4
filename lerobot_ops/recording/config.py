"""What teleoperation, recording and replay can be told; the names are LeRobot's where it has them."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from lerobot_ops.config import Config
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.recording.safety_config import SafetyConfig
from lerobot_ops.robots.registry import AnyRobotConfig
from lerobot_ops.teleoperators.registry import AnyTeleoperatorConfig


class RecordingDatasetConfig(Config):
    """The dataset that is recorded."""

    repo_id: str
    """Its name, as owner/name."""
    single_task: str
    """What the robot does, in a sentence; it is stored with every frame."""
    root: Path | None = None
    """Where it goes; by default outputs/datasets/<repo_id>."""
    fps: int = Field(default=30, ge=1, le=1000)
    """Frames per second."""
    episode_time_s: float = Field(default=60, gt=0)
    """An episode that nobody ends ends here."""
    reset_time_s: float = Field(default=60, ge=0)
    """Time to put things back between two episodes; the teleoperator leads, nothing is stored. 0 for none."""
    num_episodes: int = Field(default=50, ge=0)
    """Episodes of this run; with `resume` so many more, as in LeRobot."""
    total_episodes: int | None = Field(default=None, ge=1)
    """Episodes of the dataset when the run ends, in place of `num_episodes`: the same command can be run again."""
    streaming_encoding: bool = True
    """LeRobot's field; frames are always encoded while they come."""
    video: bool = True
    """Store cameras as videos; otherwise as pictures in the tables."""
    rgb_encoder: VideoEncoding = VideoEncoding()
    """How videos are encoded."""
    timing: bool = True
    """Store when everything of a frame happened, as features `timing.*`; false to go on with a dataset of LeRobot's."""
    encoder_queue_maxsize: int = Field(default=30, ge=1)
    """Frames of a camera that wait at its encoder."""
    encoder_threads: int | None = Field(default=None, ge=1)
    """Threads of each encoder; null lets it choose."""
    backlog_s: float = Field(default=5.0, gt=0)
    """So far encoding may fall behind, in memory, before the episode is given up; no frame is ever dropped."""
    min_free_gb: float = Field(default=1.0, ge=0)
    """An episode does not begin with less space on the disk."""
    push_to_hub: bool = False
    """LeRobot's field: publishing is an operation of its own, `lerobot-ops publish`."""

    @property
    def place(self) -> Path:
        """Where it goes."""
        return self.root or Path("outputs", "datasets", self.repo_id)

    @field_validator("single_task")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a sentence that says what the robot does; policies learn from it")
        return value

    @field_validator("push_to_hub")
    @classmethod
    def _not_here(cls, value: bool) -> bool:
        if value:
            raise ValueError("false; publish it when it is validated: lerobot-ops publish --dataset=…")
        return value

    @field_validator("streaming_encoding")
    @classmethod
    def _always(cls, value: bool) -> bool:
        if not value:
            raise ValueError("true; frames are always encoded while they come")
        return value


class RolloutPolicyConfig(Config):
    """The policy that leads."""

    path: str
    """A checkpoint: a folder, or OWNER/NAME[@REVISION] on the Hub."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`; null chooses the best that is there."""


class SessionConfig(Config):
    """What every session with a robot has."""

    robot: AnyRobotConfig
    """The robot."""
    safety: SafetyConfig = SafetyConfig()
    """What stops it."""
    dry_run: bool = False
    """Do everything but send actions: the robot's torque stays off."""
    display_data: bool = False
    """Show observations and actions in Rerun."""


class TeleoperateConfig(SessionConfig):
    """Teleoperation without a dataset."""

    teleop: AnyTeleoperatorConfig
    """Who leads."""
    fps: int = Field(default=60, ge=1, le=1000)
    """Actions per second."""
    teleop_time_s: float | None = Field(default=None, gt=0)
    """Ends after so long; null when the operator says so."""


class RecordConfig(SessionConfig):
    """A recording: a teleoperator or a policy leads, and every frame is stored."""

    dataset: RecordingDatasetConfig
    """What is recorded."""
    teleop: AnyTeleoperatorConfig | None = None
    """Who leads; beside a policy, who can take over."""
    policy: RolloutPolicyConfig | None = None
    """Who leads in place of a teleoperator."""
    resume: bool = False
    """Go on with the dataset if it is there: with its next episode."""
    operator: str | None = None
    """Who records; stored with the dataset."""
    record_status: bool = False
    """Store what the motors say of themselves (temperature, voltage, current, load) as the feature `status`."""
    allow_other_calibration: bool = False
    """Let `resume` go on although the robot was calibrated anew: its positions may mean something else."""

    @model_validator(mode="after")
    def _somebody_leads(self) -> Self:
        if self.teleop is None and self.policy is None:
            raise ValueError("somebody leads: --teleop.type=…, --policy.path=…, or both")
        return self


class ReplayDatasetConfig(Config):
    """The episode that is replayed."""

    repo_id: str | None = None
    """The dataset's name, as owner/name, if it is where `record` puts it."""
    root: Path | None = None
    """Where it is."""
    episode: int = Field(default=0, ge=0)
    """Which of its episodes."""
    fps: int | None = Field(default=None, ge=1)
    """Actions per second; null for the dataset's own rate."""

    @property
    def place(self) -> Path:
        """Where it is."""
        return self.root or Path("outputs", "datasets", self.repo_id or "")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.root is None and self.repo_id is None:
            raise ValueError("root or repo_id: the dataset")
        return self


class ReplayConfig(SessionConfig):
    """A replay of recorded actions."""

    dataset: ReplayDatasetConfig
    """What is replayed."""
    teleop: AnyTeleoperatorConfig | None = None
    """Nobody leads; it is here so that one file of settings does for everything."""
    output: Path | None = None
    """Where the trajectory error goes, as JSON."""

"""`meta/recording.json`: who recorded a dataset, with which robot, settings and software, and how each episode went.

LeRobot ignores the file. Every run of the recorder is a session; every episode names its session.
"""

import getpass
import json
import platform
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError

from lerobot_ops import __version__
from lerobot_ops.artifacts import write_json
from lerobot_ops.config import Config
from lerobot_ops.errors import DatasetError
from lerobot_ops.recording.config import RecordConfig
from lerobot_ops.recording.operator import EpisodeReport

RECORDING_PATH = "meta/recording.json"


class Session(Config):
    """One run of the recorder."""

    started_at: str
    """UTC, ISO 8601."""
    operator: str
    host: str
    software: dict[str, str]
    robot: dict[str, Any]
    """See `Robot.identity`: type, id, digest of the calibration, settings of the cameras."""
    teleop: dict[str, Any] | None
    policy: dict[str, Any] | None
    """Path and digest of the checkpoint."""
    settings: dict[str, Any]
    """The safety settings."""


class Provenance(Config):
    """The content of `meta/recording.json`."""

    sessions: list[Session] = Field(default_factory=list)
    episodes: list[EpisodeReport] = Field(default_factory=list)
    """In the order of the dataset; one that was saved in the instant of a crash may lack."""

    @classmethod
    def load(cls, root: Path) -> Self:
        """The file of the dataset `root`, or an empty one; raises DatasetError when it cannot be read."""
        path = root / RECORDING_PATH
        if not path.exists():
            return cls()
        try:
            return cls.model_validate(json.loads(path.read_text()))
        except (ValueError, ValidationError) as error:
            fix = "move it away; the dataset is complete without it"
            raise DatasetError("a recording's provenance cannot be read", file=path, found=error, fix=fix) from None

    def with_session(self, session: Session) -> Self:
        """One more session."""
        return self.model_copy(update={"sessions": [*self.sessions, session]})

    def with_episode(self, report: EpisodeReport) -> Self:
        """One more episode; what was known of it and of those behind it is gone."""
        return self.model_copy(update={"episodes": [*self._before(report.episode), report]})

    def without(self, episode: int) -> Self:
        """Without an episode and those behind it."""
        return self.model_copy(update={"episodes": self._before(episode)})

    def save(self, root: Path) -> None:
        """Replace the file, at once and durably."""
        write_json(root / RECORDING_PATH, self.model_dump(mode="json"))

    def _before(self, episode: int) -> list[EpisodeReport]:
        return [report for report in self.episodes if report.episode < episode]


def session_of(config: RecordConfig, robot: dict[str, Any], policy: dict[str, Any] | None) -> Session:
    """This run of the recorder."""
    return Session(
        started_at=now(),
        operator=config.operator or _user(),
        host=socket.gethostname(),
        software={"lerobot-ops": __version__, "python": platform.python_version()},
        robot=robot,
        teleop=None if config.teleop is None else config.teleop.model_dump(mode="json"),
        policy=policy,
        settings=config.safety.model_dump(mode="json"),
    )


def now() -> str:
    """This moment: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"

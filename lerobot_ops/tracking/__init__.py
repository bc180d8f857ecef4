"""MLflow tracking: runs, metrics, datasets, checkpoints and the champion of each policy.

Importing this package costs nothing: MLflow itself is imported when a run is opened.
"""

from lerobot_ops.tracking.config import TrackingConfig, server_command, tracking_uri
from lerobot_ops.tracking.registry import (
    Champion,
    Promotion,
    Registered,
    champion,
    champion_version,
    promote,
    register_checkpoint,
)
from lerobot_ops.tracking.run import MlflowRun, Run, open_run

__all__ = [
    "Champion",
    "MlflowRun",
    "Promotion",
    "Registered",
    "Run",
    "TrackingConfig",
    "champion",
    "champion_version",
    "open_run",
    "promote",
    "register_checkpoint",
    "server_command",
    "tracking_uri",
]

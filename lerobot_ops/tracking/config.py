"""Where runs are tracked."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import field_validator

from lerobot_ops.config import Config

DEFAULT_STORE = Path("outputs/mlflow")
"""Folder of the default store, below the working directory: `mlflow.db` and `artifacts/`."""


class TrackingConfig(Config):
    """Settings of the tracker."""

    enable: bool = True
    """Track runs in MLflow."""
    uri: str | None = None
    """MLflow tracking URI; unset: the environment's MLFLOW_TRACKING_URI, else SQLite in outputs/mlflow."""
    experiment: str = "lerobot-ops"
    """MLflow experiment; it is created when it does not exist."""
    system_metrics: bool = False
    """Track the load of processor, memory, disk, network and GPU beside a run's own metrics, every 10 seconds."""

    @field_validator("uri")
    @classmethod
    def _without_secrets(cls, uri: str | None) -> str | None:
        if uri and urlsplit(uri).password:
            raise ValueError(
                "a tracking URI must not carry a password, because configurations are logged; put the whole URI in"
                " MLFLOW_TRACKING_URI, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri


def tracking_uri(config: TrackingConfig) -> str:
    """The MLflow URI that `config` means; a SQLite URI comes back absolute, so every process opens the same file."""
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}/mlflow.db"
    path = sqlite_file(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI, absolute; None for any other store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(os.path.abspath(uri.removeprefix("sqlite:///").split("?")[0]))


def server_command(config: TrackingConfig) -> str | None:
    """The command that shows a SQLite store in a browser; None when a server is in use already."""
    path = sqlite_file(tracking_uri(config))
    if path is None:
        return None
    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    return f"mlflow server --backend-store-uri sqlite:///{shown} --host 127.0.0.1 --port 5000"

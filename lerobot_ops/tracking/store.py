"""Opening the MLflow store.

Importing MLflow and opening a SQLite store takes some seconds, nearly all of it imports; so it happens once a process,
when the first run is opened, and never for `--help` or when tracking is off.
"""

import contextlib
import fcntl
import functools
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lerobot_ops.errors import ArtifactError, ConfigError, PrerequisiteError
from lerobot_ops.tracking.config import TrackingConfig, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # its own default keeps a training step waiting for minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""MLflow's settings that we change unless the user has set them."""
_opening = threading.Lock()
"""Two threads that import MLflow at once meet it half imported."""


def open_client(config: TrackingConfig) -> "MlflowClient":
    """A client of the store that `config` names; a SQLite store is created when it does not exist.

    Raises PrerequisiteError when a server does not answer, ArtifactError when the store cannot be written or belongs to
    another MLflow version.
    """
    with _opening:
        return _open(tracking_uri(config))


def experiment_id(client: "MlflowClient", config: TrackingConfig) -> str:
    """The id of the configured experiment, created when it does not exist; safe with many processes at once.

    Raises ConfigError when the experiment was deleted in MLflow.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(config.experiment)
    if found is None:
        try:
            return client.create_experiment(config.experiment, artifact_location=_artifacts(config))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
            found = client.get_experiment_by_name(config.experiment)
    if found is None or found.lifecycle_stage == "deleted":
        raise ConfigError(
            "the MLflow experiment was deleted",
            field="tracking.experiment",
            found=config.experiment,
            fix="restore it (`mlflow experiments restore`) or choose another name",
        )
    return str(found.experiment_id)


def _artifacts(config: TrackingConfig) -> str | None:
    """Artifacts of a SQLite store lie beside it, at an absolute place that a later `mlflow server` finds as well."""
    path = sqlite_file(tracking_uri(config))
    return None if path is None else (path.parent / "artifacts").as_uri()


@functools.cache
def _open(uri: str) -> "MlflowClient":
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # the import sets its own level
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
    path = sqlite_file(uri)
    try:
        with _alone(path) if path else contextlib.nullcontext():
            client = MlflowClient(tracking_uri=uri, registry_uri=registry)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        if path is None:
            raise PrerequisiteError(
                f"the MLflow server does not answer as it should: {first_line(error)}",
                found=_without_password(uri),
                fix="start it, mend MLFLOW_TRACKING_URI, or unset it to use SQLite in outputs/mlflow",
            ) from error
        raise ArtifactError(
            f"the MLflow store cannot be opened: {first_line(error)}",
            file=path,
            fix=f"after an update of MLflow run `mlflow db upgrade {uri}`; else move the file away",
        ) from error
    return client


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the store for this process, so that two first uses do not both create its tables."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.parent / f".{path.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ArtifactError(
            f"the MLflow store cannot be written: {error.strerror}",
            file=path,
            fix="run where outputs/ can be written, set MLFLOW_TRACKING_URI, or pass --tracking.enable=false",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def first_line(error: Exception) -> str:
    """The first line of an error's text; MLflow appends SQL, headers or a traceback."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]

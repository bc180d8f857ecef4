"""One run in MLflow, and the run that tracks nothing."""

import getpass
import logging
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel

from lerobot_ops.errors import ArtifactError
from lerobot_ops.tracking.config import TrackingConfig, tracking_uri
from lerobot_ops.tracking.params import PARAM_LIMIT, TAG_LIMIT, cut, flatten, name

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)
Status = Literal["FINISHED", "FAILED", "KILLED"]
RETRY_AFTER_S = 30.0


def open_run(
    config: TrackingConfig,
    *,
    name: str,
    parent_id: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    params: BaseModel | Mapping[str, Any] | None = None,
) -> "Run":
    """Open a run, or continue `run_id`; a run that tracks nothing when tracking is off.

    A continued run keeps its parameters (MLflow's are immutable): one that changed is written as the tag
    `resumed.<name>`. When the store no longer has `run_id` a new run is opened. Raises what `store.open_client` raises.
    """
    if not config.enable:
        return Run()
    from lerobot_ops.tracking.store import experiment_id, open_client

    client = open_client(config)
    found = _find(client, run_id) if run_id else None
    if found is None:
        everything = {"mlflow.user": _user(), "mlflow.source.name": "lerobot-ops", "mlflow.source.type": "LOCAL"}
        if parent_id:
            everything["mlflow.parentRunId"] = parent_id
        found = client.create_run(experiment_id(client, config), run_name=name, tags=everything)
    else:
        client.update_run(found.info.run_id, status="RUNNING")
    run = MlflowRun(client, found.info.run_id, found.info.experiment_id, tracking_uri(config))
    run.resume_after({metric.key: metric.step for metric in found.data._metric_objs})
    if config.system_metrics:
        run.watch_system()
    run.set_tags(tags or {})
    if params is not None:
        run.log_params(params)
    return run


class Run:
    """A run that tracks nothing; `MlflowRun` overrides each method. As a context manager it finishes at the end."""

    id: str | None = None
    experiment_id: str | None = None
    uri: str | None = None

    @property
    def url(self) -> str | None:
        """The run's page on a tracking server; None when the store is no server."""
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at one step in one request. Steps that a continued run has logged already are left out."""

    def log_params(self, params: BaseModel | Mapping[str, Any]) -> None:
        """Log a whole configuration, flattened to dotted names."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

    def log_dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        """Log a dataset as the run's input: its DVC digest is its identity, `source` says where it came from."""

    def log_artifacts(self, path: Path, to: str = "") -> None:
        """Upload a folder's files below the artifact folder `to`."""

    def log_artifact(self, path: Path, to: str = "") -> None:
        """Upload one file into the artifact folder `to`."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what is still unsent and close the run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")


class MlflowRun(Run):
    """A run in MLflow; safe to use from several threads.

    A tracking server that stops answering does not stop the work: metrics wait and are sent later, at the latest by
    `finish`, which raises when the server is still away.
    """

    id: str

    def __init__(self, client: "MlflowClient", run_id: str, experiment: str, uri: str) -> None:
        self.client, self.id, self.experiment_id, self.uri = client, run_id, experiment, uri
        self._logged: dict[str, int] = {}
        self._unsent: list[Metric] = []
        self._retry_at = 0.0
        self._lock = threading.Lock()
        self._monitor: SystemMetricsMonitor | None = None

    @property
    def url(self) -> str | None:
        if not self.uri or not self.uri.startswith("http"):
            return None
        return f"{self.uri.rstrip('/').rpartition('@')[2]}/#/experiments/{self.experiment_id}/runs/{self.id}"

    def resume_after(self, steps: Mapping[str, int]) -> None:
        """Leave out every metric at or before the step that the store has of it, so that no step is there twice."""
        self._logged = dict(steps)

    def watch_system(self) -> None:
        """Log the machine's load as `system/...` until the run finishes; a continued run goes on with its curves."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self.id, resume_logging=True, tracking_uri=self.uri)
        self._monitor.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        fresh = {name(key): float(value) for key, value in metrics.items() if step > self._logged.get(name(key), -1)}
        broken = {key: value for key, value in fresh.items() if not math.isfinite(value)}
        with self._lock:
            self._unsent += [Metric(key, value, now, step) for key, value in fresh.items() if key not in broken]
            if time.monotonic() >= self._retry_at:
                self._send(patient=True)
        if broken:  # MLflow would sort such a run as the best or the worst one
            self.set_tags({f"not_finite.{key}": f"{value} at step {step}" for key, value in broken.items()})

    def log_params(self, params: BaseModel | Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(self.id).data.params
        wanted = flatten(params)
        new = [Param(key, value) for key, value in wanted.items() if key not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.id, params=new[start : start + 100])
        self.set_tags({f"resumed.{key}": value for key, value in wanted.items() if known.get(key, value) != value})
        if any(len(value) == PARAM_LIMIT and value.endswith("…") for value in wanted.values()):
            plain = params.model_dump(mode="json") if isinstance(params, BaseModel) else dict(params)
            self.client.log_dict(self.id, plain, "config.json")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        batch = [RunTag(name(key), cut(str(value), TAG_LIMIT)) for key, value in tags.items()]
        for start in range(0, len(batch), 100):
            self.client.log_batch(self.id, tags=batch[start : start + 100])

    def log_dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest, source_type="lerobot", source=source)
        self.client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_artifacts(self, path: Path, to: str = "") -> None:
        if not path.is_dir():
            raise ArtifactError("there is no folder to upload", file=path)
        self.client.log_artifacts(self.id, str(path), to or None)

    def log_artifact(self, path: Path, to: str = "") -> None:
        if not path.is_file():
            raise ArtifactError("there is no file to upload", file=path)
        self.client.log_artifact(self.id, str(path), to or None)

    def finish(self, status: Status = "FINISHED") -> None:
        if self._monitor is not None:
            self._monitor.finish()
        with self._lock:
            self._send(patient=False)
        self.client.set_terminated(self.id, status)

    def _send(self, *, patient: bool) -> None:
        """Send the waiting metrics; when the store does not answer, a patient caller lets them wait."""
        from mlflow.exceptions import MlflowException

        try:
            while self._unsent:
                self.client.log_batch(self.id, metrics=self._unsent[:1000])
                del self._unsent[:1000]
        except MlflowException as error:
            if not patient:
                raise
            from lerobot_ops.tracking.store import first_line

            self._retry_at = time.monotonic() + RETRY_AFTER_S
            logger.warning("MLflow does not answer, metrics wait (%d): %s", len(self._unsent), first_line(error))


def _find(client: "MlflowClient", run_id: str) -> Any:
    """The run to continue, or None (with a warning) when it was deleted or the store is another one."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        found = None
    if found is None or found.info.lifecycle_stage == "deleted":
        logger.warning("MLflow has no run %s to continue; a new run is opened", run_id)
        return None
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"

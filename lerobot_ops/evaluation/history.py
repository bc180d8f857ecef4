"""Evaluations of the past, as MLflow keeps them: what a new one is compared with."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lerobot_ops.errors import ArtifactError
from lerobot_ops.evaluation.records import FILE_NAME, Record, read_records
from lerobot_ops.evaluation.tracked import ARTIFACTS
from lerobot_ops.tracking import TrackingConfig


@dataclass(frozen=True)
class PastEvaluation:
    """An evaluation's run."""

    run_id: str
    started: datetime
    """In UTC."""
    tags: dict[str, str]
    metrics: dict[str, float]


def past_evaluations(
    config: TrackingConfig,
    tags: Mapping[str, str],
    *,
    most: int = 1,
    without: str | None = None,
    status: Literal["FINISHED", "FAILED"] = "FINISHED",
) -> list[PastEvaluation]:
    """The newest finished, or failed, evaluations that carry all of `tags`, newest first; `without` leaves out one run.

    Empty when tracking is off.
    """
    if not config.enable:
        return []
    from lerobot_ops.tracking.store import experiment_id, open_client

    client = open_client(config)
    wanted = {"step": "evaluate", **tags}
    conditions = [f"tags.`{name}` = '{value}'" for name, value in wanted.items()]
    found = client.search_runs(
        [experiment_id(client, config)],
        filter_string=" and ".join([f"attributes.status = '{status}'", *conditions]),
        order_by=["attributes.start_time DESC"],
        max_results=most + 1,
    )
    return [_past(run) for run in found if run.info.run_id != without][:most]


def past_records(config: TrackingConfig, run_id: str) -> list[Record]:
    """The episode records of a run; raises ArtifactError when it holds none that can be read."""
    from mlflow.exceptions import MlflowException

    from lerobot_ops.tracking.store import first_line, open_client

    client = open_client(config)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = client.download_artifacts(run_id, f"{ARTIFACTS}/{FILE_NAME}", scratch)
        except (MlflowException, OSError) as error:
            reason = first_line(error)
            raise ArtifactError(f"the run's records cannot be had: {reason}", found=f"MLflow run {run_id}") from error
        return read_records(Path(path))


def past_folder(config: TrackingConfig, run_id: str, target: Path) -> Path:
    """A run's evaluation folder, downloaded below `target`; raises ArtifactError when it cannot be had."""
    from mlflow.exceptions import MlflowException

    from lerobot_ops.tracking.store import first_line, open_client

    try:
        return Path(open_client(config).download_artifacts(run_id, ARTIFACTS, str(target)))
    except (MlflowException, OSError) as error:
        reason = first_line(error)
        raise ArtifactError(f"the run's evaluation cannot be had: {reason}", found=f"MLflow run {run_id}") from error


def _past(run: Any) -> PastEvaluation:
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return PastEvaluation(run.info.run_id, started, dict(run.data.tags), dict(run.data.metrics))

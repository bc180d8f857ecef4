"""Training with its run in MLflow: an interrupted training goes on in the run that it began."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot_ops.artifacts import write_json
from lerobot_ops.tracking import Registered, Run, TrackingConfig, open_run, register_checkpoint
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.ranks import is_main
from lerobot_ops.training.run_directory import continues
from lerobot_ops.versioning.digest import digest

if TYPE_CHECKING:
    from lerobot_ops.training.loop import OnCheckpoint, OnMetrics
    from lerobot_ops.training.train import TrainResult

RUN_FILE = "run.json"
"""In the run directory: the MLflow run that the training logs to, whether all of it is there, and the flow run that
trained. It is no part of the checkpoint, whose bytes do not depend on who made it."""
FLOW_RUN = "prefect.flow_run_id"
"""The tag that holds the flow run."""


def train_tracked(
    config: TrainConfig,
    tracking: TrackingConfig,
    *,
    parent_id: str | None = None,
    model: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_checkpoint: "OnCheckpoint | None" = None,
    on_metrics: "OnMetrics | None" = None,
) -> "TrainResult":
    """Train, and log the configuration, the dataset's version, the metrics and the checkpoint.

    With `model` the checkpoint becomes a version of that registered model. Nothing is logged before the training has
    begun, so a configuration that is refused leaves no run.
    """
    from lerobot_ops.training.train import train  # torch is imported where it is needed

    if not is_main():  # one process tracks what all of them do
        return train(config, on_checkpoint=on_checkpoint)
    root = config.dataset.root
    version = digest(root) if root.is_dir() else ""
    begun: list[Run] = []
    flow_run = {"flow_run_id": flow} if (flow := (tags or {}).get(FLOW_RUN)) else {}

    def begin() -> None:
        known = run_id(config.output_dir) if continues(config.output_dir, config.identity(version)) else None
        run = open_run(
            tracking,
            name=config.job_name or f"train {config.policy.type}",
            parent_id=parent_id,
            run_id=known,
            tags={"step": "train", "dvc.dataset": version, **(tags or {})},
            params=config.model_dump(mode="json", exclude={"tracking", "dry_run"}),
        )
        begun.append(stack.enter_context(run))
        write_json(config.output_dir / RUN_FILE, {"run_id": run.id, "complete": False, **flow_run})
        run.log_dataset(root.name, version, str(root))

    def report(step: int, metrics: dict[str, float]) -> None:
        begun[0].log_metrics(metrics, step)
        if on_metrics is not None:
            on_metrics(step, metrics)

    with ExitStack() as stack:
        result = train(
            config,
            on_metrics=report,
            on_start=begin,
            on_checkpoint=on_checkpoint,
            dataset_digest=version,
        )
        if not begun and not _complete(config.output_dir):
            begin()
        for run in begun:
            version_of_model = _log_checkpoint(run, result, model)
            stored: dict[str, Any] = {"run_id": run.id, "complete": True, **flow_run}
            stored |= {"registered": asdict(version_of_model)} if version_of_model else {}
            write_json(config.output_dir / RUN_FILE, stored)
    return result


def registered(output_dir: Path) -> Registered | None:
    """The model version that the checkpoint of this training was registered as."""
    found = _stored(output_dir).get("registered")
    return Registered(**found) if found else None


def run_id(output_dir: Path) -> str | None:
    """The MLflow run that the training in `output_dir` logs to, if it has begun one."""
    stored: str | None = _stored(output_dir).get("run_id")
    return stored


def _complete(output_dir: Path) -> bool:
    return bool(_stored(output_dir).get("complete"))


def _stored(output_dir: Path) -> dict[str, Any]:
    file = output_dir / RUN_FILE
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return content


def _log_checkpoint(run: Run, result: "TrainResult", model: str | None) -> Registered | None:
    run.set_tags({"dvc.checkpoint": digest(result.checkpoint)})
    run.log_artifact(result.output_dir / "loss.csv")
    if model:
        return register_checkpoint(run, result.checkpoint, name=model)
    run.log_artifacts(result.checkpoint, "checkpoint")
    return None

"""Training with its run in MLflow: an interrupted training goes on in the run that it began."""

import json
from pathlib import Path

from lerobot_ops.artifacts import write_json
from lerobot_ops.tracking import TrackingConfig, open_run
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import TrainResult, train
from lerobot_ops.versioning.digest import digest

RUN_FILE = "run.json"
"""In the run directory: the MLflow run that the training logs to."""


class TrackedTrainConfig(TrainConfig):
    """A training from the command line."""

    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go."""


def train_tracked(
    config: TrainConfig,
    tracking: TrackingConfig,
    *,
    parent_id: str | None = None,
    model: str | None = None,
    tags: dict[str, str] | None = None,
) -> TrainResult:
    """Train, and log the configuration, the dataset's version, the metrics and the checkpoint, as a version of `model`."""
    run_file = config.output_dir / RUN_FILE
    dataset = digest(config.dataset.root)
    run = open_run(
        tracking,
        name=f"train {config.policy.type}",
        parent_id=parent_id,
        run_id=run_id(config.output_dir),
        tags={"step": "train", "dvc.dataset": dataset, **(tags or {})},
        params=config.model_dump(mode="json"),
    )
    with run:
        result = train(config, tracker=run, on_start=lambda: write_json(run_file, {"run_id": run.id}))
        run.log_dataset(config.dataset.root.name, dataset, str(config.dataset.root))
        run.log_artifacts(result.checkpoint, "checkpoint")
        run.set_tags({"dvc.checkpoint": digest(result.checkpoint)})
    return result


def run_id(output_dir: Path) -> str | None:
    """The MLflow run that the training in `output_dir` logs to, if it has begun one."""
    file = output_dir / RUN_FILE
    stored: str | None = json.loads(file.read_text())["run_id"] if file.exists() else None
    return stored

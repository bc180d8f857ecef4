"""What follows a measured policy: versions, the champion, the report, the hub."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.states import State

from lerobot_ops.config import Config
from lerobot_ops.errors import OpsError
from lerobot_ops.hub.publish import HubConfig, Kind, PublishConfig, PublishReceipt, publish
from lerobot_ops.tracking import Champion, Registered, TrackingConfig, champion, open_run, promote, tracking_uri
from lerobot_ops.tracking.config import sqlite_file
from lerobot_ops.versioning.dvc import version
from tasks.steps import CACHED, Artifact, Links


def _may_pass(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether a failure can go away by itself; one that the user has to mend cannot."""
    return not isinstance(state.result(raise_on_failure=False), OpsError)


RETRIED: dict[str, Any] = {"retries": 2, "retry_delay_seconds": 5, "retry_condition_fn": _may_pass}
"""For steps that talk to a server, which may be away for a moment; everything else fails the same way again."""


class PipelineRun(Config):
    """The run in MLflow that the runs of training and evaluation belong to."""

    run_id: str | None
    store: Path | None
    """The store's file, where it is one."""

    @property
    def intact(self) -> bool:
        """Whether the store that it was opened in is still there."""
        return self.store is None or self.store.exists()

    def __str__(self) -> str:
        return f"MLflow run {self.run_id}" if self.run_id else "tracking is off"


@task(name="open run", version="1", **CACHED, **RETRIED)
def open_pipeline_run(name: str, config: dict[str, Any], links: Links) -> PipelineRun:
    """Open the pipeline's run in MLflow; the same configuration goes on in the run that it had."""
    run = open_run(links.tracking, name=f"pipeline {name}", tags={"step": "pipeline", **links.tags}, params=config)
    run.finish()
    return PipelineRun(run_id=run.id, store=sqlite_file(tracking_uri(links.tracking)))


class Pointers(Config):
    """DVC's pointer files, to be committed to git."""

    files: list[Path]

    @property
    def intact(self) -> bool:
        """Whether they are all there."""
        return all(file.exists() for file in self.files)

    def __str__(self) -> str:
        return f"{len(self.files)} DVC pointer file(s); keep them with: git add outputs"


@task(name="version", version="1", **CACHED)
def version_artifacts(artifacts: list[Artifact]) -> Pointers:
    """Put datasets and checkpoints under DVC, and into its remote."""
    versions = version([artifact.path for artifact in artifacts])
    return Pointers(files=[found.pointer for found in versions.values()])


class Standing(Config):
    """Whether a checkpoint became the champion, and why."""

    promoted: bool
    reason: str
    intact: bool = True

    def __str__(self) -> str:
        return f"{'champion' if self.promoted else 'not champion'}: {self.reason}"


@task(name="promote", version="1", **CACHED, **RETRIED)
def promote_checkpoint(checkpoint: Artifact, evaluation: Artifact, links: Links) -> Standing:
    """Make the checkpoint the champion of its model when it does at least as well as the present one."""
    registered = checkpoint.facts.get("registered")
    if registered is None:
        return Standing(promoted=False, reason="it was trained without tracking")
    scores = evaluation.facts
    if scores["pc_success"] is None:
        return Standing(promoted=False, reason="no episode of its evaluation counts")
    promotion = promote(
        links.tracking,
        Registered(**registered),
        pc_success=scores["pc_success"],
        n_episodes=scores["n_episodes"],
        benchmark=evaluation.name,
    )
    return Standing(promoted=promotion.promoted, reason=promotion.reason)


@task(name="fetch champion", **RETRIED)
def fetch_champion(model: str, tracking: TrackingConfig) -> Champion:
    """Download the champion of a registered model."""
    return champion(tracking, model)


class Published(PublishReceipt):
    """A receipt as a step's product."""

    @property
    def intact(self) -> bool:
        """Whether it is still there; what is on a distant hub is taken to be."""
        return "://" in self.where or Path(self.where).exists()

    def __str__(self) -> str:
        return f"{self.kind} {self.repo_id} at {self.where}"


@task(name="publish", version="1", **CACHED, **RETRIED)
def publish_artifact(artifact: Artifact, kind: Kind, repo_id: str, hub: HubConfig) -> Published:
    """Publish a dataset, a checkpoint or a report."""
    receipt = publish(PublishConfig(kind=kind, path=artifact.path, repo_id=repo_id, hub=hub))
    return Published.model_validate(receipt.model_dump())

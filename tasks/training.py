"""The training step."""

from dataclasses import asdict

from prefect import task

from lerobot_ops.training.config import TrainConfig
from tasks.steps import CACHED, Artifact, Links, current_key, place


@task(name="train", version="1", **CACHED)
def train_policy(config: TrainConfig, dataset: Artifact, links: Links) -> Artifact:
    """Train a policy; continues from the last checkpoint that an interrupted run had saved."""
    from lerobot_ops.training.tracked import registered, run_id, train_tracked  # torch takes seconds to import

    key, name = current_key(), f"{config.policy.type}-{dataset.name.replace('/', '-')}"
    run_dir = place("train", name, key)
    located = config.altered("dataset.root", dataset.path).altered("output_dir", run_dir).altered("resume", "auto")
    result = train_tracked(located, links.tracking, parent_id=links.parent_run, model=links.model, tags=links.tags)
    version = registered(run_dir)
    facts = {
        "policy": config.policy.type,
        "steps": result.steps,
        **result.metrics,
        "dataset": dataset.digest,
        "mlflow_run": run_id(run_dir),
        "registered": asdict(version) if version else None,
    }
    return Artifact.at(result.checkpoint, "checkpoint", name, key, facts)

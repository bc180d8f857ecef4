"""The evaluation step."""

import json

from prefect import task

from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.tracked import evaluate_tracked, run_id
from lerobot_ops.progress import counting
from tasks.steps import CACHED, Artifact, Links, current_key, place


@task(name="evaluate", version="1", **CACHED)
def evaluate_policy(config: EvalConfig, checkpoint: Artifact | None, links: Links) -> Artifact:
    """Measure a policy's success rate; keeps the episodes that an interrupted run had finished."""
    key = current_key()
    name = f"{config.env.type}-{config.env.task.replace(',', '+')}"
    output = place("eval", name, key)
    located = config.altered("output_dir", output)
    if checkpoint:
        located = located.altered("policy.path", str(checkpoint.path))
    if not output.exists() or (links.tracking.enable and run_id(output) is None):
        with counting(f"evaluate {name}", len(config.env.tasks()) * config.eval.n_episodes) as count:
            evaluate_tracked(located, links.tracking, parent_id=links.parent_run, tags=links.tags, on_record=count)
    metrics = json.loads((output / "metrics.json").read_text())
    facts = {**metrics, "policy": checkpoint.digest if checkpoint else config.policy.path, "mlflow_run": run_id(output)}
    return Artifact.at(output, "evaluation", name, key, facts)

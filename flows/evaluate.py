"""Measure a policy: `python -m flows.evaluate --policy.path=PATH --env.task=button-press-topdown-v3`."""

from pathlib import Path

from prefect import flow

from lerobot_ops.evaluation.config import EvalConfig
from tasks.evaluation import evaluate_policy
from tasks.steps import Artifact, Links, run_step, slug
from tasks.tables import show, success_table


@flow(name="evaluate")
def evaluate(config: EvalConfig, links: Links = Links()) -> Artifact:
    """Measure a policy's success rate in a sandbox; keeps the episodes that an interrupted run had finished."""
    checkpoint = None
    if not config.policy.is_sanity:
        checkpoint = Artifact.at(Path(config.policy.path), "checkpoint")
        config = config.altered("policy.path", "checkpoint")
    evaluation = run_step(evaluate_policy, config=config, checkpoint=checkpoint, links=links)
    show(f"benchmark-{slug(evaluation.name)}", success_table(evaluation.name, evaluation.facts))
    return evaluation


if __name__ == "__main__":
    from flows.terminal import main

    main(evaluate, EvalConfig)

"""Train a policy: `python -m flows.train --dataset.root=PATH --policy.type=act --steps=1500`."""

from pathlib import Path

from prefect import flow

from lerobot_ops.evaluation.in_training import EvaluatedTrainConfig
from tasks.datasets import dataset_at
from tasks.steps import Artifact, Links, provenance, run_step, slug
from tasks.tables import facts, show
from tasks.training import train_policy


@flow(name="train")
def train(config: EvaluatedTrainConfig, links: Links = Links()) -> Artifact:
    """Train a policy on a dataset; continues where an interrupted run had saved."""
    dataset = dataset_at(config.dataset.root)
    config = config.altered("dataset.root", Path()).altered("output_dir", Path())
    links = links.altered("tags", {**provenance(), **links.tags})
    checkpoint = run_step(train_policy, config=config, dataset=dataset, links=links)
    show(f"checkpoint-{slug(checkpoint.name)}", facts(f"Checkpoint {checkpoint.name}", checkpoint.about))
    return checkpoint


if __name__ == "__main__":
    from flows.terminal import main

    main(train, EvaluatedTrainConfig)

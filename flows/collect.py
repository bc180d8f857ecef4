"""Record a scripted expert in simulation: `python -m flows.collect --num_episodes=20`."""

from prefect import flow

from lerobot_ops.recording.collect import CollectConfig
from tasks.datasets import collect_dataset
from tasks.steps import Artifact, run_step, slug
from tasks.tables import facts, show


@flow(name="collect")
def collect(config: CollectConfig = CollectConfig()) -> Artifact:
    """Record a scripted expert in simulation as a LeRobotDataset; continues what an interrupted run had recorded."""
    name = config.dataset.repo_id
    dataset = run_step(collect_dataset, label=f"collect {name}", config=config)
    show(f"dataset-{slug(name)}", facts(f"Dataset {name}", dataset.about))
    return dataset


if __name__ == "__main__":
    from flows.terminal import main

    main(collect, CollectConfig)

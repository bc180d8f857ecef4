"""Make a training set of recordings: `python -m flows.curate --sources='[PATH, PATH]' --repo_id=demo/train`."""

from pathlib import Path
from typing import Literal

from prefect import flow

from lerobot_ops.config import Config
from lerobot_ops.datasets.operations import DeleteEpisodes, Merge, Split
from tasks.datasets import dataset_at, edit_dataset
from tasks.steps import Artifact, run_step


class CurateConfig(Config):
    """Which episodes of which datasets become the training set."""

    sources: list[Path] = []
    """The datasets, in the order in which they are joined."""
    repo_id: str = "local/curated"
    """The name of the result."""
    drop_checks: list[str] = ["episode-without-success"]
    """Episodes that validation reports under one of these check ids are left out."""
    features: Literal["same", "common"] = "same"
    """`same` refuses datasets whose features differ; `common` keeps those that all have."""
    splits: dict[str, float] = {}
    """Name to fraction of the episodes; empty keeps them together."""


@flow(name="curate")
def curate(config: CurateConfig) -> dict[str, Artifact]:
    """Leave out bad episodes, join the rest and part it; without splits the one part is called `train`."""
    kept = [_without_flagged(dataset_at(source), config.drop_checks) for source in config.sources]
    joined = kept[0]
    if len(kept) > 1:
        joined = run_step(
            edit_dataset, label="merge", sources=kept, operation=Merge(features=config.features), name=config.repo_id
        )
    if not config.splits:
        return {"train": joined}
    parts = run_step(
        edit_dataset, label="split", sources=[joined], operation=Split(splits=config.splits), name=config.repo_id
    )
    return {name: dataset_at(parts.path / name, f"{config.repo_id}-{name}", parts.key) for name in config.splits}


def _without_flagged(dataset: Artifact, checks: list[str]) -> Artifact:
    if not checks:
        return dataset
    name = dataset.path.parent.name if dataset.path.parent.name else dataset.name
    operation = DeleteEpisodes(checks=checks)
    return run_step(
        edit_dataset, label=f"delete flagged of {name}", sources=[dataset], operation=operation, name=f"{name}-kept"
    )


if __name__ == "__main__":
    from flows.terminal import main

    main(curate, CurateConfig)

"""Make a training set of recordings: `python -m flows.curate --sources='[PATH, PATH]' --repo_id=demo/train`."""

from pathlib import Path

from prefect import flow

from lerobot_ops.config import Config
from lerobot_ops.datasets.editing.command import DeleteEpisodes, Merge, Split
from tasks.datasets import dataset_at, edit_dataset
from tasks.steps import Artifact, run_step


class CurateConfig(Config):
    """Which episodes of which datasets become the training set."""

    sources: list[Path] = []
    """The datasets, in the order in which they are joined."""
    repo_id: str = "local/curated"
    """The name of the result."""
    clean: DeleteEpisodes | None = DeleteEpisodes(checks=["episode-without-success"])
    """What is left out of each source."""
    merge: Merge = Merge()
    """How the sources are joined, when there are several."""
    split: Split | None = None
    """How the result is parted."""


@flow(name="curate")
def curate(config: CurateConfig) -> dict[str, Artifact]:
    """Leave out bad episodes, join the rest and part it; without a split the one part is called `train`."""
    kept = [_clean(dataset_at(source), config.clean) for source in config.sources]
    joined = kept[0]
    if len(kept) > 1:
        joined = run_step(edit_dataset, label="merge", sources=kept, operation=config.merge, name=config.repo_id)
    if config.split is None:
        return {"train": joined}
    parts = run_step(edit_dataset, label="split", sources=[joined], operation=config.split, name=config.repo_id)
    return {name: dataset_at(parts.path / name, f"{config.repo_id}-{name}", parts.key) for name in config.split.splits}


def _clean(dataset: Artifact, operation: DeleteEpisodes | None) -> Artifact:
    if operation is None:
        return dataset
    label, name = f"clean {dataset.name}", f"{dataset.name}-kept"
    return run_step(edit_dataset, label=label, sources=[dataset], operation=operation, name=name)


if __name__ == "__main__":
    from flows.terminal import main

    main(curate, CurateConfig)

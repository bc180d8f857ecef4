"""Dataset steps: record an expert, check, edit."""

from pathlib import Path

from prefect import task

from lerobot_ops.datasets.checks import Finding
from lerobot_ops.datasets.operations import DeleteEpisodes, EditConfig, EditOperation, Merge, Split, edit
from lerobot_ops.datasets.validate import ValidateConfig, ValidationReport, validate
from lerobot_ops.progress import counting
from lerobot_ops.recording.collect import CollectConfig, collect
from tasks.steps import CACHED, Artifact, current_key, place


class Validated(ValidationReport):
    """A validation report as a step's product; it has no files that could be lost."""

    intact: bool = True


@task(name="collect", version="1", **CACHED)
def collect_dataset(config: CollectConfig) -> Artifact:
    """Record a scripted expert; continues what an interrupted run had recorded."""
    key = current_key()
    root = place("datasets", config.dataset.repo_id, key)
    if not root.exists():
        with counting(f"collect {config.dataset.repo_id}", config.num_episodes) as count:
            collect(config.writing_to(root), on_episode=count)
    return dataset_at(root, config.dataset.repo_id, key)

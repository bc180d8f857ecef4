"""The dataset operations as configurations: what the command line, the flows and the DVC stages have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lerobot_ops.artifacts import write_json
from lerobot_ops.config import Config
from lerobot_ops.datasets import edit as editing
from lerobot_ops.datasets.validate import ValidateConfig, ValidationReport, validate
from lerobot_ops.errors import ConfigError


class DeleteEpisodes(Config):
    """Keep all episodes but some."""

    type: Literal["delete_episodes"] = "delete_episodes"
    episode_indices: list[int] = []
    """The episodes to delete."""
    checks: list[str] = []
    """Delete also every episode that validation reports under one of these check ids."""


class Split(Config):
    """Part a dataset in several, each a directory below the output."""

    type: Literal["split"] = "split"
    splits: Mapping[str, float | list[int]]
    """Name to fraction of the episodes, or to the list of its episodes."""


class Merge(Config):
    """Join datasets in the order given."""

    type: Literal["merge"] = "merge"
    roots: list[Path] = []
    """The datasets to join."""
    features: Literal["same", "common"] = "same"
    """`same` refuses datasets whose features differ; `common` keeps those that all have."""


class RemoveFeature(Config):
    """Drop columns or cameras."""

    type: Literal["remove_feature"] = "remove_feature"
    feature_names: list[str]
    """The features to drop."""


EditOperation = Annotated[DeleteEpisodes | Split | Merge | RemoveFeature, Field(discriminator="type")]


class EditConfig(Config):
    """One edit of a dataset, always into a new directory."""

    root: Path | None = None
    """The dataset to edit; a merge names its own."""
    new_root: Path
    """The directory to write; it must not exist."""
    operation: EditOperation
    dry_run: bool = False
    """Say what would be done, and do nothing."""


def edit(config: EditConfig) -> list[editing.EditResult | editing.EditPlan]:
    """Run one edit; a split yields one result per part. Raises DatasetError before anything is written."""
    operation, target, dry_run = config.operation, config.new_root, config.dry_run
    if isinstance(operation, Merge):
        return [editing.merge(operation.roots, target, features=operation.features, dry_run=dry_run)]
    if config.root is None:
        raise ConfigError("the dataset to edit is not named", field="root", fix="add --root=PATH")
    if isinstance(operation, Split):
        targets = {name: target / name for name in operation.splits}
        return editing.split(config.root, targets, dict(operation.splits), dry_run=dry_run)
    if isinstance(operation, RemoveFeature):
        return [editing.remove_features(config.root, target, operation.feature_names, dry_run=dry_run)]
    episodes = sorted({*operation.episode_indices, *flagged_episodes(config.root, operation.checks)})
    return [editing.delete_episodes(config.root, target, episodes, dry_run=dry_run)]


def flagged_episodes(root: Path, checks: list[str]) -> list[int]:
    """The episodes that validation reports under one of these check ids, ascending."""
    if not checks:
        return []
    findings = validate(root).findings
    return sorted({episode for finding in findings if finding.check in checks for episode in finding.episodes})


class CheckConfig(ValidateConfig):
    """A validation from the command line."""

    root: Path
    """The dataset."""
    json_path: Path | None = None
    """Where to write the findings as JSON."""


def check(config: CheckConfig) -> ValidationReport:
    """Validate a dataset and leave the report where it was asked for."""
    report = validate(config.root, config=config)
    if config.json_path:
        write_json(config.json_path, report.model_dump(mode="json"))
    return report

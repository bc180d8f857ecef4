"""The dataset operations as configurations: what the command line, the flows and the DVC stages have in common."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from lerobot_ops.artifacts import write_bytes, write_json
from lerobot_ops.config import Config
from lerobot_ops.datasets.edit_operations import (
    AddFeature,
    AddFeatures,
    CastFeature,
    ConvertImageToVideo,
    DeleteEpisodes,
    Merge,
    ModifyTasks,
    Outcome,
    Rechunk,
    RecomputeStats,
    ReencodeVideos,
    RemoveFeature,
    RenameFeature,
    Split,
    Trim,
    flagged_episodes,
)
from lerobot_ops.datasets.remote import local_root
from lerobot_ops.datasets.validate import ValidateConfig, ValidationReport, validate
from lerobot_ops.errors import ConfigError

__all__ = [
    "AddFeature",
    "AddFeatures",
    "CastFeature",
    "CheckConfig",
    "ConvertImageToVideo",
    "DeleteEpisodes",
    "EditConfig",
    "EditOperation",
    "Merge",
    "ModifyTasks",
    "Rechunk",
    "RecomputeStats",
    "ReencodeVideos",
    "RemoveFeature",
    "RenameFeature",
    "Split",
    "Trim",
    "check",
    "edit",
    "flagged_episodes",
]

STDOUT = Path("-")

EditOperation = Annotated[
    DeleteEpisodes
    | Trim
    | Split
    | Merge
    | AddFeatures
    | RemoveFeature
    | RenameFeature
    | CastFeature
    | ModifyTasks
    | ConvertImageToVideo
    | ReencodeVideos
    | RecomputeStats
    | Rechunk,
    Field(discriminator="type"),
]


class EditConfig(Config):
    """One edit of a dataset, always into a new directory."""

    root: Path | None = None
    """The dataset to edit, a directory or OWNER/NAME[@REVISION] on the Hub; a merge names its own."""
    new_root: Path
    """The directory to write; it must not exist."""
    operation: EditOperation
    dry_run: bool = False
    """Say what would be done, and do nothing."""


def edit(config: EditConfig) -> list[Outcome]:
    """Run one edit; a split yields one result per part. Raises DatasetError before anything is written."""
    operation = config.operation
    places = operation.roots if isinstance(operation, Merge) else [config.root]
    roots = [local_root(place) for place in places if place is not None]
    if not roots:
        field = "operation.roots" if isinstance(operation, Merge) else "root"
        raise ConfigError("the dataset to edit is not named", field=field, fix=f"add --{field}=PATH")
    return operation.run(roots, config.new_root, config.dry_run)


class CheckConfig(ValidateConfig):
    """A validation from the command line."""

    root: Path
    """The dataset: a directory, or OWNER/NAME[@REVISION] on the Hub."""
    json_path: Path | None = None
    """Where to write the findings as JSON; `-` prints them in place of the report."""
    markdown_path: Path | None = None
    """Where to write the report as Markdown, besides printing it."""


def check(config: CheckConfig) -> ValidationReport:
    """Validate a dataset and leave the report where it was asked for."""
    report = validate(local_root(config.root), config=config)
    if config.json_path and config.json_path != STDOUT:
        write_json(config.json_path, report.model_dump(mode="json"))
    if config.markdown_path and config.markdown_path != STDOUT:
        write_bytes(config.markdown_path, report.markdown().encode())
    return report

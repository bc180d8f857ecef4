"""One edit of a dataset as a configuration: what the command line, the flows and the DVC stages have in common."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.datasets.editing.operations import (
    AddFeature,
    AddFeatures,
    CastFeature,
    ConvertImageToVideo,
    DeleteEpisodes,
    Merge,
    ModifyTasks,
    Rechunk,
    RecomputeStats,
    ReencodeVideos,
    RemoveFeature,
    RenameFeature,
    Split,
    Trim,
)
from lerobot_ops.errors import ConfigError

if TYPE_CHECKING:
    from lerobot_ops.datasets.editing.operations import Outcome

__all__ = [
    "AddFeature",
    "AddFeatures",
    "CastFeature",
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
    "edit",
]

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


def edit(config: EditConfig) -> "list[Outcome]":
    """Run one edit; a split yields one result per part. Raises DatasetError before anything is written."""
    from lerobot_ops.datasets.remote import local_root

    operation = config.operation
    places = operation.roots if isinstance(operation, Merge) else [config.root]
    roots = [local_root(place) for place in places if place is not None]
    if not roots:
        field = "operation.roots" if isinstance(operation, Merge) else "root"
        raise ConfigError("the dataset to edit is not named", field=field, fix=f"add --{field}=PATH")
    return operation.run(roots, config.new_root, config.dry_run)

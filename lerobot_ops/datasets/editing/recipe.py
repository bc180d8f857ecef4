"""What an edited dataset is made of: episodes of other datasets, and what becomes of their features and tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from lerobot_ops.datasets.editing.source import Kept
from lerobot_ops.datasets.info import DatasetInfo
from lerobot_ops.datasets.videos.encoding import VideoEncoding


@dataclass(frozen=True)
class Recipe:
    """A dataset to write: `edit_assemble.assemble` writes it, `edit_plan.plan` says what would be written."""

    kept: Sequence[Kept]
    """Its episodes, in their order."""
    info: DatasetInfo
    """Its features and how large its files may be; the counters are set when it is written."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Output feature -> the source's feature that it is a rename of; the others have the same name in the source."""
    computed: Mapping[str, Callable[[Kept, pa.Table], pa.Array]] = field(default_factory=dict)
    """Output column -> its values for the rows that are kept of an episode.

    The table holds these rows with the source's columns and numbers; the result has a value per row.
    """
    tasks: Callable[[Kept, pa.Table], list[str]] | None = None
    """A task text for every row that is kept of an episode, called as `computed`; None: the tasks of the source."""
    encodings: Mapping[str, VideoEncoding] = field(default_factory=dict)
    """Cameras of the output to encode anew, from the videos or the images of the source."""
    workers: int = 1
    """How many episodes are encoded at the same time."""
    encoder_threads: int | None = None
    """Of each encoder; None leaves it to `VideoEncoding`."""
    histograms: Literal["keep", "recompute"] = "keep"
    """Statistics of cameras: those of the source where it has them, or from the pixels of every frame."""
    finish: Callable[[Path], None] | None = None
    """Called with the new directory when all else is in it."""

    def origin(self, name: str) -> str:
        """The source's name of an output feature."""
        return self.origins.get(name, name)

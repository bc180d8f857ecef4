"""Running edits: every dataset appears whole or not at all, and a dry run says what would be written."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from lerobot_ops.artifacts import staged
from lerobot_ops.config import Config
from lerobot_ops.datasets.editing.assemble import write_plan
from lerobot_ops.datasets.editing.plan import Plan, plan
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.errors import ArtifactError


class PlannedFile(Config):
    """One data file or video that an edit would write."""

    path: str
    """Below the new dataset."""
    how: Literal["whole", "cut", "written", "encoded"]
    """Taken over as it is, cut and joined from encoded frames, written anew (tables), or encoded anew."""
    bytes: int = Field(ge=0)
    """About its size."""
    sources: list[Path]
    """The files that its frames come from."""


class EditPlan(Config):
    """What an edit would write."""

    path: Path
    """The dataset that would be written."""
    episodes: int
    frames: int
    tasks: list[str]
    features: list[str]
    bytes: int = Field(ge=0)
    """About the size of its data and videos."""
    files: list[PlannedFile]

    def __str__(self) -> str:
        counts = Counter(file.how for file in self.files)
        return (
            f"{self.path}: {self.episodes} episodes, {self.frames} frames, {len(self.tasks)} task(s), about"
            f" {self.bytes / 1e6:.1f} MB; features {', '.join(self.features)}; files: "
            + ", ".join(f"{count} {_SAID[how]}" for how, count in counts.items())
        )


_SAID = {
    "whole": "taken over whole",
    "cut": "cut and joined without decoding",
    "written": "written anew",
    "encoded": "encoded anew",
}


class EditResult(Config):
    """What an edit wrote."""

    path: Path
    """The new dataset."""
    episodes: int
    frames: int
    tasks: list[str]

    def __str__(self) -> str:
        return f"{self.path}: {self.episodes} episodes, {self.frames} frames, {len(self.tasks)} task(s)"


def write(targets: Mapping[Path, Recipe], dry_run: bool = False) -> list[EditResult | EditPlan]:
    """Write each recipe to its target, or say what would be written.

    When several targets lie in one directory that does not exist, it appears at once with all of them in it. Raises
    ArtifactError when a target exists, DatasetError when a recipe cannot be written; then no target exists.
    """
    for target in targets:
        if target.exists():
            raise ArtifactError(
                "the output exists already", file=target, fix="choose another output, or remove this one"
            )
    plans = {target: plan(recipe) for target, recipe in targets.items()}
    if dry_run:
        return [_said(target, made) for target, made in plans.items()]
    parents = {target.parent for target in targets}
    together = parents.pop() if len(targets) > 1 and len(parents) == 1 else None
    if together is not None and not together.exists():
        with _fresh(together) as folder:
            for target, made in plans.items():
                write_plan(folder / target.name, made)
    else:
        with ExitStack() as stack:
            folders = {target: stack.enter_context(_fresh(target)) for target in targets}
            for target, made in plans.items():
                write_plan(folders[target], made)
    return [
        EditResult(path=target, episodes=len(made.recipe.kept), frames=made.frames, tasks=made.tasks)
        for target, made in plans.items()
    ]


@contextmanager
def _fresh(target: Path) -> Iterator[Path]:
    """Like `staged`, in a directory that is empty: one that a killed edit of the same target left is used again."""
    with staged(target, key="edit") as folder:
        try:
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            yield folder
        except BaseException:
            shutil.rmtree(folder)
            raise


def _said(target: Path, made: Plan) -> EditPlan:
    info = made.recipe.info
    files = {info.data_file(*file.place): file for file in made.data}
    for key, videos in made.videos.items():
        files |= {info.video_file(key, *file.place): file for file in videos}
    return EditPlan(
        path=target,
        episodes=len(made.recipe.kept),
        frames=made.frames,
        tasks=made.tasks,
        features=list(info.features),
        bytes=round(made.bytes),
        files=[
            PlannedFile(path=name, how=file.how, bytes=round(file.bytes), sources=file.sources)
            for name, file in files.items()
        ],
    )

"""Repairing a dataset into a new one: what can be saved of it, and what was lost."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from lerobot_ops.config import Config
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.source import Kept, open_source
from lerobot_ops.datasets.editing.write import write
from lerobot_ops.datasets.remote import local_root
from lerobot_ops.datasets.repairing.restore import restore
from lerobot_ops.datasets.validation.checks import Finding, counted
from lerobot_ops.datasets.validation.validate import validate
from lerobot_ops.datasets.writing.beginning import RECORDING
from lerobot_ops.errors import ArtifactError, DatasetError

_STATISTICS = {"stats-missing", "stats-implausible", "stats-stale", "episode-stats", "histograms"}
_CONTENT = {
    *("constant-dimension", "saturated-dimension", "jumps", "frozen-camera", "blank-frames", "duplicate-episodes"),
    *("episode-without-success", "episode-length", "missing-task-text", "video-keyframes"),
}
"""What was recorded so: no matter for a repair, but for an edit or another recording."""


class RepairConfig(Config):
    """A repair of a dataset, always into a new directory."""

    root: Path
    """The dataset: a directory, or OWNER/NAME on the Hugging Face Hub."""
    new_root: Path
    """The directory to write; it must not exist."""
    dry_run: bool = False
    """Say what would be mended and lost, and write nothing."""


class RepairResult(Config):
    """What became of a dataset."""

    path: Path | None
    """The new dataset; none when nothing was written."""
    episodes: int
    """Episodes that were saved."""
    frames: int
    done: list[str]
    """What was wrong and is not any more, and how that was found out, a sentence each."""
    lost: list[str]
    """What could not be saved, a sentence each."""
    remaining: list[Finding]
    """Errors that validation still finds in the new dataset."""

    def __str__(self) -> str:
        if not self.done and not self.lost:
            return "there is nothing to repair"
        size = f"{counted(self.episodes, 'episode')}, {counted(self.frames, 'frame')}"
        head = f"{self.path}: {size} saved" if self.path else f"{size} can be saved"
        lines = [head, *(f"  mended: {sentence}" for sentence in self.done)]
        lines += [f"  lost: {sentence}" for sentence in self.lost]
        lines += [f"  still wrong: {found.check}: {found.message} ({found.place})" for found in self.remaining]
        return "\n".join(lines)


def repair(config: RepairConfig) -> RepairResult:
    """Write what can be saved of a dataset, in a form in which validation finds no errors, to a new directory.

    Episodes are kept whole or not at all. A dataset without anything to repair is left alone, and nothing is written.
    Raises ArtifactError when the output exists, and DatasetError when meta/info.json cannot be read, because nothing
    else says what the features are, or when no episode can be saved.
    """
    root = local_root(config.root)
    if config.new_root.exists():
        raise ArtifactError(
            "the output exists already", file=config.new_root, fix="choose another output, or remove this one"
        )
    before = validate(root)
    problems = [found for found in before.at_least("warning") if found.check not in _CONTENT]
    wrong = {found.check for found in problems}
    if not wrong:
        return RepairResult(path=None, episodes=before.episodes, frames=before.frames, done=[], lost=[], remaining=[])
    parent = config.new_root.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{config.new_root.name}.repair-") as folder:
        restored = restore(root, Path(folder), keep_statistics=not wrong & _STATISTICS)
        restored.lost.extend(_waiting(root))
        if not restored.episodes:
            raise DatasetError(
                "no episode of this dataset can be saved:\n  " + "\n  ".join(restored.lost),
                file=root,
                fix="restore it from a version or a copy",
            )
        if not config.dry_run:
            source = open_source(Path(folder))
            kept = [Kept(source, number) for number in range(restored.episodes)]
            write({config.new_root: Recipe(kept=kept, info=source.info)})
    left = [] if config.dry_run else validate(config.new_root).at_least("error")
    still = {found.check for found in left}  # of a dry run nothing is known
    mended = {found.check: f"{found.check}: {found.message}" for found in problems[::-1] if found.check not in still}
    return RepairResult(
        path=None if config.dry_run else config.new_root,
        episodes=restored.episodes,
        frames=restored.frames,
        done=[*list(mended.values())[::-1], *restored.done],
        lost=restored.lost,
        remaining=left,
    )


def _waiting(root: Path) -> Iterator[str]:
    """What is lost of a recording of ours that was not finished, and would not be if it was resumed."""
    waiting = [folder.name for folder in sorted((root / RECORDING).glob("[0-9]*")) if folder.is_dir()]
    if waiting:
        names = ", ".join(str(int(name)) for name in waiting)
        yield f"episode {names}: complete, but not yet in the dataset; `DatasetWriter.resume` would add it"

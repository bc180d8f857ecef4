"""A published checkpoint on this machine, in a folder of one's own: whole or not at all."""

import shutil
from pathlib import Path

from lerobot_ops.artifacts import staged
from lerobot_ops.config import Config
from lerobot_ops.hub.checkpoints import checkpoint_digest, checkpoint_folder
from lerobot_ops.hub.publish import ROOMS


class PullConfig(Config):
    """A checkpoint to fetch."""

    repo_id: str
    """OWNER/NAME, or OWNER/NAME@REVISION: a tag, a branch, a commit, or a step of the training in six digits."""
    output: Path
    """The folder that it is to lie in, which must not exist."""
    root: Path | None = None
    """The folder of a local hub that it comes from; none is the Hugging Face Hub."""


class Pulled(Config):
    """What was fetched."""

    output: Path
    digest: str
    """Its version: that which was published."""
    files: int


def pull(config: PullConfig) -> Pulled:
    """Fetch a checkpoint; raises CheckpointError when there is none, and PrerequisiteError when the Hub refuses.

    Of a model on the Hub that needs no folder of its own, OWNER/NAME serves wherever a checkpoint's path does.
    """
    place: str | Path = config.repo_id
    if config.root is not None:
        name, _, step = config.repo_id.partition("@")
        place = config.root / ROOMS["checkpoint"] / name
        place = place / "checkpoints" / step if step else place
    folder = checkpoint_folder(place)
    count = 0
    with staged(config.output) as partial:
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(folder)
            if file.is_file() and inside.parts[0] not in ("checkpoints", "README.md", ".gitattributes"):
                (partial / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, partial / inside)
                count += 1
    return Pulled(output=config.output, digest=checkpoint_digest(config.output), files=count)

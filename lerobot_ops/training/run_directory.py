"""A training's run directory: LeRobot's `checkpoints/<step>/`, and the product once it has finished.

    checkpoints/000500/pretrained_model/   the policy and its processors
    checkpoints/000500/pretrained_model_ema/   the average of its weights, if one is kept
    checkpoints/000500/training_state/     what resuming needs
    checkpoints/last -> 000500
    checkpoints/best -> 000300             the one with the lowest loss on held-out episodes, if there are any
    training.json                          which training this is
    log.csv, loss.csv, eval_loss.csv       one line per logged step, and per look at held-out episodes
    pretrained_model/                      the last checkpoint's; exists only when training has finished

Checkpoints and the product appear whole or not at all, so a killed run goes on from its last checkpoint.
"""

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lerobot_ops.artifacts import fsync_directory, staged, write_json
from lerobot_ops.config import content_key
from lerobot_ops.errors import ArtifactError, ConfigError

IDENTITY = "training.json"
PRODUCT = "pretrained_model"
AVERAGE = "pretrained_model_ema"
STATE = "training_state"
MAY_CHANGE = ("steps", "batch_size")
"""What a training may be resumed with another value of."""


@dataclass(frozen=True)
class RunDirectory:
    """The places in a run directory."""

    root: Path

    @property
    def product(self) -> Path:
        return self.root / PRODUCT

    @property
    def finished(self) -> bool:
        return self.product.is_dir()

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step, whether it exists or not."""
        return self.root / "checkpoints" / f"{step:06d}"

    def checkpoints(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return sorted(int(path.name) for path in self.root.glob("checkpoints/*") if path.name.isdigit())

    def identity(self) -> dict[str, Any] | None:
        """What decides this training's result (`TrainConfig.identity`); None when the directory holds none."""
        try:
            content = json.loads((self.root / IDENTITY).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ArtifactError("the run directory is damaged", file=self.root / IDENTITY, found=str(error)) from None
        identity: dict[str, Any] = content["identity"]
        return identity

    @contextlib.contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A directory that becomes the checkpoint of `step` and the target of `last` when the block ends."""
        target = self.checkpoint(step)
        with staged(target) as partial:
            yield partial
        self._point("last", step)

    def best(self) -> int | None:
        """The step of the best checkpoint, if one is known."""
        link = self.root / "checkpoints" / "best"
        return int(os.readlink(link)) if link.is_symlink() else None

    def name_best(self, step: int) -> None:
        """Make the checkpoint of `step` the target of `best`."""
        self._point("best", step)

    def _point(self, name: str, step: int) -> None:
        target = self.checkpoint(step)
        link = target.with_name(f".{name}-{uuid.uuid4().hex[:12]}")
        os.symlink(target.name, link)
        os.replace(link, target.with_name(name))
        fsync_directory(target.parent)

    def keep(self, count: int | None) -> None:
        """Remove all checkpoints but the latest `count` and the best."""
        for step in self.checkpoints()[: -count if count else 0]:
            if step != self.best():
                _discard(self.checkpoint(step))

    def sweep(self) -> None:
        """Remove what a killed process had half written; only for who holds the directory (`locked`)."""
        for folder in (self.root, self.root / "checkpoints"):
            for path in (*folder.glob(".*.partial-*"), *folder.glob(".last-*"), *folder.glob(".best-*")):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def settle(self, best: int | None, keep: int | None) -> None:
        """Do what was to be done after the last checkpoint, whose writer may have been killed before."""
        steps = self.checkpoints()
        if steps:
            self._point("last", steps[-1])
        if best is not None:
            self.name_best(best)
        self.keep(keep)

    def discard_product(self) -> None:
        """Remove the product of a training that has since become longer."""
        if self.product.exists():
            _discard(self.product)

    def export(self, step: int) -> None:
        """Make the checkpoint of `step` the product, by hard links where the file system has them."""
        with staged(self.product) as partial:
            for file in (self.checkpoint(step) / PRODUCT).iterdir():
                try:
                    os.link(file, partial / file.name)
                except OSError:
                    shutil.copy2(file, partial / file.name)


def _discard(folder: Path) -> None:
    """Remove a directory that is never seen in parts."""
    discarded = folder.with_name(f".{folder.name}.partial-{uuid.uuid4().hex[:12]}")
    os.rename(folder, discarded)
    shutil.rmtree(discarded)


def prepare(root: Path, identity: dict[str, Any], resume: bool | Literal["auto"]) -> RunDirectory:
    """The run directory of the training `identity`, new or to be continued; nothing is written when this raises.

    Raises ArtifactError when the directory is there and `resume` is false, is missing and `resume` is true, is no run
    directory or cannot be written; ConfigError when `resume` is true and the run there is another training. With `auto`
    another training is moved aside to `<root>.old-<hash>`. A run that LeRobot began is continued: that the dataset and
    the settings are the same is up to who resumes it.
    """
    run = RunDirectory(root)
    stored = run.identity()
    lerobots = stored is None and resume is not False and bool(run.checkpoints())
    if stored is None and not lerobots and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ArtifactError(
            "the output exists already, and is no training's", file=root, fix="choose another --output_dir"
        )
    if stored is None and resume is True and not lerobots:
        raise ArtifactError(
            "there is no training to resume", file=root, fix="leave out --resume, or pass --resume=auto"
        )
    if stored is not None and resume is False:
        raise ArtifactError(
            "the output exists already",
            file=root,
            fix="pass --resume=true to continue it, or choose another --output_dir",
        )
    if stored is not None and resume is True:
        _check_same(stored, identity, run)
    if stored is not None and resume == "auto" and stored != identity:
        with locked(run):
            os.rename(root, _aside(root, stored))
        stored = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        if stored != identity:
            write_json(root / IDENTITY, {"schema_version": 1, "identity": identity})
    except OSError as error:
        raise ArtifactError(
            f"the output cannot be written: {error.strerror}", file=root, fix="choose an output that you may write to"
        ) from error
    return run


def continues(root: Path, identity: dict[str, Any]) -> bool:
    """Whether the directory holds this very training, finished or not."""
    return RunDirectory(root).identity() == identity


@contextlib.contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Hold the run directory for this process; the kernel lets go of it when the process dies."""
    descriptor = os.open(run.root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ArtifactError(
            "another process is training into this output", file=run.root, fix="wait for it, or stop it and run again"
        ) from None
    finally:
        os.close(descriptor)


def _check_same(stored: dict[str, Any], identity: dict[str, Any], run: RunDirectory) -> None:
    """A resumed training may only be longer than what is there, or go on with batches of another size."""
    before, now = _flat(_as_resolved(stored, identity)), _flat(identity)
    differing = [
        name for name in sorted({*before, *now}) if before.get(name) != now.get(name) and name not in MAY_CHANGE
    ]
    if differing:
        changes = "\n".join(f"  {name}: {before.get(name)} there, {now.get(name)} here" for name in differing)
        raise ConfigError(
            f"the training to resume has another configuration:\n{changes}",
            file=run.root,
            fix="use the same configuration, or another --output_dir",
        )
    done = (run.checkpoints() or [0])[-1]
    if identity["steps"] < done:
        raise ConfigError(
            "the training to resume is longer already",
            file=run.root,
            field="steps",
            found=identity["steps"],
            expected=done,
        )


def _as_resolved(stored: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """`stored` with the features of `identity` where it names none: a checkpoint names those that the dataset gave."""
    policy, other = stored["policy"], identity["policy"]
    found = {name: other[name] for name in ("input_features", "output_features") if name in other}
    return {**stored, "policy": policy | {name: value for name, value in found.items() if not policy.get(name)}}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _aside(root: Path, stored: dict[str, Any]) -> Path:
    name = f"{root.name}.old-{content_key(stored)[:8]}"
    taken = sum(1 for path in root.parent.glob(f"{name}*"))
    return root.with_name(f"{name}-{taken + 1}" if taken else name)

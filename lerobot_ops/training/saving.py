"""Checkpoints written while the training goes on: it waits for a copy of its tensors, never for the disk.

The folder is LeRobot's; `manifest.json`, `log_window.json` and `grad_scaler.json` are ours.
"""

import contextlib
import errno
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from lerobot_ops import __version__
from lerobot_ops.artifacts import write_json
from lerobot_ops.config import content_key
from lerobot_ops.errors import ArtifactError
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.learner import Learner
from lerobot_ops.training.log import Window
from lerobot_ops.training.run_directory import AVERAGE, PRODUCT, STATE, RunDirectory
from lerobot_ops.training.sharding import copied
from lerobot_ops.training.state import Counts, TrainingState

OURS = ("dataset", "policy", "num_threads", "accelerator", "compile", "ema", "early_stop")
"""Settings that LeRobot's `train_config.json` has no field for, or elsewhere."""


class BackgroundWriter:
    """One write at a time, in their order; an error of one is raised where the next is asked for, or at the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def write(self, work: Callable[[], None]) -> None:
        """Do `work` soon; waits for the write before, so that two are never held in memory."""
        self.wait()
        self._pending = self._pool.submit(work)

    def check(self) -> None:
        """Raise what the write raised, if it is over."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until everything that was asked for is durable; raises what a write raised."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the write; its error must not hide the one that ends the block."""
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True)


@dataclass(frozen=True)
class Snapshot:
    """A training after one of its steps, apart from what goes on changing."""

    step: int
    weights: dict[str, Tensor]
    average: dict[str, Tensor] | None
    state: TrainingState

    @property
    def size(self) -> int:
        """About how many bytes its checkpoint has."""
        tensors = [*self.weights.values(), *(self.average or {}).values(), *self.state.optimizer[0].values()]
        return sum(tensor.nbytes for tensor in tensors)

    @classmethod
    def of(cls, learner: Learner, window: Window, counts: Counts) -> "Snapshot":
        """Copy everything to the CPU of process 0; every process is to call this."""
        average = None if learner.average is None else copied(learner.average.weights, learner.world)
        weights = copied(learner.policy.saved_weights(), learner.world)
        return cls(counts.step, weights, average, TrainingState.of(learner, window, counts))


def write_checkpoint(
    run: RunDirectory, config: TrainConfig, learner: Learner, identity: dict[str, Any], snapshot: Snapshot
) -> None:
    """Write the checkpoint of a snapshot, and remove those that are too old."""
    manifest = {
        "schema_version": 1,
        "dataset_digest": identity["dataset"]["digest"],
        "code_version": __version__,
        "config_hash": content_key(identity),
    }
    adapter = learner.policy.adapter
    base = identity["policy"]["pretrained_path"] if adapter is None else adapter.base_digest
    manifest |= {} if base is None else {"base_digest": base}
    policy = learner.policy.config.portable().entry()
    settings = {name: value for name, value in identity.items() if name not in OURS}
    data = {name: value for name, value in identity["dataset"].items() if name not in ("digest", "task_weights")}
    # LeRobot resumes with what it finds here, the policy's preset, too.
    preset = config.use_policy_training_preset
    for name, own in (("optimizer", learner.policy.config.optimizer), ("scheduler", learner.policy.config.scheduler)):
        entry = own() if preset else getattr(config, name)
        settings[name] = None if entry is None else entry.model_dump(mode="json")
    train_config = {"dataset": data, "policy": policy, **settings, "use_policy_training_preset": preset}
    with told_when_full(run, snapshot.size), run.new_checkpoint(snapshot.step) as folder:
        for name, weights in ((PRODUCT, snapshot.weights), (AVERAGE, snapshot.average)):
            if weights is not None:
                save_checkpoint(folder / name, learner.policy, learner.preprocessor, learner.postprocessor, weights)
                write_json(folder / name / "train_config.json", train_config, indent=4)
                write_json(folder / name / "manifest.json", manifest)
        snapshot.state.write(folder / STATE)


@contextlib.contextmanager
def told_when_full(run: RunDirectory, needed: int | None = None) -> Generator[None]:
    """Raise ArtifactError, with what would help, when a disk is full in this block."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        last = (run.checkpoints() or [0])[-1]
        kept = f"the checkpoint of step {last} is whole" if last else "there is no checkpoint yet"
        raise ArtifactError(
            f"the disk is full: {error.strerror}",
            file=run.root,
            found=f"{shutil.disk_usage(run.root).free / 2**20:,.0f} MiB free",
            expected=None
            if needed is None
            else f"about {needed / 2**20:,.1f} MiB for a checkpoint beside those that are kept",
            fix=f"make room, or set keep_checkpoints; {kept}, and --resume=true goes on from there",
        ) from error

"""Training: a dataset and a configuration in, a checkpoint out; interrupted, it continues bit for bit."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.data import open_dataset
from lerobot_ops.training.distributed import joined
from lerobot_ops.training.holdout import Looks, parted
from lerobot_ops.training.interrupts import interruptible
from lerobot_ops.training.learner import make_learner
from lerobot_ops.training.log import last_metrics
from lerobot_ops.training.loop import Loop, OnCheckpoint, OnMetrics
from lerobot_ops.training.memory import kept_memory
from lerobot_ops.training.run_directory import RunDirectory, locked, prepare
from lerobot_ops.training.saving import told_when_full
from lerobot_ops.versioning.digest import digest


class Tracker(Protocol):
    """Where metrics go (a run of `lerobot_ops.tracking`)."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    output_dir: Path
    checkpoint: Path
    """The folder `pretrained_model`."""
    steps: int
    metrics: dict[str, float]
    """The last line of the log."""


def train(
    config: TrainConfig,
    *,
    on_metrics: OnMetrics | None = None,
    tracker: Tracker | None = None,
    on_start: Callable[[], None] | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    dataset_digest: str | None = None,
) -> TrainResult:
    """Train a policy and return its checkpoint; `config.resume` says what happens to a run that is there already.

    `on_start` is called once the run directory exists, `on_metrics` and the tracker at every line of the log and every
    look at held-out episodes; `on_checkpoint` is done with checkpoints, and gives metrics too. `dataset_digest` saves
    computing the dataset's version again. Ctrl-C and SIGTERM end the training after the step it is in, with a
    checkpoint. Raises DatasetError, ConfigError, CheckpointError and ArtifactError before anything is written, and
    OpsError when the loss is no number any more.
    """
    run = RunDirectory(config.output_dir)
    with joined(config) as world, _torch_settings(config), contextlib.ExitStack() as held:
        with world.together(), world.main_first():
            dataset, policy_config = open_dataset(config)
            dataset, held_out = _parts(config, dataset)
        with world.together():
            learner = make_learner(config, policy_config, dataset, world)

        def begin() -> tuple[dict[str, Any], int, bool]:
            identity = config.identity(dataset_digest or digest(config.dataset.root))
            held.enter_context(locked(prepare(config.output_dir, identity, config.resume)))
            run.sweep()
            done = (run.checkpoints() or [0])[-1]
            looks = Looks(run.root, config.early_stop, done)
            run.settle(looks.best(run.checkpoints()), config.keep_checkpoints)
            if run.finished and (done >= config.steps or looks.enough):
                return identity, done, True
            if on_start is not None:
                on_start()
            run.discard_product()
            return identity, done, False

        identity, done, finished = world.on_main(begin)
        if finished:
            return _result(run, done)
        reports = [report for report in (on_metrics, _to(tracker)) if report is not None]
        loop = Loop(config, run, learner, dataset, held_out, identity, reports, on_checkpoint)
        with interruptible() as interrupt, told_when_full(run), kept_memory(learner.device):
            last = loop.to_the_end(done, interrupt) if done < config.steps else done
        world.on_main(lambda: run.export(last))
    return _result(run, last)


def _parts(config: TrainConfig, dataset: LeRobotDataset) -> tuple[LeRobotDataset, LeRobotDataset | None]:
    """What is learned from, and what is held out."""
    if not config.dataset.eval_split:
        return dataset, None
    kept, held = parted(dataset, config.dataset.eval_split)
    one, other = (config.altered("dataset.episodes", episodes) for episodes in (kept, held))
    return open_dataset(one)[0], open_dataset(other)[0]


def _result(run: RunDirectory, steps: int) -> TrainResult:
    return TrainResult(run.root, run.product, steps, last_metrics(run.root))


@contextlib.contextmanager
def _torch_settings(config: TrainConfig) -> Iterator[None]:
    """The seed, the threads and cuDNN's choices of this training; all are as before when it ends."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        try:
            torch.set_num_threads(config.num_threads or threads)
            cudnn.deterministic, cudnn.benchmark = config.cudnn_deterministic, not config.cudnn_deterministic
            torch.backends.cuda.matmul.allow_tf32 = True
            yield
        finally:
            torch.set_num_threads(threads)
            cudnn.deterministic, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32 = before


def _to(tracker: Tracker | None) -> OnMetrics | None:
    return None if tracker is None else lambda step, metrics: tracker.log_metrics(metrics, step)

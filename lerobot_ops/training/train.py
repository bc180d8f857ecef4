"""The training loop: a dataset and a configuration in, a checkpoint out; interrupted, it continues bit for bit."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from lerobot_ops import __version__
from lerobot_ops.artifacts import write_json
from lerobot_ops.config import content_key
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.transforms import ImageTransforms
from lerobot_ops.errors import ConfigError, DatasetError, OpsError
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.policies.device import best_device
from lerobot_ops.policies.policy import Policy, make_processors
from lerobot_ops.policies.registry import make_policy
from lerobot_ops.policies.weights import load_weights
from lerobot_ops.processors.pipeline import Pipeline
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.data import AHEAD, BatchReader, batches, open_dataset, scaled, training_stats
from lerobot_ops.training.log import Tables, Window, last_metrics
from lerobot_ops.training.optimizer import clip_gradients, make_optimizer
from lerobot_ops.training.run_directory import PRODUCT, STATE, RunDirectory, locked, prepare
from lerobot_ops.training.sampler import EpisodeAwareSampler
from lerobot_ops.training.schedulers import make_scheduler
from lerobot_ops.training.state import load_state, save_state
from lerobot_ops.versioning.digest import digest

OnMetrics = Callable[[int, dict[str, float]], None]


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


@dataclass(frozen=True)
class Learner:
    """What a training works on."""

    policy: Policy
    preprocessor: Pipeline
    postprocessor: Pipeline
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR | None
    """Sets the optimiser's learning rates, where the policy's preset has a schedule."""
    device: str


def train(
    config: TrainConfig,
    *,
    on_metrics: OnMetrics | None = None,
    tracker: Tracker | None = None,
    on_start: Callable[[], None] | None = None,
    dataset_digest: str | None = None,
) -> TrainResult:
    """Train a policy and return its checkpoint; `config.resume` says what happens to a run that is there already.

    `on_start` is called once the run directory exists, `on_metrics` and the tracker at every line of the log.
    `dataset_digest` saves computing the dataset's version again. Raises DatasetError, ConfigError, CheckpointError and
    ArtifactError before anything is written, and OpsError when the loss is no number any more.
    """
    with _torch_settings(config):
        dataset, policy_config = open_dataset(config)
        learner = make_learner(config, policy_config, dataset)
        identity = config.identity(dataset_digest or digest(config.dataset.root))
        run = prepare(config.output_dir, identity, config.resume)
        with locked(run):
            run.sweep()
            done = (run.checkpoints() or [0])[-1]
            if run.finished and done >= config.steps:
                return TrainResult(run.root, run.product, config.steps, last_metrics(run.root))
            if on_start is not None:
                on_start()
            reports = [report for report in (on_metrics, _to(tracker)) if report is not None]
            run.discard_product()
            _loop(config, run, learner, dataset, identity, done, reports)
            run.export(config.steps)
    return TrainResult(run.root, run.product, config.steps, last_metrics(run.root))


def make_learner(config: TrainConfig, policy_config: PolicyConfig, dataset: LeRobotDataset) -> Learner:
    """A fresh policy with its processors and optimiser; raises what is wrong with the configuration."""
    for name in ("use_amp", "use_peft"):
        if getattr(policy_config, name):
            raise ConfigError("training does not support this", field=f"policy.{name}", found=True, expected=False)
    device = best_device(policy_config.device)
    policy_config = policy_config.model_copy(update={"device": device})
    try:
        pre, post = make_processors(policy_config, training_stats(dataset, config), device)
    except ValueError as error:
        raise DatasetError(str(error), file=config.dataset.root / "meta/stats.json") from None
    policy = make_policy(policy_config, pretrained_backbone=policy_config.pretrained_path is None)
    if policy_config.pretrained_path is not None:
        load_weights(policy, Path(policy_config.pretrained_path))
    policy = policy.to(device).train()
    optimizer, schedule = make_optimizer(policy), policy_config.scheduler()
    scheduler = None if schedule is None else make_scheduler(optimizer, schedule, config.steps)
    return Learner(policy, pre, post, optimizer, scheduler, device)


def _loop(
    config: TrainConfig,
    run: RunDirectory,
    learner: Learner,
    dataset: LeRobotDataset,
    identity: dict[str, Any],
    start: int,
    reports: list[OnMetrics],
) -> None:
    """Steps `start` to `config.steps`, with log lines and checkpoints on the way."""
    policy, optimizer, scheduler = learner.policy, learner.optimizer, learner.scheduler
    clip = policy.config.optimizer().grad_clip_norm
    window = Window(learner.device)
    if start:
        load_weights(policy, run.checkpoint(start) / PRODUCT)
        load_state(run.checkpoint(start) / STATE, optimizer, scheduler, window)
        policy.resume(start)
    tables = Tables(run.root, start)
    first, last = dataset.episode_bounds
    drop = policy.config.n_last_frames_dropped
    sampler = EpisodeAwareSampler(first, last, batch_size=config.batch_size, seed=config.seed, drop_n_last_frames=drop)
    wanted = config.dataset.image_transforms
    transforms = ImageTransforms(wanted) if wanted.enable else None
    as_bytes = torch.device(learner.device).type != "cpu"
    read = BatchReader(dataset, policy.config, transforms, seed=config.seed, as_bytes=as_bytes)
    ahead, threads = AHEAD if policy.config.image_features else 0, config.num_workers
    bar = tqdm(total=config.steps, initial=start, desc="train", unit="step", disable=None, leave=False)
    with bar, contextlib.closing(batches(sampler, read, start, config.steps, ahead=ahead, threads=threads)) as source:
        for step in range(start + 1, config.steps + 1):
            asked = time.perf_counter()
            batch = next(source)
            data_s = time.perf_counter() - asked
            loss, _ = policy(learner.preprocessor(scaled(batch, learner.device)))
            loss.backward()
            grad_norm = clip_gradients(policy, clip)
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
            window.add(loss, grad_norm, data_s)
            bar.update()
            if step % config.log_freq == 0 or step == config.steps:
                metrics = window.means(optimizer.param_groups[0]["lr"])
                _check_finite(metrics["loss"], step)
                tables.write(step, metrics)
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", data_ms=f"{1000 * metrics['data_s']:.1f}")
                for report in reports:
                    report(step, metrics)
                window.clear()
            if step % config.save_freq == 0 or step == config.steps:
                _check_finite(window.loss.item(), step)
                save(config, run, learner, identity, step, window)


def save(
    config: TrainConfig, run: RunDirectory, learner: Learner, identity: dict[str, Any], step: int, window: Window
) -> None:
    """Write the checkpoint of `step`, and remove those that are too old."""
    manifest = {
        "schema_version": 1,
        "dataset_digest": identity["dataset"]["digest"],
        "code_version": __version__,
        "config_hash": content_key(identity),
    }
    policy_config = learner.policy.config.portable().entry()
    settings = {name: value for name, value in identity.items() if name not in ("dataset", "policy", "num_threads")}
    data = {name: value for name, value in identity["dataset"].items() if name != "digest"}
    with run.new_checkpoint(step) as folder:
        save_checkpoint(folder / PRODUCT, learner.policy, learner.preprocessor, learner.postprocessor)
        write_json(
            folder / PRODUCT / "train_config.json", {"dataset": data, "policy": policy_config, **settings}, indent=4
        )
        write_json(folder / PRODUCT / "manifest.json", manifest)
        save_state(
            folder / STATE,
            step=step,
            batch_size=config.batch_size,
            optimizer=learner.optimizer,
            scheduler=learner.scheduler,
            window=window,
        )
    run.keep(config.keep_checkpoints)


@contextlib.contextmanager
def _torch_settings(config: TrainConfig) -> Iterator[None]:
    """The seed and the threads of this training; both are as before when it ends."""
    threads = torch.get_num_threads()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        try:
            torch.set_num_threads(config.num_threads or threads)
            yield
        finally:
            torch.set_num_threads(threads)


def _to(tracker: Tracker | None) -> OnMetrics | None:
    return None if tracker is None else lambda step, metrics: tracker.log_metrics(metrics, step)


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise OpsError(
            "training has diverged: the loss is no number any more",
            field="loss",
            found=f"{loss} at step {step}",
            fix="lower policy.optimizer_lr, and look at the dataset with `lerobot-ops validate`",
        )

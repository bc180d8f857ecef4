"""The training loop: batches in, steps of the optimiser, and now and then a log line, a look and a checkpoint."""

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import torch
from torch import Tensor
from tqdm import tqdm

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.transforms.transforms import ImageTransforms
from lerobot_ops.errors import OpsError
from lerobot_ops.processors.steps import Batch
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.data import AHEAD, BatchReader, batches, scaled
from lerobot_ops.training.holdout import HeldOut, Looks
from lerobot_ops.training.interrupts import Interrupt
from lerobot_ops.training.learner import Learner
from lerobot_ops.training.log import Tables, Window
from lerobot_ops.training.optimizer import clip_gradients
from lerobot_ops.training.run_directory import AVERAGE, PRODUCT, RunDirectory
from lerobot_ops.training.sampler import EpisodeAwareSampler, frame_weights
from lerobot_ops.training.saving import BackgroundWriter, Snapshot, write_checkpoint

logger = logging.getLogger(__name__)
OnMetrics = Callable[[int, dict[str, float]], None]
MUCH_WAITING = 0.2
"""The share of the time that waits for data from which on a warning says what helps."""


@dataclass(frozen=True)
class OnCheckpoint:
    """What is done with a checkpoint of every so many steps, once it is durable."""

    every: int
    do: Callable[[int, Path], dict[str, float]]
    """(step, the folder with the policy) -> metrics of this step."""


class Loop:
    """One training in its run directory, from the step `start` on."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunDirectory,
        learner: Learner,
        dataset: LeRobotDataset,
        held_out: LeRobotDataset | None,
        identity: dict[str, Any],
        reports: list[OnMetrics],
        on_checkpoint: OnCheckpoint | None = None,
    ) -> None:
        self.config, self.run, self.learner, self.dataset = config, run, learner, dataset
        self.identity, self.reports, self.on_checkpoint = identity, reports, on_checkpoint
        self.batches_per_step = config.accelerator.gradient_accumulation.steps
        self.sampler = EpisodeAwareSampler(
            *dataset.episode_bounds,
            batch_size=config.batch_size,
            seed=config.seed,
            drop_n_last_frames=learner.policy.config.n_last_frames_dropped,
            weights=frame_weights(dataset, config.dataset.task_weights),
        )
        self.held_out = None if held_out is None else HeldOut(held_out, config, learner)
        self.window = Window(learner.device)
        self.forward: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]] = learner.policy
        if config.compile:
            self.forward = torch.compile(learner.policy)
        self.warned = False

    def to_the_end(self, start: int, interrupt: Interrupt) -> int:
        """Train from the checkpoint of `start`, or from nothing at 0; the step that training ended after.

        An interrupt ends the process as its signal would, after a checkpoint.
        """
        config, learner = self.config, self.learner
        if start:
            learner.load(self.run.checkpoint(start), start, start * self.batches_per_step, self.window)
        self.tables = Tables(self.run.root, start)
        self.looks = Looks(self.run.root, config.early_stop, start)
        bar = tqdm(total=config.steps, initial=start, desc="train", unit="step", disable=None, leave=False)
        with bar, contextlib.closing(self._batches(start)) as source, BackgroundWriter() as self.writer:
            if start:
                self._hand_out(start)  # what was done with it may have been interrupted
            for step in range(start + 1, config.steps + 1):
                self._update(step, source)
                bar.update()
                last = step == config.steps or interrupt.signal is not None
                due = step % config.save_freq == 0 or last or self._wanted(step)
                if self.held_out is not None and (due or (config.eval_steps and step % config.eval_steps == 0)):
                    self._look(step)
                    last = last or self.looks.enough
                if (step % config.log_freq == 0 or last) and interrupt.signal is None:
                    self._log(step, bar)
                if due or last:
                    self._save(step)
                if interrupt.signal is None:
                    self._hand_out(step)
                if last:
                    break
        if interrupt.signal is not None:
            interrupt.leave()
        return step

    def _batches(self, start: int) -> Generator[Batch]:
        config, policy = self.config, self.learner.policy.config
        wanted = config.dataset.image_transforms
        as_bytes = torch.device(self.learner.device).type != "cpu"
        transforms = ImageTransforms(wanted) if wanted.enable else None
        read = BatchReader(self.dataset, policy, transforms, seed=config.seed, as_bytes=as_bytes)
        ahead = AHEAD if policy.image_features else 0
        first, stop = start * self.batches_per_step, config.steps * self.batches_per_step
        return batches(self.sampler, read, first, stop, ahead=ahead, threads=config.num_workers)

    def _update(self, step: int, source: Iterator[Batch]) -> None:
        """One step of the optimiser. Nothing here waits for the device."""
        learner, precision, parts = self.learner, self.learner.precision, self.batches_per_step
        total: Tensor | None = None
        waited = 0.0
        for _ in range(parts):
            asked = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - asked
            with precision.autocast():
                loss, _ = self.forward(learner.preprocessor(scaled(batch, learner.device)))
            loss = loss / parts if parts > 1 else loss
            precision.scaler.scale(loss).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        precision.scaler.unscale_(learner.optimizer)
        grad_norm = clip_gradients(learner.policy, learner.grad_clip_norm)
        precision.scaler.step(learner.optimizer)
        precision.scaler.update()
        learner.optimizer.zero_grad()
        if learner.scheduler is not None:
            learner.scheduler.step()
        if learner.average is not None:
            learner.average.update(learner.policy, step)
        if precision.scaler.is_enabled():  # a step whose gradients overflow 16 bits is left out, and no error
            grad_norm = torch.nan_to_num(grad_norm, posinf=0.0)
        self.window.add(step, total, grad_norm, waited)

    def _look(self, step: int) -> None:
        assert self.held_out is not None
        self._check_finite()
        loss = self.held_out.loss(self.learner)
        self.looks.add(step, loss)
        for report in self.reports:
            report(step, {"eval_loss": loss})

    def _log(self, step: int, bar: "tqdm[Never]") -> None:
        self._check_finite()
        metrics = self.window.means(self.learner.optimizer.param_groups[0]["lr"])
        self.tables.write(step, metrics)
        waiting = metrics["data_s"] * metrics["steps_per_s"]
        bar.set_postfix(loss=f"{metrics['loss']:.4f}", waiting=f"{waiting:.0%}")
        if waiting > MUCH_WAITING and not self.warned:
            self.warned = True
            logger.warning(
                "%.0f%% of the time is spent waiting for data: raise num_workers (%d now), or set dataset.frame_cache",
                100 * waiting,
                self.config.num_workers,
            )
        for report in self.reports:
            report(step, metrics)
        self.window.clear()

    def _save(self, step: int) -> None:
        """Have the checkpoint written; a copy is all that the training waits for."""
        self._check_finite()
        snapshot = Snapshot.of(self.config, self.learner, step, self.window)
        best = self.looks.best == step

        def write() -> None:
            write_checkpoint(self.run, self.config, self.learner, self.identity, snapshot)
            if best:
                self.run.name_best(step)
            self.run.keep(self.config.keep_checkpoints)

        self.writer.write(write)

    def _wanted(self, step: int) -> bool:
        return self.on_checkpoint is not None and step % self.on_checkpoint.every == 0

    def _hand_out(self, step: int) -> None:
        """Have done what is to be done with the checkpoint of this step, if anything."""
        if self.on_checkpoint is None or not self._wanted(step):
            return
        self.writer.wait()
        average = self.learner.average is not None and self.config.ema.use_for_eval
        with torch.random.fork_rng():
            metrics = self.on_checkpoint.do(step, self.run.checkpoint(step) / (AVERAGE if average else PRODUCT))
        for report in self.reports:
            report(step, metrics)

    def _check_finite(self) -> None:
        """Raise OpsError when a loss or a gradient since the last look was no number; the last checkpoint is good."""
        step = int(self.window.bad_step.item())
        if not step:
            return
        first = (step - 1) * self.batches_per_step
        rows = [row for part in range(self.batches_per_step) for row in self.sampler.batch(first + part).tolist()]
        ends = self.dataset.episode_bounds[1]
        episodes = sorted({int(self.dataset.episodes[(ends <= row).sum()]) for row in rows})
        raise OpsError(
            "training has diverged: the loss or its gradient is no number any more",
            field="loss",
            found=f"at step {step}, whose batch has frames of the episodes {', '.join(map(str, episodes[:10]))}"
            + (f" and {len(episodes) - 10} more" if len(episodes) > 10 else ""),
            fix="lower policy.optimizer_lr, and look at these episodes with `lerobot-ops validate`; the last "
            "checkpoint is from before",
        )

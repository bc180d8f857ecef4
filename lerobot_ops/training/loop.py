"""The training loop: batches in, steps of the optimiser, and now and then a log line, a look and a checkpoint."""

import contextlib
import logging
import signal
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
from lerobot_ops.training.data import BatchReader, as_recorded, batches, scaled
from lerobot_ops.training.distributed import Shared, layout
from lerobot_ops.training.holdout import HeldOut, Looks
from lerobot_ops.training.interrupts import Interrupt
from lerobot_ops.training.learner import Learner
from lerobot_ops.training.log import Tables, Window
from lerobot_ops.training.optimizer import clip_gradients
from lerobot_ops.training.run_directory import AVERAGE, PRODUCT, STATE, RunDirectory
from lerobot_ops.training.sampler import EpisodeAwareSampler, frame_weights
from lerobot_ops.training.saving import BackgroundWriter, Snapshot, write_checkpoint
from lerobot_ops.training.state import Counts

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
        self.world = learner.world
        self.sampler = EpisodeAwareSampler(
            *dataset.episode_bounds,
            batch_size=config.batch_size * self.world.size,
            seed=config.seed,
            drop_n_last_frames=learner.policy.config.n_last_frames_dropped,
            weights=frame_weights(dataset, config.dataset.task_weights),
        )
        self.held_out = None if held_out is None else HeldOut(held_out, config, learner)
        self.window = Window(learner.device)
        self.shared = Shared(learner.policy, self.world)
        self.forward: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]] = self.shared.forward
        if config.compile:
            self.forward = torch.compile(self.shared.forward)
        self.warned = False

    def to_the_end(self, start: int, interrupt: Interrupt) -> int:
        """Train from the checkpoint of `start`, or from nothing at 0; the step that training ended after.

        An interrupt ends the process as its signal would, after a checkpoint.
        """
        config, world = self.config, self.world
        if start:
            with world.together():
                self._go_on(start)
        self.tables = world.on_main(lambda: Tables(self.run.root, start))
        self.looks = world.on_main(lambda: Looks(self.run.root, config.early_stop, start))
        hidden = None if world.is_main else True
        bar = tqdm(total=config.steps, initial=start, desc="train", unit="step", disable=hidden, leave=False)
        with bar, contextlib.closing(self._batches(start)) as source, BackgroundWriter() as self.writer:
            step = saved = start
            if start:
                self._make_up(start, interrupt)
            while step < config.steps and not self.looks.enough and not world.greatest_so_far(interrupt.signal or 0):
                step += 1
                self._update(step, source)
                self.writer.check()
                bar.update()
                if self._looks_at(step):
                    self._look(step, interrupt)
                last = step == config.steps or self.looks.enough
                if step % config.log_freq == 0 or last:
                    self._log(step, bar)
                if last or self._due(step):
                    self._save(step)
                    saved = step
                self._hand_out(step, interrupt)
            if saved < step:  # interrupted
                self._save(step)
        told = world.greatest(interrupt.signal or world.settle())
        if told:
            if not world.is_main:
                raise SystemExit(128 + told)
            interrupt.signal = signal.Signals(told)  # it may be another process that got it
            interrupt.leave()
        return step

    def _go_on(self, start: int) -> None:
        """Continue from the checkpoint of `start`."""
        folder, now = self.run.checkpoint(start), self._counts(start)
        before = Counts.read(folder / STATE, now)
        same = self.sampler.go_on(before.batches, before.frames, before.origin)
        if not same or before.processes != now.processes:
            logger.warning(
                "step %d was made by %d process(es) with batches of %d each, and here are %d with %d: %s",
                start,
                before.processes,
                before.batch_size,
                now.processes,
                now.batch_size,
                "noise and dropout are others" if same else "the next frames are the same, but not their batches",
            )
        self.learner.load(folder, now.batches, self.window, self.config.seed)

    def _counts(self, step: int) -> Counts:
        return Counts(
            step=step,
            processes=self.world.size,
            batch_size=self.config.batch_size,
            grad_accum_steps=self.batches_per_step,
            origin=self.sampler.origin,
            parallelism=layout(self.config.parallelism, self.world.size),
        )

    def _batches(self, start: int) -> Generator[Batch]:
        config, policy = self.config, as_recorded(self.learner.policy.config, self.config.rename_map)
        wanted = config.dataset.image_transforms
        as_bytes = torch.device(self.learner.device).type != "cpu"
        transforms = ImageTransforms(wanted) if wanted.enable else None
        read = BatchReader(self.dataset, policy, transforms, seed=config.seed, as_bytes=as_bytes)
        ahead = config.prefetch_factor if policy.image_features and config.num_workers else 0
        first, stop = start * self.batches_per_step, config.steps * self.batches_per_step
        part = {"rank": self.world.rank, "ranks": self.world.size}
        return batches(self.sampler, read, first, stop, ahead=ahead, threads=config.num_workers, **part)

    def _update(self, step: int, source: Iterator[Batch]) -> None:
        """One step of the optimiser. Nothing here waits for the device."""
        learner, precision, parts = self.learner, self.learner.precision, self.batches_per_step
        total: Tensor | None = None
        waited = 0.0
        for part in range(parts):
            asked = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - asked
            with self.shared.part(last=part == parts - 1):
                with precision.autocast():
                    loss, _ = self.forward(learner.preprocessor(scaled(batch, learner.device)))
                share = self._share((step - 1) * parts + part)
                loss = loss * share if share != 1 else loss
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

    def _share(self, batch: int) -> float:
        """What the loss of this process's part of a batch weighs against that of a part of the mean size."""
        return self.sampler.part(batch, self.world.rank, self.world.size)[1] if self.world.size > 1 else 1.0

    def _due(self, step: int) -> bool:
        """Whether this step has a checkpoint."""
        every = self.config.save_freq if self.config.save_checkpoint else 0
        return (every > 0 and step % every == 0) or step == self.config.steps or self._wanted(step)

    def _looks_at(self, step: int) -> bool:
        """Whether this step looks at the held-out episodes."""
        every = self.config.eval_steps
        return self.held_out is not None and (self._due(step) or (every > 0 and step % every == 0))

    def _make_up(self, step: int, interrupt: Interrupt) -> None:
        """Do what was to be done with the checkpoint of this step, and was interrupted."""
        if self._looks_at(step) and step not in self.looks.losses:
            self._look(step, interrupt)
            if self.looks.best(self.run.checkpoints()) == step and self.world.is_main:
                self.run.name_best(step)
        self._hand_out(step, interrupt)

    def _look(self, step: int, interrupt: Interrupt) -> None:
        assert self.held_out is not None
        self._check_finite()
        loss = self.held_out.loss(self.learner, lambda: self._told(interrupt))
        if loss is None:
            return
        self.looks.add(step, loss, write=self.world.is_main)
        self._report(step, {"eval_loss": loss})

    def _told(self, interrupt: Interrupt) -> bool:
        """Whether any process was asked to end; all of them are to call this."""
        return self.world.greatest(interrupt.signal or 0) > 0

    def _report(self, step: int, metrics: dict[str, float]) -> None:
        if self.world.is_main:
            for report in self.reports:
                report(step, metrics)

    def _log(self, step: int, bar: "tqdm[Never]") -> None:
        self._check_finite()
        metrics = self.window.means(self.learner.optimizer.param_groups[0]["lr"], self.world)
        if self.world.is_main:
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
        self._report(step, metrics)
        self.window.clear()

    def _save(self, step: int) -> None:
        """Have the checkpoint written; a copy is all that the training waits for."""
        self._check_finite()
        snapshot = Snapshot.of(self.learner, self.window, self._counts(step))
        if not self.world.is_main:
            return
        best = self.looks.best

        def write() -> None:
            write_checkpoint(self.run, self.config, self.learner, self.identity, snapshot)
            if best(self.run.checkpoints()) == step:
                self.run.name_best(step)
            self.run.keep(self.config.keep_checkpoints)

        self.writer.write(write)

    def _wanted(self, step: int) -> bool:
        return self.on_checkpoint is not None and step % self.on_checkpoint.every == 0

    def _hand_out(self, step: int, interrupt: Interrupt) -> None:
        """Have done what is to be done with the checkpoint of this step, if anything."""
        if self.on_checkpoint is None or not self._wanted(step) or self._told(interrupt):
            return
        do = self.on_checkpoint.do
        average = self.learner.average is not None and self.config.ema.use_for_eval

        def work() -> dict[str, float]:
            self.writer.wait()
            return do(step, self.run.checkpoint(step) / (AVERAGE if average else PRODUCT))

        with torch.random.fork_rng():
            self._report(step, self.world.on_main(work))

    def _check_finite(self) -> None:
        """Raise OpsError when a loss or a gradient since the last look was no number; the last checkpoint is good."""
        step = self.window.first_bad_step(self.world)
        if not step:
            return
        first = (step - 1) * self.batches_per_step
        rows = [row for part in range(self.batches_per_step) for row in self.sampler.batch(first + part).tolist()]
        ends = self.dataset.episode_bounds[1]
        episodes = sorted({int(self.dataset.episodes[(ends <= row).sum()]) for row in rows})
        error = OpsError(
            "training has diverged: the loss or its gradient is no number any more",
            field="loss",
            found=f"at step {step}, whose batch has frames of the episodes {', '.join(map(str, episodes[:10]))}"
            + (f" and {len(episodes) - 10} more" if len(episodes) > 10 else ""),
            fix="lower policy.optimizer_lr, and look at these episodes with `lerobot-ops validate`; the last "
            "checkpoint is from before",
        )
        with self.world.together():
            raise error

"""What a training works on: a policy with its processors, its optimiser, and what goes with them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.errors import ConfigError, DatasetError
from lerobot_ops.policies.checkpoint import restore, stored_weights
from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.policies.device import best_device
from lerobot_ops.policies.policy import Policy, make_processors
from lerobot_ops.policies.pretrained import first_policy
from lerobot_ops.processors.pipeline import Pipeline
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.data import training_stats
from lerobot_ops.training.distributed import NO_FP16, World, reseed
from lerobot_ops.training.ema import WeightAverage
from lerobot_ops.training.log import Window
from lerobot_ops.training.optimizer import make_optimizer
from lerobot_ops.training.precision import Precision, default_precision
from lerobot_ops.training.run_directory import AVERAGE, PRODUCT, STATE
from lerobot_ops.training.schedulers import make_scheduler
from lerobot_ops.training.sharding import part_like, shard
from lerobot_ops.training.state import load_state


@dataclass(frozen=True)
class Learner:
    """What a training works on."""

    policy: Policy
    preprocessor: Pipeline
    postprocessor: Pipeline
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR | None
    """Sets the optimiser's learning rates, where there is a schedule."""
    grad_clip_norm: float
    precision: Precision
    average: WeightAverage | None
    device: str
    world: World
    """The processes that share the training."""

    def load(self, checkpoint: Path, batches: int, window: Window, seed: int) -> None:
        """Go on from a checkpoint; `batches` have been learned from by then."""
        restore(self.policy, checkpoint / PRODUCT)
        load_state(checkpoint / STATE, self, window, seed)
        if self.average is not None:
            stored = stored_weights(checkpoint / AVERAGE)
            self.average.load({name: part_like(stored[name], own) for name, own in self.average.weights.items()})
        self.policy.resume(batches)


def make_learner(
    config: TrainConfig, policy_config: PolicyConfig, dataset: LeRobotDataset, world: World | None = None
) -> Learner:
    """A fresh policy with all that goes with it, the same in every process; raises what is wrong with `config`."""
    world = world or World()
    device = best_device(policy_config.device)
    policy_config = policy_config.model_copy(update={"device": device})
    try:
        pre, post = make_processors(policy_config, training_stats(dataset, config), device, config.rename_map)
    except ValueError as error:
        raise DatasetError(str(error), file=config.dataset.root / "meta/stats.json") from None
    precision = config.accelerator.mixed_precision or default_precision(policy_config.use_amp, device)
    if precision == "fp16" and world.sharded:
        raise ConfigError(NO_FP16, field="policy.use_amp", found=True, fix="--accelerator.mixed_precision=bf16")
    with world.main_first():
        policy = first_policy(policy_config, config.peft).to(device).train()
    if policy.adapter is not None and world.sharded:
        raise ConfigError("an adapter is too small to be sharded", field="peft", fix="--parallelism.dp_shard=1")
    if world.mesh is not None:
        shard(policy, world.mesh)
    preset = config.use_policy_training_preset
    chosen = policy_config.optimizer() if preset else config.optimizer
    schedule = policy_config.scheduler() if preset else config.scheduler
    assert chosen is not None  # by TrainConfig
    optimizer = make_optimizer(policy, chosen)
    reseed(world, config.seed)
    return Learner(
        policy=policy,
        preprocessor=pre,
        postprocessor=post,
        optimizer=optimizer,
        scheduler=None if schedule is None else make_scheduler(optimizer, schedule, config.steps),
        grad_clip_norm=chosen.grad_clip_norm,
        precision=Precision(precision, device),
        average=WeightAverage(config.ema, policy) if config.ema.enable else None,
        device=device,
        world=world,
    )

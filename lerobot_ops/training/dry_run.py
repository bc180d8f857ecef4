"""What a training would be, without training: its configuration, size, memory, and one batch that went through it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lerobot_ops.processors.steps import Batch
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.data import BatchReader, as_recorded, open_dataset, scaled
from lerobot_ops.training.learner import Learner, make_learner
from lerobot_ops.training.sampler import EpisodeAwareSampler


@dataclass(frozen=True)
class DryRun:
    """What was found; as text it is for people."""

    config: dict[str, Any]
    """Complete, with the features of the dataset."""
    parameters: int
    learned: int
    """Those of them that are trained."""
    episodes: int
    frames: int
    epochs: float
    """How often the training would see every frame."""
    batch: dict[str, tuple[int, ...]]
    """Shapes of what the policy gets."""
    loss: float
    """Of this batch, with fresh weights."""
    memory: dict[str, int]
    """Bytes by what they are for."""

    def __str__(self) -> str:
        shapes = [f"  {name}: {shape}" for name, shape in self.batch.items()]
        memory = [f"  {name}: {size / 2**20:,.0f} MiB" for name, size in self.memory.items()]
        return "\n".join(
            [
                *(f"{name}: {value}" for name, value in _flat(self.config).items()),
                "",
                f"parameters: {self.parameters:,}, {self.learned:,} of them trained",
                f"dataset: {self.episodes} episodes, {self.frames:,} frames; {self.epochs:.1f} epochs",
                "a batch:",
                *shapes,
                f"its loss with fresh weights: {self.loss:.4f}",
                f"memory on the device, about {sum(self.memory.values()) / 2**20:,.0f} MiB:",
                *memory,
            ]
        )


def dry_run(config: TrainConfig) -> DryRun:
    """Read a batch, and compute its loss and gradients once. Raises what training would raise at its beginning."""
    dataset, policy_config = open_dataset(config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        learner = make_learner(config, policy_config, dataset)
        sampler = EpisodeAwareSampler(
            *dataset.episode_bounds,
            batch_size=config.batch_size,
            seed=config.seed,
            drop_n_last_frames=policy_config.n_last_frames_dropped,
        )
        batch = BatchReader(dataset, as_recorded(policy_config, config.rename_map), seed=config.seed)(sampler.batch(0))
        ready = learner.preprocessor(scaled(batch, learner.device))
        loss, memory = _step(learner, ready)
    every = list(learner.policy.parameters())
    seen = config.steps * config.accelerator.gradient_accumulation.steps
    return DryRun(
        config=config.model_copy(update={"policy": learner.policy.config}).model_dump(mode="json"),
        parameters=sum(parameter.numel() for parameter in every),
        learned=sum(parameter.numel() for parameter in every if parameter.requires_grad),
        episodes=dataset.num_episodes,
        frames=dataset.num_frames,
        epochs=sampler.epochs(seen),
        batch={name: tuple(value.shape) for name, value in ready.items() if isinstance(value, Tensor)},
        loss=loss,
        memory=memory,
    )


def _step(learner: Learner, ready: Batch) -> tuple[float, dict[str, int]]:
    """The loss of a batch, and what a step of the optimiser holds in memory."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), learner.precision.autocast():
        loss, _ = learner.policy(ready)
    weights = {tensor.untyped_storage().data_ptr() for tensor in learner.policy.state_dict().values()}
    loss.backward()
    learner.optimizer.step()
    moments = sum(_bytes(value) for values in learner.optimizer.state.values() for value in values.values())
    memory = {
        "weights": sum(map(_bytes, learner.policy.state_dict().values())),
        "gradients": sum(_bytes(p.grad) for p in learner.policy.parameters() if p.grad is not None),
        "optimiser": moments,
        "activations": sum(size for place, size in kept.items() if place not in weights),
        "batch": sum(map(_bytes, ready.values())),
    }
    if learner.average is not None:
        memory["average of the weights"] = memory["weights"]
    return loss.item(), memory


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names, which are the command line's."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat

"""Batches of a dataset for a policy: its features as the policy needs them, checked before training begins.

Vectors are gathered from columns in memory, one indexing operation per feature and batch: no workers, no items. Cameras
are decoded ahead of the training, in threads.
"""

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lerobot_ops.datasets.frame_cache import FrameCache
from lerobot_ops.datasets.info import DatasetInfo, Feature
from lerobot_ops.datasets.loader import read_ahead
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.transforms.transforms import ImageTransforms, row_generator
from lerobot_ops.errors import ConfigError, DatasetError, did_you_mean
from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.processors.features import ENVIRONMENT_STATE, FeatureType, PolicyFeature
from lerobot_ops.processors.steps import Batch
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.sampler import EpisodeAwareSampler

IMAGENET_STATS = {
    "mean": np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1),
    "std": np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1),
}
Stats = dict[str, dict[str, NDArray[Any]]]


def open_dataset(config: TrainConfig) -> tuple[LeRobotDataset, PolicyConfig]:
    """The dataset, and the policy's configuration with the dataset's features filled in.

    Raises DatasetError when the dataset is damaged, and ConfigError when the policy cannot learn from it.
    """
    cache = None if config.dataset.frame_cache is None else FrameCache(config.dataset.frame_cache)
    dataset = LeRobotDataset(
        config.dataset.root, episodes=config.dataset.episodes, tolerance_s=config.tolerance_s, frame_cache=cache
    )
    policy = with_features(config.policy, dataset.info, config.rename_map)
    policy.check_features()
    ImageTransforms(config.dataset.image_transforms)  # raises when there is no such transform
    check_values(dataset, as_recorded(policy, config.rename_map))
    return dataset, policy


def with_features(policy: PolicyConfig, info: DatasetInfo, rename_map: Mapping[str, str] | None = None) -> PolicyConfig:
    """The policy with the dataset's features: outputs always, inputs unless its configuration names them.

    `rename_map` (a name of the dataset -> the policy's) is for observations. Raises ConfigError when the dataset has
    not what the policy reads, or a pretrained policy does other actions than the dataset's.
    """
    names = rename_map or {}
    for old in names:
        if old not in info.features:
            raise ConfigError(
                "the dataset has no such observation",
                field="rename_map",
                found=old,
                fix=did_you_mean(old, [name for name in info.features if name.startswith("observation")]),
            )
    found = {name: feature for name, entry in info.features.items() if (feature := policy_feature(name, entry))}
    features = {names.get(name, name): feature for name, feature in found.items()}
    if len(features) < len(found):
        raise ConfigError("two observations get one name", field="rename_map", found=names)
    outputs = {name: feature for name, feature in features.items() if feature.type == FeatureType.ACTION}
    inputs = {name: f for name, f in features.items() if f.type != FeatureType.ACTION and policy.reads(name, f)}
    for name, wanted in policy.input_features.items():
        if features.get(name) != wanted:
            raise ConfigError(
                "the policy reads a feature that the dataset does not have",
                field=f"policy.input_features.{name}",
                found=f"in the dataset: {features[name].shape}" if name in features else "not in the dataset",
                expected=wanted.shape,
                fix=None
                if name in features
                else f"{did_you_mean(name, features)} --rename_map='{{NAME: {name}}}' names one of these so",
            )
    if policy.pretrained_path and policy.output_features and policy.output_features != outputs:
        raise ConfigError(
            "the pretrained policy does other actions than the dataset's",
            field="policy.path",
            found={name: feature.shape for name, feature in outputs.items()},
            expected={name: feature.shape for name, feature in policy.output_features.items()},
            fix="choose a checkpoint of this robot, or train without --policy.path",
        )
    return policy.model_copy(update={"input_features": policy.input_features or inputs, "output_features": outputs})


def as_recorded(policy: PolicyConfig, rename_map: Mapping[str, str]) -> PolicyConfig:
    """The policy's configuration with the names that the dataset has for its inputs."""
    old = {new: name for name, new in rename_map.items()}
    inputs = {old.get(name, name): feature for name, feature in policy.input_features.items()}
    return policy.model_copy(update={"input_features": inputs})


def policy_feature(name: str, feature: Feature) -> PolicyFeature | None:
    """What a dataset's feature is to a policy; None for what is neither observed nor done."""
    if feature.is_camera:
        height, width, channels = feature.size
        return PolicyFeature(type=FeatureType.VISUAL, shape=(channels, height, width))
    if not feature.is_numeric:
        return None
    if name == ENVIRONMENT_STATE:
        return PolicyFeature(type=FeatureType.ENV, shape=feature.shape)
    if name.startswith("observation"):
        return PolicyFeature(type=FeatureType.STATE, shape=feature.shape)
    return PolicyFeature(type=FeatureType.ACTION, shape=feature.shape) if name.startswith("action") else None


def check_values(dataset: LeRobotDataset, policy: PolicyConfig) -> None:
    """Raise DatasetError when there is nothing to learn from, or a number that is none (NaN, infinite)."""
    first, last = dataset.episode_bounds
    if not len(first) or (last - first).max() <= policy.n_last_frames_dropped:
        raise DatasetError("the dataset has no frames to learn from", file=dataset.root)
    if not np.array_equal(dataset.column("episode_index"), np.repeat(dataset.episodes, last - first)):
        raise DatasetError(
            "the data files and the episodes table disagree on which frame belongs to which episode",
            file=dataset.root,
            fix=f"see `lerobot-ops validate --root={dataset.root}`",
        )
    for name in _vectors(policy):
        column = dataset.column(name)
        bad = np.flatnonzero(~np.isfinite(column).reshape(len(column), -1).all(axis=1))
        if len(bad):
            episode = dataset.episodes[np.searchsorted(last, bad[0], side="right")]
            raise DatasetError(
                "the dataset has values that are no numbers",
                file=dataset.root,
                field=name,
                found=f"NaN or infinite in {len(bad)} frame(s), first in episode {episode}",
                fix=f"see `lerobot-ops validate --root={dataset.root}`, and delete the episodes that it names",
            )
    for name in policy.image_features:
        dataset.frames(name, np.array([0, dataset.num_frames - 1]))  # raises when a video is missing or damaged


def training_stats(dataset: LeRobotDataset, config: TrainConfig) -> Stats:
    """The statistics that the processors normalise by: the dataset's, with ImageNet's for cameras if asked for."""
    stats: Stats = {name: dict(values) for name, values in dataset.stats.items()}
    if config.dataset.use_imagenet_stats:
        for name in dataset.info.camera_keys:
            if dataset.info.features[name].size[2] == 3:
                stats[name] = stats.get(name, {}) | IMAGENET_STATS
    return {config.rename_map.get(name, name): values for name, values in stats.items()}


class BatchReader:
    """Rows (B,) of a dataset -> a batch on the CPU with what the policy needs, and nothing else.

    Vectors are indexed in memory, as float32. Frames of cameras (B, (T,) C, H, W) are decoded, and changed by
    `transforms` as (seed, epoch, row) decide; they are float32 in [0, 1], or with `as_bytes` uint8 where they were
    decoded to that (see `scaled`), for a device that they are to be copied to.
    """

    def __init__(
        self,
        dataset: LeRobotDataset,
        policy: PolicyConfig,
        transforms: ImageTransforms | None = None,
        *,
        seed: int = 0,
        as_bytes: bool = False,
    ) -> None:
        features = {**policy.input_features, **policy.output_features}
        self.dataset, self.cameras = dataset, list(policy.image_features)
        self.transforms, self.seed, self.as_bytes = transforms, seed, as_bytes
        self.columns = {
            name: dataset.column(name).astype(np.float32, copy=False).reshape(-1, *features[name].shape)
            for name in _vectors(policy)
        }
        self.tasks = dataset.column("task_index").reshape(-1) if policy.tokenizer else None
        self.first, self.last = dataset.episode_bounds
        self.offsets: dict[str, NDArray[np.int64]] = {
            name: np.asarray(policy.action_delta_indices) for name in policy.output_features
        }
        if policy.observation_delta_indices is not None:
            past = np.asarray(policy.observation_delta_indices)
            self.offsets |= dict.fromkeys(policy.input_features, past)

    def __call__(self, rows: NDArray[np.int64], epoch: int = 0) -> Batch:
        episode = np.searchsorted(self.last, rows, side="right")
        first, last = self.first[episode, None], self.last[episode, None]
        batch: Batch = {}
        for name in (*self.columns, *self.cameras):
            at = rows
            if name in self.offsets:
                wanted = rows[:, None] + self.offsets[name]
                at = np.clip(wanted, first, last - 1)  # a window repeats the episode's edge, and says so
                batch[f"{name}_is_pad"] = torch.from_numpy(at != wanted)
            if name in self.columns:
                batch[name] = torch.from_numpy(self.columns[name][at])
            else:
                batch[name] = self._frames(name, at, rows, epoch)
        if self.tasks is not None:
            batch["task"] = [self.dataset.tasks[task] for task in self.tasks[rows].tolist()]
        return pinned(batch) if self.as_bytes and torch.cuda.is_available() else batch

    def _frames(self, name: str, at: NDArray[np.int64], rows: NDArray[np.int64], epoch: int) -> torch.Tensor:
        frames = torch.from_numpy(self.dataset.frames(name, at, scaled=not self.as_bytes))
        if self.transforms is not None and not self.dataset.features[name].is_depth:
            for frame, row in zip(frames, rows.tolist(), strict=True):
                frame.copy_(self.transforms(frame, row_generator(self.seed, epoch, row, name)))
        return frames


def pinned(batch: Batch) -> Batch:
    """A batch in memory that a GPU copies from while the processor goes on; for the threads that read ahead."""
    return {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def scaled(batch: Batch, device: str | torch.device) -> Batch:
    """A batch with its bytes moved to `device` and there scaled to [0, 1]; a quarter of float32 is copied."""
    return {
        name: value.to(device, non_blocking=True).to(torch.float32) / 255
        if isinstance(value, torch.Tensor) and value.dtype == torch.uint8
        else value
        for name, value in batch.items()
    }


def batches(
    sampler: EpisodeAwareSampler,
    read: BatchReader,
    start: int,
    stop: int,
    *,
    ahead: int,
    threads: int = 1,
    rank: int = 0,
    ranks: int = 1,
) -> Generator[Batch]:
    """The batches `start` to `stop`; with `ahead` they are read that far in advance, by `threads`.

    Of `ranks` processes the one numbered `rank` gets its part of each.
    """

    def numbered(step: int) -> Batch:
        return read(sampler.part(step, rank, ranks)[0], sampler.position(step).epoch)

    if ahead:
        yield from read_ahead(numbered, range(start, stop), threads=threads, ahead=ahead)
    else:
        yield from map(numbered, range(start, stop))


def _vectors(policy: PolicyConfig) -> list[str]:
    """The features of the policy that are columns."""
    return [*(name for name in policy.input_features if name not in policy.image_features), *policy.output_features]

"""Batches of a dataset for a policy: its features as the policy needs them, checked before training begins.

Vectors are gathered from columns in memory, one indexing operation per feature and batch. Cameras are decoded by the
reader, ahead of the training in a thread of its own.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lerobot_ops.datasets.info import DatasetInfo, Feature, load_info
from lerobot_ops.datasets.reader import LeRobotDataset
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
AHEAD = 4
"""Batches that are decoded before they are needed."""

Stats = dict[str, dict[str, NDArray[Any]]]
ReadBatch = Callable[[NDArray[np.int64]], Batch]


def open_dataset(config: TrainConfig) -> tuple[LeRobotDataset, PolicyConfig]:
    """The dataset with the policy's time windows, and the policy's configuration with its features filled in.

    Raises DatasetError when the dataset is damaged, and ConfigError when the policy cannot learn from it.
    """
    root = config.dataset.root
    info = load_info(root)
    policy = with_features(config.policy, info)
    policy.check_features()
    windows = {name: [i / info.fps for i in policy.action_delta_indices] for name in policy.output_features}
    if policy.observation_delta_indices is not None:
        past = [i / info.fps for i in policy.observation_delta_indices]
        windows |= dict.fromkeys(policy.input_features, past)
    episodes = None if config.dataset.episodes is None else sorted(set(config.dataset.episodes))
    dataset = LeRobotDataset(root, episodes=episodes, delta_timestamps=windows, tolerance_s=config.tolerance_s)
    check_values(dataset, policy)
    return dataset, policy


def with_features(policy: PolicyConfig, info: DatasetInfo) -> PolicyConfig:
    """The policy with the dataset's features: outputs always, inputs unless its configuration names them."""
    features = {name: found for name, entry in info.features.items() if (found := policy_feature(name, entry))}
    outputs = {name: feature for name, feature in features.items() if feature.type == FeatureType.ACTION}
    inputs = {name: f for name, f in features.items() if f.type != FeatureType.ACTION and policy.reads(name, f)}
    for name, wanted in policy.input_features.items():
        if features.get(name) != wanted:
            raise ConfigError(
                "the policy reads a feature that the dataset does not have",
                field=f"policy.input_features.{name}",
                found=f"in the dataset: {features[name].shape}" if name in features else "not in the dataset",
                expected=wanted.shape,
                fix=None if name in features else did_you_mean(name, features),
            )
    return policy.model_copy(update={"input_features": policy.input_features or inputs, "output_features": outputs})


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
    if not len(first) or (last - first).max() <= policy.drop_n_last_frames:
        raise DatasetError("the dataset has no frames to learn from", file=dataset.root)
    for name in _vectors(policy):
        values = dataset.column(name)[dataset.frames].reshape(dataset.num_frames, -1)
        bad = dataset.frames[~np.isfinite(values).all(axis=1)]
        if len(bad):
            raise DatasetError(
                "the dataset has values that are no numbers",
                file=dataset.root,
                field=name,
                found=f"NaN or infinite in {len(bad)} frame(s), first in frame {bad[0]}",
                fix=f"see `lerobot-ops validate --root={dataset.root}`, and delete the episodes it names",
            )


def training_stats(dataset: LeRobotDataset, config: TrainConfig) -> Stats:
    """The statistics that the processors normalise by: the dataset's, with ImageNet's for cameras if asked for."""
    stats: Stats = {name: dict(values) for name, values in dataset.stats.items()}
    if config.dataset.use_imagenet_stats:
        for name in dataset.info.camera_keys:
            if dataset.info.features[name].size[2] == 3:
                stats[name] = stats.get(name, {}) | IMAGENET_STATS
    return stats


def batch_reader(dataset: LeRobotDataset, policy: PolicyConfig) -> ReadBatch:
    """A function from rows (B,) of the dataset's tables to a batch with what the policy needs, on the CPU."""
    if policy.image_features:
        return lambda rows: _decoded(dataset.batch(np.searchsorted(dataset.frames, rows)), policy)
    return Gather(dataset, policy)


class Gather:
    """Batches of vectors, out of columns in memory."""

    def __init__(self, dataset: LeRobotDataset, policy: PolicyConfig) -> None:
        features = {**policy.input_features, **policy.output_features}
        self.columns = {
            name: dataset.column(name).astype(np.float32, copy=False).reshape(-1, *features[name].shape)
            for name in _vectors(policy)
        }
        self.first, self.last = dataset.episode_bounds
        self.offsets: dict[str, NDArray[np.int64]] = {
            name: np.asarray(policy.action_delta_indices) for name in policy.output_features
        }
        if policy.observation_delta_indices is not None:
            past = np.asarray(policy.observation_delta_indices)
            self.offsets |= dict.fromkeys(policy.input_features, past)

    def __call__(self, frames: NDArray[np.int64]) -> Batch:
        episode = np.searchsorted(self.last, frames, side="right")
        first, last = self.first[episode, None], self.last[episode, None]
        batch: Batch = {}
        for name, column in self.columns.items():
            if name not in self.offsets:
                batch[name] = torch.from_numpy(column[frames])
                continue
            wanted = frames[:, None] + self.offsets[name]
            inside = np.clip(wanted, first, last - 1)  # the window repeats the episode's edge, and says so
            batch[name] = torch.from_numpy(column[inside])
            batch[f"{name}_is_pad"] = torch.from_numpy(wanted != inside)
        return batch


def batches(sampler: EpisodeAwareSampler, read: ReadBatch, start: int, stop: int, *, ahead: int) -> Generator[Batch]:
    """The batches `start` to `stop`; with `ahead` they are read that far in advance, in a thread."""
    if not ahead:
        for step in range(start, stop):
            yield read(sampler.batch(step))
        return
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for step in range(start, stop):
                if stopped.is_set():
                    return
                put(read(sampler.batch(step)))
        except BaseException as error:  # raised again where the batch is awaited
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _vectors(policy: PolicyConfig) -> list[str]:
    """The features of the policy that are columns."""
    return [*(name for name in policy.input_features if name not in policy.image_features), *policy.output_features]


def _decoded(values: Mapping[str, Any], policy: PolicyConfig) -> Batch:
    """What the reader gave, as tensors; images float32 (B, C, H, W) in [0, 1]."""
    batch: Batch = {}
    for name, feature in {**policy.input_features, **policy.output_features}.items():
        tensor = torch.from_numpy(np.ascontiguousarray(values[name]))
        batch[name] = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
        if name in policy.image_features:
            batch[name] = batch[name].movedim(-1, -3)
        elif feature.shape == (1,):
            batch[name] = batch[name].unsqueeze(-1)  # the reader gives scalars
        if f"{name}_is_pad" in values:
            batch[f"{name}_is_pad"] = torch.from_numpy(np.ascontiguousarray(values[f"{name}_is_pad"]))
    return batch

"""Scaling of observations and actions by the statistics of the dataset, and back.

MEAN_STD is (x - mean) / (std + eps), back x * std + mean; MIN_MAX, QUANTILES (q01, q99) and QUANTILE10 (q10, q90) map
[low, high] to [-1, 1] without clipping, a range of zero counting as eps. The asymmetry of MEAN_STD is LeRobot's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lerobot_ops.processors.features import ACTION, FeatureType, NormalizationMode, PolicyFeature
from lerobot_ops.processors.steps import Batch

_BOUNDS = {
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


class _Scaling:
    """The statistics of the scaled features; the state holds all statistics of the dataset, as LeRobot's does."""

    registry_name: str

    def __init__(
        self,
        features: Mapping[str, PolicyFeature],
        norm_map: Mapping[FeatureType, NormalizationMode],
        stats: Mapping[str, Mapping[str, Any]] | None = None,
        eps: float = 1e-8,
        normalize_observation_keys: list[str] | None = None,
    ) -> None:
        self.features, self.norm_map, self.eps = dict(features), dict(norm_map), eps
        self.observation_keys = normalize_observation_keys
        self._stats = {
            f"{feature}.{name}": self._shaped(feature, torch.as_tensor(np.asarray(value, dtype=np.float32)))
            for feature, values in (stats or {}).items()
            for name, value in values.items()
        }
        self._scales: dict[tuple[str, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        if stats is not None:
            self._require_stats()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "_Scaling":
        fields = dict(config)
        fields["features"] = {name: PolicyFeature.model_validate(value) for name, value in fields["features"].items()}
        fields["norm_map"] = {FeatureType(kind): NormalizationMode(mode) for kind, mode in fields["norm_map"].items()}
        return cls(**fields)

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "eps": self.eps,
            "features": {name: feature.model_dump(mode="json") for name, feature in self.features.items()},
            "norm_map": {str(kind): str(mode) for kind, mode in self.norm_map.items()},
        }
        if self.observation_keys is not None:
            config["normalize_observation_keys"] = self.observation_keys
        return config

    def state(self) -> dict[str, Tensor]:
        return dict(self._stats)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take statistics named `<feature>.<statistic>`; raises ValueError when one that is needed is missing."""
        self._stats = {name: self._shaped(name.rpartition(".")[0], tensor.float()) for name, tensor in state.items()}
        self._scales.clear()
        self._require_stats()

    def _shaped(self, feature: str, tensor: Tensor) -> Tensor:
        """Statistics of a camera are one value a channel: (C,) becomes (C, 1, 1)."""
        visual = feature in self.features and self.features[feature].type == FeatureType.VISUAL
        tensor = tensor.reshape(1) if tensor.ndim == 0 else tensor
        return tensor.reshape(-1, 1, 1).clone() if visual and tensor.ndim == 1 else tensor.contiguous()

    def _mode(self, name: str) -> NormalizationMode:
        excluded = self.observation_keys is not None and name != ACTION and name not in self.observation_keys
        if name not in self.features or excluded:
            return NormalizationMode.IDENTITY
        return self.norm_map.get(self.features[name].type, NormalizationMode.IDENTITY)

    def _require_stats(self) -> None:
        for name, feature in self.features.items():
            mode = self._mode(name)
            for statistic in _BOUNDS.get(mode, () if mode == NormalizationMode.IDENTITY else ("mean", "std")):
                tensor = self._stats.get(f"{name}.{statistic}")
                if tensor is None:
                    raise ValueError(f"the statistics lack {name}.{statistic}, which {mode} needs")
                try:
                    np.broadcast_shapes(tensor.shape, feature.shape)  # torch's own imports sympy
                except ValueError:
                    shapes = f"shape {tuple(tensor.shape)} does not fit the feature's {feature.shape}"
                    raise ValueError(f"{name}.{statistic}: {shapes}") from None

    def _scale(self, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        """(offset, divisor) of MEAN_STD, or (low, range) of the others, on the value's device and in its dtype."""
        key = (name, value.device, value.dtype)
        if key not in self._scales:
            mode = self._mode(name)
            first, second = _BOUNDS.get(mode, ("mean", "std"))
            low = self._stats[f"{name}.{first}"].to(value.device, value.dtype)
            high = self._stats[f"{name}.{second}"].to(value.device, value.dtype)
            if mode in _BOUNDS:
                span = high - low
                high = torch.where(span == 0, torch.full_like(span, self.eps), span)
            self._scales[key] = (low, high)
        return self._scales[key]


class Normalize(_Scaling):
    """Scale the observations, and the action where there is one (in training batches)."""

    registry_name = "normalizer_processor"

    def __call__(self, batch: Batch) -> Batch:
        return {name: self._normalized(name, value) for name, value in batch.items()}

    def _normalized(self, name: str, value: Any) -> Any:
        mode = self._mode(name)
        if mode == NormalizationMode.IDENTITY or not isinstance(value, Tensor):
            return value
        low, span = self._scale(name, value)
        if mode == NormalizationMode.MEAN_STD:
            return (value - low) / (span + self.eps)
        return 2 * (value - low) / span - 1


class Unnormalize(_Scaling):
    """The inverse: from what the policy computes to the units of the dataset."""

    registry_name = "unnormalizer_processor"

    def __call__(self, batch: Batch) -> Batch:
        return {name: self._unnormalized(name, value) for name, value in batch.items()}

    def _unnormalized(self, name: str, value: Any) -> Any:
        mode = self._mode(name)
        if mode == NormalizationMode.IDENTITY or not isinstance(value, Tensor):
            return value
        low, span = self._scale(name, value)
        if mode == NormalizationMode.MEAN_STD:
            return value * span + low
        return (value + 1) / 2 * span + low

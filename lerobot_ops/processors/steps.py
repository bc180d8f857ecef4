"""Processor steps without a state: rename observations, add the batch axis, move to a device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lerobot_ops.processors.features import ACTION, ENVIRONMENT_STATE, STATE

Batch = dict[str, Any]
"""Feature -> tensor, plus `task`: a string or a list of them."""

_PADDING = ("_is_pad", "_padding_mask")
_FLOAT_DTYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
}


class Stateless:
    """What steps that keep no tensors have in common."""

    def config(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if state:
            raise ValueError(f"a step without a state came with one: {', '.join(sorted(state))}")


class RenameObservations(Stateless):
    """Give observations the names that the policy was trained with; their padding masks follow."""

    registry_name = "rename_observations_processor"

    def __init__(self, rename_map: dict[str, str] | None = None) -> None:
        self.rename_map = dict(rename_map or {})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "RenameObservations":
        return cls(**config)

    def config(self) -> dict[str, Any]:
        return {"rename_map": self.rename_map}

    def __call__(self, batch: Batch) -> Batch:
        names = dict(self.rename_map)
        for suffix in _PADDING:
            names |= {old + suffix: new + suffix for old, new in self.rename_map.items()}
        return {names.get(name, name): value for name, value in batch.items()}


class ToBatch(Stateless):
    """Add a leading batch axis of 1 to what has none: vectors, images, indices and the task."""

    registry_name = "to_batch_processor"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ToBatch":
        return cls(**config)

    def __call__(self, batch: Batch) -> Batch:
        return {name: self._batched(name, value) for name, value in batch.items()}

    @staticmethod
    def _batched(name: str, value: Any) -> Any:
        if name == "task" and isinstance(value, str):
            return [value]
        if not isinstance(value, Tensor):
            return value
        vector = name in (ACTION, STATE, ENVIRONMENT_STATE) and value.ndim == 1
        image = name.startswith("observation.image") and value.ndim == 3
        index = name in ("index", "task_index") and value.ndim == 0
        return value.unsqueeze(0) if vector or image or index else value


class ToDevice(Stateless):
    """Move every tensor to a device, and floating-point ones to a dtype if one is given."""

    registry_name = "device_processor"

    def __init__(self, device: str = "cpu", float_dtype: str | None = None) -> None:
        if float_dtype is not None and float_dtype not in _FLOAT_DTYPES:
            raise ValueError(f"float_dtype is one of {', '.join(_FLOAT_DTYPES)}")
        self.device, self.float_dtype = device, float_dtype

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ToDevice":
        return cls(**config)

    def config(self) -> dict[str, Any]:
        return {"device": self.device, "float_dtype": self.float_dtype}

    def __call__(self, batch: Batch) -> Batch:
        return {name: self._moved(value) if isinstance(value, Tensor) else value for name, value in batch.items()}

    def _moved(self, value: Tensor) -> Tensor:
        dtype = _FLOAT_DTYPES.get(self.float_dtype or "") if value.is_floating_point() else None
        return value.to(self.device, dtype, non_blocking=True)

"""Depth cameras: distances as 12-bit levels, the way LeRobot stores them in a grey video.

Format: LeRobotDataset v3.0, `DepthEncoderConfig`. A level is the distance's place between `depth_min` and `depth_max`,
linear or in the logarithm of the distance plus `shift`, so that near distances get more levels than far ones.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np

from lerobot_ops.config import Config

LEVELS = 4096
Unit = Literal["m", "mm"]
_PER_METRE = {"m": 1.0, "mm": 1000.0}


class DepthRange(Config):
    """How distances become levels; LeRobot's names and defaults, in metres."""

    depth_min: float = 0.01
    depth_max: float = 10.0
    shift: float = 3.5
    use_log: bool = True

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """What the `info` block of a depth feature says."""
        names = {name: info[f"video.{name}"] for name in cls.model_fields if info.get(f"video.{name}") is not None}
        return cls(**names)

    def info(self) -> dict[str, Any]:
        """The entries of a depth feature's `info` block."""
        return {f"video.{name}": value for name, value in self.model_dump().items()}

    def levels(self, distances: np.ndarray, unit: Unit) -> np.ndarray:
        """uint16 0 to 4095 of `distances` in `unit`, any shape; those outside of the range are at its ends."""
        scale = _PER_METRE[unit]
        values = np.asarray(distances).astype(np.float32)
        if self.use_log:
            # Distances below minus the shift have no logarithm; they are far outside of the range, at its near end.
            values = np.log(np.maximum(values + self.shift * scale, self.depth_min + self.shift))
        low, high = (self._scaled(end, scale) for end in (self.depth_min, self.depth_max))
        share = (values - low) / (high - low)
        return np.clip(np.rint(share * (LEVELS - 1)), 0, LEVELS - 1).astype(np.uint16)

    def distances(self, levels: np.ndarray, unit: Unit = "mm") -> np.ndarray:
        """float32 distances in `unit` that `levels` stand for, within the range; millimetres are whole."""
        return self.table(unit)[np.asarray(levels)]

    def table(self, unit: Unit = "mm") -> np.ndarray:
        """float32 [4096]: the distance in `unit` of every level, ascending."""
        low, high = self._scaled(self.depth_min), self._scaled(self.depth_max)
        # In LeRobot's order and precision, because a last bit more or less can be a whole millimetre after rounding.
        values = np.arange(LEVELS, dtype=np.float32) * np.float32((high - low) / (LEVELS - 1)) + np.float32(low)
        if self.use_log:  # the exponential is rounded once, so that it does not depend on the processor
            values = np.exp(values.astype(np.float64)).astype(np.float32) - np.float32(self.shift)
        metres = np.clip(values, np.float32(self.depth_min), np.float32(self.depth_max))
        return metres if unit == "m" else np.rint(metres * np.float32(1000))

    def _scaled(self, metres: float, per_metre: float = 1.0) -> float:
        """A distance in metres on the scale on which levels are equally far apart."""
        return math.log((metres + self.shift) * per_metre) if self.use_log else metres * per_metre

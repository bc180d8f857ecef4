"""Depth cameras: distances as 12-bit levels, the way LeRobot stores them in a grey video.

Format: LeRobotDataset v3.0, `DepthEncoderConfig`. A level is the distance's place between `depth_min` and `depth_max`,
linear or in the logarithm of the distance plus `shift`, so that near distances get more levels than far ones.
"""

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
        metres = np.asarray(distances, np.float64) / _PER_METRE[unit]
        share = (self._scale(metres) - self._scale(self.depth_min)) / self._span()
        return np.clip(np.rint(share * (LEVELS - 1)), 0, LEVELS - 1).astype(np.uint16)

    def distances(self, levels: np.ndarray, unit: Unit = "mm") -> np.ndarray:
        """float32 distances in `unit` that `levels` stand for, within the range."""
        return self._table(unit)[np.asarray(levels)]

    def _table(self, unit: Unit) -> np.ndarray:
        share = np.arange(LEVELS, dtype=np.float32) / (LEVELS - 1)
        scaled = self._scale(self.depth_min) + share * self._span()
        metres = np.exp(scaled) - self.shift if self.use_log else scaled
        return (np.clip(metres, self.depth_min, self.depth_max) * _PER_METRE[unit]).astype(np.float32)

    def _span(self) -> Any:
        return self._scale(self.depth_max) - self._scale(self.depth_min)

    def _scale(self, metres: Any) -> Any:
        if not self.use_log:
            return metres
        return np.log(np.maximum(metres + self.shift, np.finfo(np.float64).tiny))

"""Our test pattern as a camera of LeRobot's: it finds this module as the third-party package lerobot_camera_pattern.

Imported by LeRobot's process alone. As in LeRobot's own cameras a thread reads, and the recorder takes what is newest;
the picture costs less than a device's, and no more than ours.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.cameras.camera import Camera
from lerobot.cameras.configs import CameraConfig


@CameraConfig.register_subclass("pattern")
@dataclass(kw_only=True)
class PatternConfig(CameraConfig):
    seed: int = 0


class Pattern(Camera):
    """Stripes that move at `fps`."""

    def __init__(self, config: PatternConfig) -> None:
        super().__init__(config)
        phase = np.arange(2 * config.width) * (4 * np.pi / config.width)
        colors = np.random.default_rng(config.seed).integers(60, 200, 3)
        row = (colors + 50 * np.sin(phase)[:, None]).astype(np.uint8)
        self._canvas = np.repeat(row[None], config.height, axis=0)
        self._latest = self._picture(0)
        self._thread: threading.Thread | None = None

    @property
    def is_connected(self) -> bool:
        return self._thread is not None

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        return []

    def connect(self, warmup: bool = True) -> None:
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def read(self) -> np.ndarray:
        return self._latest

    def async_read(self, timeout_ms: float = 200) -> np.ndarray:
        return self._latest

    def read_latest(self, max_age_ms: int = 500) -> np.ndarray:
        return self._latest

    def disconnect(self) -> None:
        self._thread = None

    def _picture(self, number: int) -> np.ndarray:
        shift = number * 4 % self.width
        return self._canvas[:, shift : shift + self.width].copy()

    def _work(self) -> None:
        began, number = time.perf_counter(), 0
        while self._thread is not None:
            number += 1
            time.sleep(max(0.0, began + number / self.fps - time.perf_counter()))
            self._latest = self._picture(number)

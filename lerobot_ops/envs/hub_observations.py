"""What a gymnasium environment shows, under the keys that LeRobot gives it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = {"agent_pos": "observation.state", "environment_state": "observation.environment_state"}


def as_lerobot(seen: Any) -> dict[str, NDArray[Any]]:
    """The observation of the one environment in a vector: pictures uint8 (H, W, C), all else float32.

    Source: LeRobot 0.6 `preprocess_observation`: `pixels` becomes observation.image, or observation.images.NAME when it
    is a dictionary, `agent_pos` observation.state, any other NAME observation.NAME. What a dictionary holds within is
    named with dots. An environment that shows no dictionary, which LeRobot cannot read, shows a picture or a state.
    """
    if not isinstance(seen, Mapping):
        value = np.asarray(seen)[0]
        return _pictures(value) if _is_picture(value) else {"observation.state": _numbers(value)}
    found: dict[str, NDArray[Any]] = {}
    for name, value in seen.items():
        if name == "pixels":
            found |= _pictures(value)
        else:
            found |= _named(_NAMES.get(name, f"observation.{name}"), value)
    return found


def picture(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture (H, W, C) within a black square, uint8 (size, size, 3)."""
    frame = np.asarray(frame, np.uint8)[..., :3]
    height, width = frame.shape[:2]
    scale = size / max(height, width)
    rows = np.minimum((np.arange(max(1, round(height * scale))) / scale).astype(int), height - 1)
    columns = np.minimum((np.arange(max(1, round(width * scale))) / scale).astype(int), width - 1)
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - len(rows)) // 2, (size - len(columns)) // 2
    square[top : top + len(rows), left : left + len(columns)] = frame[rows][:, columns]
    return square


def _pictures(pixels: Any) -> dict[str, NDArray[Any]]:
    if isinstance(pixels, Mapping):
        return {f"observation.images.{name}": np.asarray(value)[0] for name, value in pixels.items()}
    value = np.asarray(pixels)
    return {"observation.image": value[0] if value.ndim == 4 else value}


def _named(key: str, value: Any) -> dict[str, NDArray[Any]]:
    if isinstance(value, Mapping):
        return {name: part for inner, entry in value.items() for name, part in _named(f"{key}.{inner}", entry).items()}
    return {key: _numbers(np.asarray(value)[0])}


def _numbers(value: Any) -> NDArray[np.float32]:
    return np.atleast_1d(np.asarray(value, np.float32))


def _is_picture(value: NDArray[Any]) -> bool:
    return value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] in (1, 3, 4)

"""One frame on its way into a dataset: every value checked against its feature, pictures brought into one form."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.language import EVENTS, PERSISTENT, language_rows
from lerobot_ops.errors import DatasetError

DEPTH_UNITS = {"uint16": "mm", "float32": "m"}
"""What a depth camera's values are in, by their dtype."""


def check_features(features: Mapping[str, Feature]) -> None:
    """Raise DatasetError when a frame of these features could not be written."""
    for name, feature in features.items():
        if feature.dtype == "language" and name not in (PERSISTENT, EVENTS):
            raise DatasetError("this feature cannot be written", field=name, expected=f"{PERSISTENT} or {EVENTS}")
        if feature.dtype in ("string", "language") and feature.shape != (1,):
            raise DatasetError("this feature cannot be written", field=name, found=f"{feature.dtype}{feature.shape}")
        if feature.is_numeric and len(feature.shape) > 5:
            raise DatasetError("an array has at most 5 dimensions", field=name, found=f"shape {feature.shape}")
        channels = 1 if feature.is_depth else 3
        if feature.is_camera and not _is_picture(feature, channels):
            kind = "depth frames of shape (height, width, 1)" if channels == 1 else "frames of shape (height, width, 3)"
            raise DatasetError(
                "this camera cannot be written", field=name, found=f"shape {feature.shape}", expected=kind
            )


def checked_frame(frame: Mapping[str, Any], features: Mapping[str, Feature]) -> dict[str, Any]:
    """The values of a frame in the form in which they are kept, sharing no memory with the caller's.

    Numbers are arrays of exactly the declared dtype and shape (scalars: (1,)), finite; torch tensors on the CPU do as
    well. A colour picture may be uint8 or float in [0, 1], height or channels first, an array, a tensor or a PIL image,
    and becomes uint8 [height, width, 3]. Depth is uint16 millimetres or float32 metres, [height, width] with or without
    a channel, and becomes [height, width]. Language events may be left out, persistent language is given with the
    episode. Raises DatasetError naming the field that is missing, unknown or wrong.
    """
    needed = {name for name, feature in features.items() if feature.dtype != "language"} | {"task"}
    _check_names(frame, needed, needed | {name for name in features if name == EVENTS})
    if not isinstance(frame["task"], str) or not frame["task"]:
        raise DatasetError("a frame has no task", field="task", found=repr(frame["task"]), expected="a sentence")
    cameras = [name for name, feature in features.items() if feature.is_camera]
    values: dict[str, Any] = {"task": frame["task"]}
    for name, feature in features.items():
        if name == EVENTS:
            values[name] = language_rows(name, frame.get(name, []), cameras)
        elif feature.dtype != "language":
            values[name] = _checked(name, frame[name], feature)
    return values


def _check_names(frame: Mapping[str, Any], needed: set[str], known: set[str]) -> None:
    lacking, unknown = sorted(needed - frame.keys()), sorted(frame.keys() - known)
    if lacking or unknown:
        problem = "a frame lacks a feature" if lacking else "a frame has a feature that the dataset has not"
        raise DatasetError(problem, field=(lacking or unknown)[0], expected=", ".join(sorted(known)))


def _checked(name: str, value: Any, feature: Feature) -> Any:
    if feature.dtype == "string":
        if not isinstance(value, str):
            raise _bad(name, type(value).__name__, "str")
        return value
    owned = False
    if not isinstance(value, np.ndarray | np.generic) and _is_array_like(value):
        value, owned = np.array(value), True  # a tensor or a PIL image
    if not isinstance(value, np.ndarray):
        raise _bad(name, type(value).__name__, _wanted(feature))
    if feature.is_camera:
        picture = _depth(name, value, feature) if feature.is_depth else _colour(name, value, feature)
        return picture if owned or not np.shares_memory(picture, value) else picture.copy()
    if value.dtype != feature.dtype or value.shape != feature.shape:
        raise _bad(name, f"{value.dtype}{value.shape}", _wanted(feature))
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise _bad(name, value.tolist(), "finite numbers")
    return value if owned else value.copy()


def _colour(name: str, value: np.ndarray, feature: Feature) -> np.ndarray:
    if value.shape == (3, *feature.shape[:2]) and value.shape != feature.shape:
        value = value.transpose(1, 2, 0)
    if value.shape != feature.shape or (value.dtype != np.uint8 and value.dtype.kind != "f"):
        raise _bad(name, f"{value.dtype}{value.shape}", _wanted(feature))
    if value.dtype == np.uint8:
        return value
    if not (np.nanmin(value) >= 0 and np.nanmax(value) <= 1) or np.isnan(value).any():
        raise _bad(name, f"{value.dtype} from {value.min():g} to {value.max():g}", "floats from 0 to 1, or uint8")
    return np.rint(value * 255).astype(np.uint8)


def _depth(name: str, value: np.ndarray, feature: Feature) -> np.ndarray:
    height, width, _ = feature.size
    unit = (feature.info or {}).get("depth_unit")
    known = [dtype for dtype, own in DEPTH_UNITS.items() if unit in (None, own)]
    if value.shape not in ((height, width), (height, width, 1), (1, height, width)) or value.dtype.name not in known:
        expected = " or ".join(f"{dtype} ({DEPTH_UNITS[dtype]})" for dtype in known)
        raise _bad(name, f"{value.dtype}{value.shape}", f"{expected}, shape {(height, width)}")
    return value.reshape(height, width)


def _is_picture(feature: Feature, channels: int) -> bool:
    if channels == 1 and len(feature.shape) == 2:
        return True
    return len(feature.shape) == 3 and feature.shape[2] == channels


def _is_array_like(value: object) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _wanted(feature: Feature) -> str:
    return f"{'uint8' if feature.is_camera else feature.dtype}{feature.shape}"


def _bad(name: str, found: object, expected: str) -> DatasetError:
    return DatasetError("a frame has a bad value", field=name, found=found, expected=expected)

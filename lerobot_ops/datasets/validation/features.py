"""Checks of language columns and of depth cameras: what the format says about them beyond other features."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.info import INFO_PATH, Feature
from lerobot_ops.datasets.language import PERSISTENT, STYLES, language_rows, language_type
from lerobot_ops.datasets.validation.checks import Finding, Severity, counted, finding
from lerobot_ops.datasets.validation.evidence import DataFile, Evidence
from lerobot_ops.errors import DatasetError

_MEND = "correct what annotated the dataset, and annotate it again"
_DEPTH_PIXELS = "gray12le"


def check_features(evidence: Evidence) -> Iterator[Finding]:
    """All checks of this module."""
    for name, feature in evidence.info.features.items():
        if feature.dtype == "language":
            yield from _language(evidence, name, feature)
        if feature.is_camera and feature.is_depth:
            yield from _depth(name, feature)


def _language(evidence: Evidence, name: str, feature: Feature) -> Iterator[Finding]:
    place = f"{INFO_PATH} features.{name}"
    if name not in STYLES or feature.shape != (1,):
        message = f"the language feature {name!r} has shape {list(feature.shape)}, expected {' or '.join(STYLES)}, [1]"
        yield finding("language", message, place=place, fix="declare it as the format says, or remove it")
        return
    for file in evidence.files:
        if name in file.table.column_names:
            yield from _language_column(evidence, name, file)


def _language_column(evidence: Evidence, name: str, file: DataFile) -> Iterator[Finding]:
    column = file.table.column(name).combine_chunks()
    place = f"{file.name} {name}"
    expected = {field.name for field in language_type(name).value_type}
    if not pa.types.is_list(column.type) or not pa.types.is_struct(column.type.value_type):
        message = f"column {name!r} holds {column.type}, expected a list of rows with {', '.join(sorted(expected))}"
        yield finding("language", message, place=place, fix=_MEND)
        return
    lacking = expected - {field.name for field in column.type.value_type}
    if lacking:
        message = f"the rows of {name!r} have no {', '.join(sorted(lacking))}"
        yield finding("language", message, place=place, fix=_MEND)
        return
    lengths = column.value_lengths().fill_null(0).to_numpy()
    differing: list[int] = []
    wrong: list[tuple[int, str]] = []
    for number, (begin, end) in sorted(evidence.runs.items()):
        first, last = begin - file.first, end - file.first
        if first < 0 or last > file.table.num_rows:
            continue
        rows = [first] if name == PERSISTENT else (first + np.flatnonzero(lengths[first:last])).tolist()
        problem = next((found for row in rows if (found := _cell_problem(evidence, name, column[row]))), None)
        if problem:
            wrong.append((number, problem))
        if name == PERSISTENT and not _is_same(column.slice(first, last - first)):
            differing.append(number)
    if wrong:
        message = f"{name!r} of episode {wrong[0][0]}: {wrong[0][1]} ({counted(len(wrong), 'episode')} in all)"
        yield finding("language", message, place=place, fix=_MEND, episodes=[number for number, _ in wrong])
    if differing:
        message = f"{name!r} is not the same on all frames of {counted(len(differing), 'episode')}"
        yield finding("language", message, place=place, fix=_MEND, episodes=differing, severity="warning")


def _cell_problem(evidence: Evidence, name: str, cell: pa.Scalar) -> str | None:
    """What is wrong with what is said at a frame."""
    try:
        rows: list[dict[str, Any]] = cell.as_py() or []
        for row in rows:
            calls = row.get("tool_calls")
            row["tool_calls"] = None if calls is None else [json.loads(c) if isinstance(c, str) else c for c in calls]
        language_rows(name, rows, evidence.info.camera_keys)
    except (DatasetError, ValueError, TypeError) as error:
        return _sentence(error)
    return None


def _is_same(cells: pa.Array) -> bool:
    """Whether all cells hold the same rows."""
    return len(cells) < 2 or bool(cells.slice(1).equals(cells.slice(0, len(cells) - 1)))


def _depth(name: str, feature: Feature) -> Iterator[Finding]:
    place = f"{INFO_PATH} features.{name}"
    info = feature.info or {}
    if len(feature.shape) == 3 and feature.size[2] != 1:
        message = f"the depth camera {name!r} has shape {list(feature.shape)}, expected one channel"
        yield finding("depth-format", message, place=place, fix="declare [height, width, 1]")
    if feature.dtype != "video":
        return
    pixels = info.get("video.pix_fmt")
    if pixels is not None and pixels != _DEPTH_PIXELS:
        message = f"the depth camera {name!r} is encoded as {pixels}, which does not keep 12 bits of {_DEPTH_PIXELS}"
        yield finding("depth-format", message, place=place, fix="record it again: the distances cannot be restored")
    ends = [info.get(f"video.{end}") for end in ("depth_min", "depth_max")]
    fields = [*(f"video.{field}" for field in ("depth_min", "depth_max", "shift", "use_log")), "depth_unit"]
    lacking = [field for field in fields if info.get(field) is None]
    if lacking:
        message = f"nothing says {', '.join(lacking)} of the depth camera {name!r}: readers take LeRobot's defaults"
        fix = "write what the camera was recorded with"
        yield finding("depth-format", message, place=place, fix=fix, severity="warning")
    severity: Severity = "error"
    if all(isinstance(end, int | float) for end in ends) and not ends[0] < ends[1]:  # type: ignore[operator]
        message = f"the depth camera {name!r} has a range from {ends[0]} to {ends[1]}"
        yield finding("depth-format", message, place=place, fix="write what it was recorded with", severity=severity)
    if info.get("depth_unit") not in (None, "m", "mm"):
        message = f"the distances of {name!r} are in {info['depth_unit']!r}, expected m or mm"
        yield finding("depth-format", message, place=place, fix="write m or mm", severity=severity)


def _sentence(error: Exception) -> str:
    if isinstance(error, DatasetError):
        return f"{error.problem} ({error.field}: {error.found})"
    return str(error).splitlines()[0] if str(error) else type(error).__name__

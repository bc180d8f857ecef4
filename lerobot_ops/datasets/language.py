"""Language columns: what is said about an episode and at its frames, stored on the rows of the data parquet.

Format: LeRobotDataset v3.0. `language_persistent` holds what stays true from a moment on (subtask, plan, memory,
motion, other wordings of the task) and is the same list on every frame of an episode; `language_events` holds what
happens at one frame (interjections, questions about a picture, tool calls).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from lerobot_ops.errors import DatasetError, did_you_mean

PERSISTENT, EVENTS = "language_persistent", "language_events"
STYLES: dict[str, tuple[str | None, ...]] = {
    PERSISTENT: ("subtask", "plan", "memory", "motion", "task_aug"),
    EVENTS: ("interjection", "vqa", "trace", None),
}
"""By column: the styles that its rows may have; an event without a style is a tool call."""
OF_A_CAMERA = frozenset({"vqa", "trace"})
"""Styles that speak about the picture of one camera, which they name."""

Row = Mapping[str, Any]


def language_type(name: str) -> pa.DataType:
    """The arrow type of a language column; raises DatasetError for another name than the format's two."""
    _check_name(name)
    fields: list[pa.Field] = [pa.field(field, pa.string()) for field in ("role", "content", "style")]
    if name == PERSISTENT:
        fields.append(pa.field("timestamp", pa.float32()))
    fields += [pa.field("camera", pa.string()), pa.field("tool_calls", pa.list_(pa.json_()))]
    return pa.list_(pa.struct(fields))


def language_feature(name: str) -> dict[str, Any]:
    """The entry of a language column in the `huggingface` metadata of a data parquet."""
    described: dict[str, Any] = {}
    for field in language_type(name).value_type:
        value = {"dtype": "float32" if field.name == "timestamp" else "string", "_type": "Value"}
        described[field.name] = {"feature": {"_type": "Json"}, "_type": "List"} if field.name == "tool_calls" else value
    return {"feature": described, "_type": "List"}


def language_rows(name: str, rows: object, cameras: Collection[str]) -> list[dict[str, Any]]:
    """The rows of one cell, checked and with every field; fields that are left out are null.

    A row is a mapping: `role` (needed), `content`, `style`, `camera`, `tool_calls` (JSON values), and for persistent
    ones `timestamp`, the second of the episode from which it holds. Raises DatasetError naming what is wrong.
    """
    if isinstance(rows, str | Mapping) or not isinstance(rows, Sequence):
        raise DatasetError("a language column takes a list of rows", field=name, found=type(rows).__name__)
    return [_checked(name, row, cameras) for row in rows]


def language_array(name: str, cells: Sequence[Sequence[Row]]) -> pa.Array:
    """The column of these cells, as `language_rows` returns them."""
    kind = language_type(name)
    return pa.array(list(cells), _storage(kind)).cast(kind)


def _checked(name: str, row: object, cameras: Collection[str]) -> dict[str, Any]:
    fields = {field.name for field in language_type(name).value_type}
    if not isinstance(row, Mapping) or not row.keys() <= fields:
        found = sorted(row.keys() - fields) if isinstance(row, Mapping) else type(row).__name__
        raise DatasetError("a language row has other fields", field=name, found=found, expected=sorted(fields))
    style, camera = row.get("style"), row.get("camera")
    if not isinstance(row.get("role"), str):
        raise DatasetError("a language row has no role", field=f"{name}.role", found=row.get("role"), expected="a word")
    if style not in STYLES[name]:
        raise DatasetError("a language row has an unknown style", field=name, found=style, expected=STYLES[name])
    if style in OF_A_CAMERA and camera not in cameras:
        raise DatasetError(
            "a language row is about a camera's picture",
            field=f"{name}.camera",
            found=camera,
            fix=did_you_mean(str(camera), cameras),
        )
    if style not in OF_A_CAMERA and camera is not None:
        raise DatasetError("only vqa and trace rows name a camera", field=f"{name}.camera", found=camera)
    made = {field: row.get(field) for field in ("role", "content", "style")}
    if name == PERSISTENT:
        if not isinstance(row.get("timestamp"), int | float):
            raise DatasetError("a persistent row has no timestamp", field=f"{name}.timestamp", expected="seconds")
        made["timestamp"] = float(row["timestamp"])
    calls = row.get("tool_calls")
    return made | {"camera": camera, "tool_calls": None if calls is None else [json.dumps(call) for call in calls]}


def _check_name(name: str) -> None:
    if name not in STYLES:
        raise DatasetError("a language feature has one of two names", field=name, expected=f"{PERSISTENT} or {EVENTS}")


def _storage(kind: pa.DataType) -> pa.DataType:
    """The type that values are given in: arrow builds nested JSON only by a cast from text."""
    fields = [pa.field(f.name, pa.list_(pa.string()) if f.name == "tool_calls" else f.type) for f in kind.value_type]
    return pa.list_(pa.struct(fields))

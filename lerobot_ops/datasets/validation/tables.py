"""Checks of each table by itself: columns, types and values of the data, the episodes and the tasks."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.info import DEFAULT_FEATURES, INFO_PATH, TASKS_PATH, Feature
from lerobot_ops.datasets.tables import arrow_type, read_parquet
from lerobot_ops.datasets.validation.checks import Finding, counted, finding, listed
from lerobot_ops.datasets.validation.evidence import DataFile, Evidence
from lerobot_ops.errors import DatasetError

_REWRITE = "write the column as declared in meta/info.json, or declare it as it is"


def check_tables(evidence: Evidence) -> Iterator[Finding]:
    """All checks of this module."""
    yield from _check_features(evidence)
    for file in evidence.files:
        yield from _check_columns(evidence, file)
        yield from _check_values(evidence, file)
    yield from _check_episodes(evidence)
    yield from _check_tasks(evidence)


def _check_features(evidence: Evidence) -> Iterator[Finding]:
    features = evidence.info.features
    for name, default in DEFAULT_FEATURES.items():
        feature = features.get(name)
        if feature is None or (feature.dtype, feature.shape) != (default.dtype, default.shape):
            found = "is not declared" if feature is None else f"is declared {feature.dtype}{list(feature.shape)}"
            message = f"the feature {name!r} {found}, expected {default.dtype}{list(default.shape)}"
            yield finding("info", message, place=f"{INFO_PATH} features.{name}", fix="declare it as expected")
    for name, feature in features.items():
        if feature.dtype == "string" and feature.shape != (1,):
            message = f"the text feature {name!r} has shape {list(feature.shape)}, expected [1]"
            yield finding("info", message, place=f"{INFO_PATH} features.{name}", fix="correct the shape")
        if feature.is_camera and len(feature.shape) not in (2, 3):
            message = f"the camera {name!r} has shape {list(feature.shape)}, expected [height, width, channels]"
            yield finding("info", message, place=f"{INFO_PATH} features.{name}", fix="correct the shape")


def _check_columns(evidence: Evidence, file: DataFile) -> Iterator[Finding]:
    declared = evidence.info.columns
    schema = file.table.schema
    images = set(evidence.info.image_keys)
    lacking = [name for name in declared if name not in schema.names and name not in images]
    if lacking:
        message = f"{file.name} lacks {counted(len(lacking), 'declared column')}: {listed(lacking)}"
        yield finding("data-schema", message, place=f"{file.name} {lacking[0]}", fix=_REWRITE)
    extra = [name for name in schema.names if name not in declared]
    if extra:
        message = f"{file.name} has {counted(len(extra), 'column')} that info.json does not declare: {listed(extra)}"
        yield finding("data-schema", message, place=f"{file.name} {extra[0]}", fix=_REWRITE)
    for name, feature in declared.items():
        if name in schema.names and feature.dtype != "language":
            yield from _check_type(file, name, feature)


def _check_type(file: DataFile, name: str, feature: Feature) -> Iterator[Finding]:
    column = file.table.column(name)
    place = f"{file.name} {name}"
    found, expected = _shape_of(column), _expected_shape(feature)
    if found is None or found[0] != expected[0] or (found[1] is not None and found[1] != expected[1]):
        message = f"column {name!r} holds {column.type}, but is declared {feature.dtype}{list(feature.shape)}"
        yield finding("data-schema", message, place=place, fix=_REWRITE)
    elif column.null_count and not feature.is_numeric:
        message = f"column {name!r} is empty in {counted(column.null_count, 'row')}"
        yield finding("data-schema", message, place=place, fix="fill in the values, or delete those episodes")
    elif column.null_count and feature.shape != (1,):
        message = f"column {name!r} has no value in {counted(column.null_count, 'row')}"
        fix = "fill in the values, or delete those episodes"
        yield finding("data-schema", message, place=place, fix=fix, episodes=_episodes(_null_rows(column), file))
    elif column.type != arrow_type(feature) and feature.is_numeric and len(feature.shape) == 1:
        message = f"column {name!r} is stored as {column.type}: LeRobot reads it, other readers infer another type"
        yield finding("data-schema", message, place=place, fix="any edit writes it as declared", severity="info")


def _null_rows(column: pa.ChunkedArray) -> np.ndarray:
    """The rows of a column that hold null."""
    return np.flatnonzero(column.is_null().to_numpy())


def _shape_of(column: pa.ChunkedArray) -> tuple[pa.DataType, tuple[int, ...] | None] | None:
    """The value type of a column and its shape, None where a shape is not the same in all rows or is unknown."""
    array: pa.Array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_struct(array.type) or not pa.types.is_nested(array.type):
        return array.type, (1,)
    shape: list[int] = []
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    while pa.types.is_nested(array.type) and not pa.types.is_struct(array.type):
        if pa.types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
        else:
            lengths = np.unique(array.drop_null().value_lengths().to_numpy())
            if len(lengths) > 1:
                return None
            shape.append(int(lengths[0]) if len(lengths) else 0)
        array = array.flatten()
    return array.type, tuple(shape) if 0 not in shape else None


def _expected_shape(feature: Feature) -> tuple[pa.DataType, tuple[int, ...]]:
    if not feature.is_numeric:
        return arrow_type(feature), (1,)
    value: pa.DataType = arrow_type(feature.model_copy(update={"shape": (1,)}))
    return value, feature.shape


def _check_values(evidence: Evidence, file: DataFile) -> Iterator[Finding]:
    from lerobot_ops.datasets import schemas

    frame = schemas.data_frame(file.table, evidence.info)
    for failure in schemas.failures(schemas.data_schema(evidence.info), frame):
        name = failure.column.split("[")[0]
        feature = evidence.info.features.get(name)
        episodes = _episodes(np.array(failure.rows, np.int64), file)
        place = f"{file.name} {failure.column}"
        kinds = listed(sorted({str(value) for value in failure.values}), 3)
        is_float = feature is not None and np.dtype(feature.dtype).kind == "f"
        if failure.check == "column_in_dataframe" or failure.check.startswith("dtype("):
            continue  # `_check_columns` says so, with the type that was found
        if is_float and failure.check in (schemas.FINITE, "not_nullable"):
            message = f"{failure.column} is {kinds} in {counted(len(failure.rows), 'frame')} of {file.name}"
            fix = "delete these episodes, or mend what recorded them; a policy trained on them becomes NaN"
            yield finding("not-finite", message, place=place, fix=fix, episodes=episodes)
        elif failure.check == "not_nullable":
            message = f"{failure.column} has no value in {counted(len(failure.rows), 'frame')} of {file.name}"
            fix = "fill in the values, or delete those episodes"
            yield finding("data-schema", message, place=place, fix=fix, episodes=episodes)
        else:
            message = f"{failure.column} is {kinds} in {counted(len(failure.rows), 'frame')}, expected {failure.check}"
            yield finding("data-schema", message, place=place, fix=_REWRITE, episodes=episodes)


def _check_episodes(evidence: Evidence) -> Iterator[Finding]:
    from lerobot_ops.datasets import schemas

    table = evidence.episodes
    if table is None:
        return
    place = "meta/episodes"
    fix = "`lerobot-ops repair` makes meta/episodes anew of the data and the videos"
    names = [name for name in table.column_names if not name.startswith("stats/") and not _is_list(table, name)]
    frame = table.select(names).replace_schema_metadata(None).to_pandas()
    for failure in schemas.failures(schemas.episodes_schema(evidence.info), frame):
        where = f"{place} {failure.column}"
        if failure.check == "column_in_dataframe":
            message = f"the episodes table has no column {failure.column!r}"
        elif failure.check.startswith("dtype("):
            message = f"{failure.column} is of type {failure.values[0]!r}, expected {failure.check[7:-2]}"
        elif failure.check == schemas.COUNTS_FROM_0:
            message = (
                f"row {failure.rows[0]} is episode {failure.values[0]}, expected the rows to be episodes 0, 1, 2 …"
            )
        else:
            kinds = listed(sorted({str(value) for value in failure.values}), 3)
            message = f"{failure.column} is {kinds} in {counted(len(failure.rows), 'row')}, expected {failure.check}"
        yield finding("episodes-schema", message, place=where, fix=fix, episodes=failure.rows)
    if "tasks" not in table.column_names:
        message = "the episodes table has no column 'tasks'; LeRobot's conversion of images to video leaves it out"
        yield finding("episodes-schema", message, place=f"{place} tasks", fix=fix, severity="warning")


def _check_tasks(evidence: Evidence) -> Iterator[Finding]:
    from lerobot_ops.datasets import schemas

    if evidence.tasks is None:
        return
    try:
        frame = read_parquet(evidence.root / TASKS_PATH).replace_schema_metadata(None).to_pandas()
    except DatasetError:
        return  # the evidence says so
    frame = frame.rename(columns={"__index_level_0__": "task"})
    for failure in schemas.failures(schemas.tasks_schema(), frame):
        message = f"{failure.column} is {listed(failure.values, 3)} in row {listed(failure.rows, 3)}"
        if failure.check == "column_in_dataframe":
            message = f"the task table has no column {failure.column!r}"
        elif failure.check == schemas.COUNTS_FROM_0:
            message += "; a frame's task is looked up by row, so row i must hold task_index i"
        elif failure.check == "field_uniqueness":
            message += "; a task may have one row only"
        else:
            message += f", expected {failure.check}"
        fix = "`lerobot-ops repair` makes the task table anew of the episodes' task texts"
        yield finding("tasks-schema", message, place=f"{TASKS_PATH} {failure.column}", fix=fix)


def _is_list(table: pa.Table, name: str) -> bool:
    return bool(pa.types.is_nested(table.schema.field(name).type))


def _episodes(rows: np.ndarray, file: DataFile) -> list[int]:
    """The episodes of some rows of a file, as far as its episode_index can be read."""
    if "episode_index" not in file.table.column_names or not len(rows):
        return []
    column = file.table.column("episode_index")
    if column.null_count or not pa.types.is_integer(column.type):
        return []
    return [int(episode) for episode in np.unique(column.to_numpy()[rows])]

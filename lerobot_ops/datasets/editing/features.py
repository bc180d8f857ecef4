"""Editing the features of a dataset: adding, renaming and casting columns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lerobot_ops.datasets.arrays import numbers, texts
from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.rows import RowReader, source_columns
from lerobot_ops.datasets.editing.source import Kept, Source, open_source
from lerobot_ops.datasets.editing.write import EditPlan, EditResult, write
from lerobot_ops.datasets.info import DEFAULT_FEATURES, INFO_PATH, DatasetInfo, Feature, load_info, with_defaults
from lerobot_ops.datasets.language import EVENTS, PERSISTENT
from lerobot_ops.datasets.tables import column_array, plain_values
from lerobot_ops.datasets.writing.episode import to_arrow
from lerobot_ops.errors import DatasetError, did_you_mean

Episode = dict[str, np.ndarray]
"""The columns of an episode's frames, [frames, *shape], [frames] for a scalar; texts are objects."""


@dataclass(frozen=True)
class NewFeature:
    """A column to add: what it is, and a value for every frame of the dataset."""

    feature: Feature
    values: np.ndarray | Callable[[Episode], Any]
    """[frames of the dataset, *shape], in the order of the frames; or a function of an episode's columns (numbers and
    texts, by feature) that returns [frames of the episode, *shape]."""


def add_features(
    source: Path, target: Path, features: Mapping[str, NewFeature], *, dry_run: bool = False
) -> EditResult | EditPlan:
    """Write the dataset `source` with more columns to `target`: numbers or texts, not cameras.

    Raises DatasetError when a name is taken, or when values are not one per frame, not of the feature's shape and
    dtype (a dtype that holds them exactly will do), or not finite.
    """
    info = load_info(source)
    if not features:
        raise DatasetError("no feature to add is named", file=source, field="features")
    own = {name: feature for name, feature in info.features.items() if name not in DEFAULT_FEATURES}
    for name, new in features.items():
        if name in info.features:
            fix = "give it another name, or remove the other first"
            raise DatasetError("the dataset has such a feature already", file=source, field=name, fix=fix)
        if new.feature.is_camera or new.feature.dtype == "language":
            found = new.feature.dtype
            raise DatasetError("only numbers and texts can be added", file=source, field=name, found=found)
        if new.feature.dtype == "string" and new.feature.shape != (1,):
            raise DatasetError("a text has no shape", file=source, field=name, found=new.feature.shape, expected="[1]")
    described = with_defaults({**own, **{name: new.feature for name, new in features.items()}})
    opened = open_source(source)
    ends = np.cumsum([0, *(rows.count for rows in opened.rows)])
    columns = {name: _Column(source, name, new, ends) for name, new in features.items()}
    for column in columns.values():
        column.check(opened)
    kept = [Kept(opened, number) for number in range(len(opened.rows))]
    info = opened.info.model_copy(update={"features": described})
    return write({target: Recipe(kept, info, computed={k: c.of for k, c in columns.items()})}, dry_run)[0]


def rename_features(
    source: Path, target: Path, names: Mapping[str, str], *, dry_run: bool = False
) -> EditResult | EditPlan:
    """Write the dataset `source` to `target` with features called otherwise: old name to new name.

    A camera's videos and statistics move along, and so do the rows of language columns that name it. Two features can
    change names. Raises DatasetError when a name does not exist, is taken, or is one that the format knows.
    """
    info = load_info(source)
    if not names:
        raise DatasetError("no feature to rename is named", file=source, field="feature_names")
    for old in names:
        own_feature(source, info, old, "renamed")
        if info.features[old].dtype == "language":
            raise DatasetError("the format knows language columns by their names", file=source, field=old)
    renamed = [names.get(name, name) for name in info.features]
    for old, new in names.items():
        if new in DEFAULT_FEATURES or new in (PERSISTENT, EVENTS, "task") or "/" in new or new in ("", ".", ".."):
            raise DatasetError(
                "a feature cannot have this name", file=source, field=old, found=new, expected="another, without '/'"
            )
        if renamed.count(new) > 1:
            raise DatasetError("two features would have the same name", file=source, field=old, found=new)
    features = {names.get(name, name): feature for name, feature in info.features.items()}
    opened = open_source(source)
    cameras = {old: new for old, new in names.items() if info.features[old].is_camera}
    spoken = [name for name, feature in info.features.items() if feature.dtype == "language" and cameras]
    recipe = Recipe(
        [Kept(opened, number) for number in range(len(opened.rows))],
        opened.info.model_copy(update={"features": features}),
        origins={new: old for old, new in names.items()},
        computed={name: _renamed_cameras(name, cameras) for name in spoken},
    )
    return write({target: recipe}, dry_run)[0]


def cast_features(
    source: Path, target: Path, dtypes: Mapping[str, str], *, allow_lossy: bool = False, dry_run: bool = False
) -> EditResult | EditPlan:
    """Write the dataset `source` to `target` with other dtypes of numeric features.

    Values that the new dtype does not hold exactly are refused unless `allow_lossy`; then they are rounded as numpy
    does it (towards zero to whole numbers). Values out of the new dtype's range are always refused. Raises
    DatasetError.
    """
    info = load_info(source)
    if not dtypes:
        raise DatasetError("no feature to cast is named", file=source, field="dtypes")
    features = dict(info.features)
    for name, dtype in dtypes.items():
        feature = own_feature(source, info, name, "cast")
        known = {"bool", *np.sctypeDict} - {"object", "str", "bytes", "void"}
        if not feature.is_numeric or dtype not in known or np.dtype(dtype).kind not in "biuf":
            other = "convert_image_to_video makes videos of images" if dtype == "video" else None
            raise DatasetError(
                "only numbers can be cast, and only to numbers",
                file=source,
                field=name,
                found=f"{feature.dtype} to {dtype}",
                expected="a numpy dtype such as float32",
                fix=other,
            )
        features[name] = feature.model_copy(update={"dtype": np.dtype(dtype).name})
    opened = open_source(source)
    kept = [Kept(opened, number) for number in range(len(opened.rows))]
    casts = {name: _Cast(name, info.features[name], features[name], allow_lossy) for name in dtypes}
    reader = RowReader()
    for episode in kept:
        rows = reader.read(episode, list(casts))
        for cast in casts.values():
            cast.of(episode, rows)
    info = opened.info.model_copy(update={"features": features})
    return write({target: Recipe(kept, info, computed={name: cast.of for name, cast in casts.items()})}, dry_run)[0]


def own_feature(source: Path, info: DatasetInfo, name: str, done: str) -> Feature:
    """The feature `name`; raises DatasetError when there is none, or when every dataset has it."""
    own = [name for name in info.features if name not in DEFAULT_FEATURES]
    if name in DEFAULT_FEATURES:
        problem, expected = f"a feature that every dataset has cannot be {done}", f"one of {', '.join(own)}"
        raise DatasetError(problem, file=source / INFO_PATH, field=name, expected=expected)
    if name not in own:
        fix = did_you_mean(name, own)
        raise DatasetError("the dataset has no such feature", file=source / INFO_PATH, field=name, fix=fix)
    return info.features[name]


class _Column:
    """A column that is added."""

    def __init__(self, source: Path, name: str, new: NewFeature, ends: np.ndarray) -> None:
        self._source, self._name, self._new, self._ends = source, name, new, ends

    def check(self, source: Source) -> None:
        """Compute every value once, so that nothing is written before it is known that all are right."""
        if isinstance(self._new.values, np.ndarray):
            self._checked(self._new.values, int(self._ends[-1]), "")
            return
        reader = RowReader()
        for number in range(len(source.rows)):
            kept = Kept(source, number)
            self.of(kept, reader.read(kept, source_columns(kept, images=False)))

    def of(self, kept: Kept, rows: pa.Table) -> pa.Array:
        """The values of an episode's frames as they are written."""
        values = self._new.values
        if isinstance(values, np.ndarray):
            begin = int(self._ends[kept.episode]) + kept.first
            part = values[begin : begin + kept.count]
        else:
            part = values(_arrays(kept, rows))
        part = self._checked(np.asarray(part), kept.count, f" of episode {kept.episode}")
        return texts(part.tolist()) if self._new.feature.dtype == "string" else to_arrow(part, self._new.feature)

    def _checked(self, values: np.ndarray, frames: int, of: str) -> np.ndarray:
        feature, place = self._new.feature, f"{self._name}{of}"
        shape = (frames, *feature.shape)
        if values.shape not in (shape, (frames,) if feature.shape == (1,) else shape):
            raise DatasetError(
                "a new feature needs a value of its shape for every frame",
                file=self._source,
                field=place,
                found=f"shape {list(values.shape)}",
                expected=f"{list(shape)}: {frames} frames",
            )
        if feature.dtype == "string":
            flat = values.reshape(frames).astype(object)
            if not all(isinstance(value, str) for value in flat):
                raise DatasetError("a text is not a text", file=self._source, field=place, expected="strings")
            return flat
        made = _exactly(values, np.dtype(feature.dtype))
        if made is None:
            raise DatasetError(
                "a dtype does not hold the values of a new feature",
                file=self._source,
                field=place,
                found=f"values of dtype {values.dtype}",
                expected=f"values that {feature.dtype} holds exactly",
                fix=f"declare dtype {values.dtype}, or convert the values first",
            )
        if not np.isfinite(made).all():
            raise DatasetError("a new feature has NaN or infinity", file=self._source, field=place)
        return made.reshape(frames) if feature.shape == (1,) else made


class _Cast:
    """A column whose dtype changes."""

    def __init__(self, name: str, before: Feature, after: Feature, allow_lossy: bool) -> None:
        self._name, self._before, self._after, self._allow_lossy = name, before, after, allow_lossy

    def of(self, kept: Kept, rows: pa.Table) -> pa.Array:
        values, dtype = column_array(rows.column(self._name), self._before), np.dtype(self._after.dtype)
        made = _exactly(values, dtype)
        if made is None and self._allow_lossy:
            made = _nearest(values, dtype)
        if made is None:
            raise DatasetError(
                "a cast would change values" if not self._allow_lossy else "values are out of the range of a dtype",
                file=kept.rows.file,
                field=f"{self._name} of episode {kept.episode}",
                found=f"{values.dtype} from {values.min()} to {values.max()}",
                expected=f"values that {dtype} holds" + ("" if self._allow_lossy else " exactly"),
                fix="choose another dtype" + ("" if self._allow_lossy else ", or allow it (allow_lossy)"),
            )
        return to_arrow(made, self._after)


def _exactly(values: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """`values` as `dtype`, or None when some would change."""
    if values.dtype == dtype:
        return values
    if values.dtype.kind not in "biuf":
        return None
    with np.errstate(all="ignore"):
        made = values.astype(dtype)
        back = made.astype(values.dtype)
    same = np.array_equal(back, values, equal_nan=values.dtype.kind == "f")
    # What is out of range may become another number that becomes the old one again: -1 as uint64, or 2**63 as int64.
    inside = np.array_equal(made < 0, values < 0) and _fits(made, values.dtype) and _fits(values, dtype)
    return made if same and inside else None


def _fits(values: np.ndarray, dtype: np.dtype) -> bool:
    """Whether floats are below the end of a range of whole numbers; other pairs of dtypes need no look."""
    if values.dtype.kind != "f" or dtype.kind not in "iu":
        return True
    return bool((values.astype(np.float64) < float(np.iinfo(dtype).max) + 1).all())


def _nearest(values: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """`values` rounded to `dtype`, or None when some are out of its range."""
    with np.errstate(all="ignore"):
        made = values.astype(dtype)
    if dtype.kind == "b":
        return None
    if dtype.kind == "f":
        return made if np.isfinite(made).all() else None
    limits = np.iinfo(dtype)
    whole = np.trunc(values.astype(np.float64))
    inside = (whole >= limits.min) & (whole <= limits.max) & np.isfinite(whole)
    return made if inside.all() else None


def _arrays(kept: Kept, rows: pa.Table) -> Episode:
    columns: Episode = {}
    for name, feature in kept.source.info.columns.items():
        if feature.is_numeric:
            columns[name] = column_array(rows.column(name), feature)
        elif feature.dtype == "string":
            columns[name] = np.array(rows.column(name).to_pylist(), dtype=object)
    return columns


def _renamed_cameras(name: str, cameras: Mapping[str, str]) -> Callable[[Kept, pa.Table], pa.Array]:
    """A language column whose rows name cameras by their new names."""

    def rename(kept: Kept, rows: pa.Table) -> pa.Array:
        column = rows.column(name).combine_chunks()
        return _with_cameras(column, cameras)

    return rename


def _with_cameras(column: pa.ListArray, cameras: Mapping[str, str]) -> pa.Array:
    said = column.flatten()
    place = said.type.get_field_index("camera")
    fields = said.flatten()
    named = fields[place].to_pylist()
    if not cameras.keys() & set(named):
        return column
    fields[place] = pa.array([cameras.get(camera, camera) for camera in named], fields[place].type)
    cells = pa.StructArray.from_arrays(fields, fields=list(said.type))
    lengths = np.diff(plain_values(column.offsets)) * plain_values(column.is_valid())
    ends = numbers(np.cumsum([0, *lengths]).astype(np.int32))
    return pa.ListArray.from_arrays(ends, cells, type=column.type, mask=column.is_null())

"""`meta/info.json`: what a LeRobotDataset v3.0 holds, where its files are, and the features of a frame."""

import json
import string
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.errors import DatasetError

CODEBASE_VERSION = "v3.0"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
RELATIVE_ACTIONS_PATH = "meta/relative_actions.json"
"""Ours: its presence says that the statistics of `action` are those of actions relative to the state, and which."""
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

CAMERA_DTYPES = frozenset({"image", "video"})
"""Features whose values are frames of a camera."""
TEXT_DTYPES = frozenset({"string", "language"})
"""Features without statistics."""
MEGABYTE = 1024**2


class Feature(BaseModel):
    """One entry of a frame: its dtype, shape and names. Keys that other tools add are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    dtype: str
    """A numpy dtype name, `string`, `image` (in the parquet), `video` (an mp4) or `language`."""
    shape: tuple[int, ...]
    """`(1,)` is a scalar column; cameras are (height, width, channels), or channels first in old datasets."""
    names: list[Any] | dict[str, Any] | None = None
    info: dict[str, Any] | None = None
    """For video: size, codec and encoder settings."""

    @field_validator("dtype")
    @classmethod
    def _known_dtype(cls, value: str) -> str:
        if value in CAMERA_DTYPES | TEXT_DTYPES:
            return value
        try:
            known = np.dtype(value).name == value
        except TypeError:
            known = False
        if not known:
            raise ValueError("a numpy dtype name, string, image, video or language")
        return value

    @field_validator("shape")
    @classmethod
    def _positive_shape(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("at least one dimension, each of 1 or more")
        return value

    @property
    def is_camera(self) -> bool:
        return self.dtype in CAMERA_DTYPES

    @property
    def is_numeric(self) -> bool:
        return not self.is_camera and self.dtype not in TEXT_DTYPES

    @property
    def is_depth(self) -> bool:
        legacy = (self.model_extra or {}).get("video_info") or {}
        info = self.info or {}
        marks = (info.get("is_depth_map"), info.get("video.is_depth_map"), legacy.get("video.is_depth_map"))
        return any(marks)

    @property
    def size(self) -> tuple[int, int, int]:
        """(height, width, channels) of a camera, whichever way its shape is stored."""
        if len(self.shape) == 2:
            return (*self.shape, 1)
        first, second, third = self.shape
        return (second, third, first) if first in (1, 3, 4) and third not in (1, 3, 4) else (first, second, third)

    def entry(self) -> dict[str, Any]:
        """The JSON object of this feature, in LeRobot's key order."""
        entry = {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}
        if self.info is not None:
            entry["info"] = self.info
        return entry | (self.model_extra or {})


DEFAULT_FEATURES: dict[str, Feature] = {
    "timestamp": Feature(dtype="float32", shape=(1,)),
    "frame_index": Feature(dtype="int64", shape=(1,)),
    "episode_index": Feature(dtype="int64", shape=(1,)),
    "index": Feature(dtype="int64", shape=(1,)),
    "task_index": Feature(dtype="int64", shape=(1,)),
}
"""What every frame has besides the user's features; they come last, in this order."""


class DatasetInfo(BaseModel):
    """The content of `meta/info.json`; the order of the fields is LeRobot's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codebase_version: str = CODEBASE_VERSION
    fps: int = Field(gt=0)
    """Frames per second."""
    features: dict[str, Feature]
    total_episodes: int = Field(default=0, ge=0)
    total_frames: int = Field(default=0, ge=0)
    total_tasks: int = Field(default=0, ge=0)
    chunks_size: int = Field(default=1000, gt=0)
    """Files in a chunk directory at most."""
    data_files_size_in_mb: int = Field(default=100, gt=0)
    video_files_size_in_mb: int = Field(default=200, gt=0)
    data_path: str = DATA_PATH
    video_path: str | None = VIDEO_PATH
    robot_type: str | None = None
    splits: dict[str, str] = Field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None

    @field_validator("features")
    @classmethod
    def _names_are_file_names(cls, value: dict[str, Feature]) -> dict[str, Feature]:
        for name in value:
            if not name or "/" in name or name in {".", ".."}:
                raise ValueError(f"feature {name!r}: a name without '/'")
        return value

    @model_validator(mode="after")
    def _paths_fit(self) -> "DatasetInfo":
        _check_template(self.data_path, {"chunk_index", "file_index"}, "data_path")
        if self.video_path is not None:
            _check_template(self.video_path, {"video_key", "chunk_index", "file_index"}, "video_path")
        elif self.video_keys:
            raise ValueError("video_path: a path template, because there are video features")
        return self

    @property
    def video_keys(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.dtype == "video"]

    @property
    def image_keys(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.dtype == "image"]

    @property
    def camera_keys(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.is_camera]

    @property
    def columns(self) -> dict[str, Feature]:
        """The features that are columns of the data parquet, in its column order: all but the videos."""
        return {name: feature for name, feature in self.features.items() if feature.dtype != "video"}

    @property
    def numeric(self) -> dict[str, Feature]:
        """The features with a numpy dtype."""
        return {name: feature for name, feature in self.features.items() if feature.is_numeric}

    def data_file(self, chunk: int, file: int) -> str:
        """The path of a data file, relative to the root."""
        return self.data_path.format(chunk_index=chunk, file_index=file)

    def video_file(self, key: str, chunk: int, file: int) -> str:
        """The path of a video file, relative to the root."""
        assert self.video_path is not None
        return self.video_path.format(video_key=key, chunk_index=chunk, file_index=file)

    def next_file(self, chunk: int, file: int) -> tuple[int, int]:
        """The (chunk, file) that follows."""
        return (chunk + 1, 0) if file == self.chunks_size - 1 else (chunk, file + 1)

    def entry(self) -> dict[str, Any]:
        """The JSON object, in LeRobot's key order."""
        entry = self.model_dump(mode="json", exclude=None if self.tools is not None else {"tools"})
        return entry | {"features": {name: feature.entry() for name, feature in self.features.items()}}


def with_defaults(features: Mapping[str, Feature | Mapping[str, Any]]) -> dict[str, Feature]:
    """The user's features followed by the default ones; raises DatasetError on a bad entry or a reserved name."""
    try:
        made = {
            name: value if isinstance(value, Feature) else Feature.model_validate(dict(value))
            for name, value in features.items()
        }
    except ValidationError as error:
        raise _dataset_error(error, None, "a feature is not valid") from None
    reserved = [name for name in made if name in DEFAULT_FEATURES or name == "task"]
    if reserved:
        raise DatasetError(
            "a feature has a name that the format keeps for itself", field=reserved[0], fix="give it another name"
        )
    return made | DEFAULT_FEATURES


def make_info(**fields: Any) -> DatasetInfo:
    """A `DatasetInfo` of these fields; raises DatasetError naming the one that is not valid."""
    try:
        return DatasetInfo(**fields)
    except ValidationError as error:
        raise _dataset_error(error, None, "the dataset cannot have this") from None


def load_info(root: Path | str) -> DatasetInfo:
    """Read `meta/info.json`.

    Raises DatasetError when it is missing, not JSON, of another major version of the format, or has a bad field.
    Keys that the format does not know are left out with a warning, as LeRobot does.
    """
    path = Path(root) / INFO_PATH
    content = _read_object(path)
    _check_version(path, content.get("codebase_version"))
    unknown = sorted(set(content) - set(DatasetInfo.model_fields))
    if unknown:
        warnings.warn(f"{path}: ignored unknown keys {', '.join(unknown)}", stacklevel=2)
    try:
        return DatasetInfo.model_validate({name: value for name, value in content.items() if name not in unknown})
    except ValidationError as error:
        raise _dataset_error(error, path, "the dataset's info has a bad field") from None


def write_info(root: Path | str, info: DatasetInfo) -> None:
    """Write `meta/info.json` at once and durably, in LeRobot's layout (4 spaces, no newline at the end)."""
    text = json.dumps(info.entry(), indent=4, ensure_ascii=False, allow_nan=False)
    write_bytes(Path(root) / INFO_PATH, text.encode())


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            "there is no dataset here",
            file=path,
            found="no such file",
            expected="a LeRobotDataset v3.0 with meta/info.json",
            fix="give the folder that holds meta/, data/ and videos/",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(
            "the dataset's info cannot be read", file=path, found=str(error), expected="a JSON object in UTF-8"
        ) from None
    if not isinstance(content, dict):
        raise DatasetError(
            "the dataset's info cannot be read", file=path, found=type(content).__name__, expected="a JSON object"
        )
    return content


def _check_version(path: Path, version: object) -> None:
    if isinstance(version, str) and version.split(".")[0] == CODEBASE_VERSION.split(".")[0]:
        return
    old = isinstance(version, str) and version.startswith(("v1", "v2"))
    raise DatasetError(
        "the dataset has another version of the format",
        file=path,
        field="codebase_version",
        found=version,
        expected=CODEBASE_VERSION,
        fix=f"convert it with `lerobot-ops convert {path.parents[1]} --new_root=DIR`" if old else None,
    )


def _check_template(template: str, fields: set[str], name: str) -> None:
    try:
        used = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        path = Path(template.format(chunk_index=0, file_index=0, video_key="key"))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{name}: a path template ({error})") from None
    if used != fields:
        raise ValueError(f"{name}: a path template of {', '.join(sorted(fields))}")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name}: a path inside the dataset")


def _dataset_error(error: ValidationError, path: Path | None, problem: str) -> DatasetError:
    """Pydantic's first complaint as an error of ours."""
    first = error.errors(include_url=False)[0]
    missing = first["type"] == "missing"
    place = ".".join(str(part) for part in first["loc"]) or None
    expected = first["msg"].removeprefix("Value error, ")
    found = "nothing" if missing else str(first["input"])[:200]
    return DatasetError(problem, file=path, field=place, found=found if place else None, expected=expected)

"""Reading a dataset that may be broken: whatever can be read is evidence, whatever cannot is a finding."""

import bisect
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import INFO_PATH, STATS_PATH, TASKS_PATH, DatasetInfo, load_info
from lerobot_ops.datasets.tables import (
    Stats,
    column_array,
    data_files,
    episodes_files,
    load_stats,
    load_tasks,
    read_parquet,
)
from lerobot_ops.datasets.validation.checks import Finding, Severity, counted, finding, listed
from lerobot_ops.datasets.writing.beginning import is_recording
from lerobot_ops.errors import DatasetError

RESTORE = "restore the file from a version or a copy of the dataset; `lerobot-ops repair` keeps what can be read"
RESUME = "resume the recording, or write a dataset without them with `lerobot-ops repair`"


@dataclass(frozen=True)
class DataFile:
    """One data parquet; its columns are all but the images."""

    name: str
    """Path relative to the root."""
    table: pa.Table
    first: int
    """The number of its first row in the whole dataset."""


@dataclass(frozen=True)
class Evidence:
    """What could be read of a dataset. A part that is missing or unreadable is None or empty, and reported already."""

    root: Path
    info: DatasetInfo
    files: list[DataFile] = field(default_factory=list)
    """The readable data files in the order of their frames."""
    data_complete: bool = False
    """Whether every data file could be read."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Numeric feature -> values of all readable frames [N] or [N, *shape]; only features that every file holds well."""
    episodes: pa.Table | None = None
    """The whole episodes table."""
    tasks: list[str] | None = None
    stats: Stats | None = None
    recording: bool = False
    """Whether it is being recorded by us, or was and has not been finalised."""

    def rows(self, name: str, dtype: type = np.int64) -> np.ndarray | None:
        """A numeric column of the episodes table [E]; None where it is missing, has nulls or another type."""
        if self.episodes is None or name not in self.episodes.column_names:
            return None
        column = self.episodes.column(name)
        if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            return None
        return np.asarray(column.to_numpy(), dtype)

    @cached_property
    def runs(self) -> dict[int, tuple[int, int]]:
        """Episode -> its first row and the one after its last, from the frames; episodes in pieces are left out."""
        episode = self.columns.get("episode_index")
        if episode is None or not len(episode):
            return {}
        starts = np.flatnonzero(np.diff(episode, prepend=episode[0] - 1))
        stops = np.append(starts[1:], len(episode))
        values, times = np.unique(episode[starts], return_counts=True)
        once = set(values[times == 1].tolist())
        bounds = zip(episode[starts].tolist(), starts.tolist(), stops.tolist(), strict=True)
        return {number: (start, stop) for number, start, stop in bounds if number in once}

    def range(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest finite value of each dimension of a numeric feature, flat."""
        if name not in self._ranges:
            rows = self.columns[name].reshape(len(self.columns[name]), -1)
            finite = np.isfinite(rows)
            low = rows.min(0, initial=np.inf, where=finite), rows.max(0, initial=-np.inf, where=finite)
            self._ranges[name] = low[0].astype(np.float64), low[1].astype(np.float64)
        return self._ranges[name]

    @cached_property
    def _ranges(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def file_of(self, row: int) -> DataFile:
        """The data file that holds a row of the dataset."""
        return self.files[bisect.bisect_right(self.files, row, key=lambda file: file.first) - 1]


def gather(root: Path) -> tuple[Evidence | None, list[Finding]]:
    """Read all that can be read below `root`, videos excepted; None as evidence when meta/info.json cannot be."""
    findings: list[Finding] = []
    info = _info(root, findings)
    episodes = _episodes(root, findings)
    last = _last_pointed_at(info, episodes)
    files, complete = _data(root, info, findings, last, 0 if episodes is None else episodes.num_rows)
    if info is None:
        return None, findings
    evidence = Evidence(
        root=root,
        recording=is_recording(root),
        info=info,
        files=files,
        data_complete=complete,
        columns=_columns(info, files),
        episodes=episodes,
        tasks=_tasks(root, findings),
        stats=_stats(root, findings),
    )
    findings.extend(_leftovers(evidence))
    return evidence, findings


def _info(root: Path, findings: list[Finding]) -> DatasetInfo | None:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            info = load_info(root)
    except DatasetError as error:
        place = f"{INFO_PATH} {error.field}" if error.field else INFO_PATH
        fix = error.fix or "correct the field, or restore the file from a version or a copy of the dataset"
        findings.append(finding("info", _sentence(error), place=place, fix=fix))
        return None
    except OSError as error:
        findings.append(
            finding("info", f"meta/info.json cannot be read: {error.strerror}", place=INFO_PATH, fix=RESTORE)
        )
        return None
    for warning in caught:
        message = str(warning.message).removeprefix(f"{root / INFO_PATH}: ")
        findings.append(finding("info", message, place=INFO_PATH, fix="nothing, unless you need them", severity="info"))
    return info


def _last_pointed_at(info: DatasetInfo | None, episodes: pa.Table | None) -> str | None:
    """The last data file that the episodes table names; None when nothing can be said about that."""
    names = ["data/chunk_index", "data/file_index"]
    if info is None or episodes is None or not episodes.num_rows or not set(names) <= set(episodes.column_names):
        return None
    columns = [episodes.column(name) for name in names]
    if any(column.null_count or not pa.types.is_integer(column.type) for column in columns):
        return None
    places = set(zip(*(column.to_pylist() for column in columns), strict=True))
    return max(info.data_file(*place) for place in places)


def _data(
    root: Path, info: DatasetInfo | None, findings: list[Finding], last: str | None, episodes: int
) -> tuple[list[DataFile], bool]:
    """The data files up to those of an episode that was never finished: files behind `last` with no known episode."""
    paths = data_files(root)
    if not paths:
        message = "there are no data files"
        findings.append(finding("missing-file", message, place="data/*/*.parquet", fix=RESTORE))
    files: list[DataFile] = []
    orphans: list[str] = []
    first = broken = 0
    for path in paths:
        name = path.relative_to(root).as_posix()
        problems: list[Finding] = []
        table = _parquet(root, path, problems, skip=info.image_keys if info else [])
        behind = last is not None and name > last
        if behind and (_is_of_no_episode(table, episodes) if table is not None else is_recording(root)):
            orphans.append(name)
            continue
        findings += problems
        if table is None:
            broken += 1
        else:
            files.append(DataFile(name=name, table=table, first=first))
            first += table.num_rows
    if orphans:
        message = f"no episode points at {counted(len(orphans), 'data file')} at the end: {listed(orphans)}"
        findings.append(finding("leftover-files", message, place=orphans[0], fix=RESUME))
    return files, bool(paths) and not broken


def _is_of_no_episode(table: pa.Table, episodes: int) -> bool:
    """Whether all rows are of episodes behind the last one of the episodes table."""
    if "episode_index" not in table.column_names:
        return False
    column = table.column("episode_index")
    if column.null_count or not pa.types.is_integer(column.type):
        return False
    return not len(column) or int(column.to_numpy().min()) >= episodes


def _episodes(root: Path, findings: list[Finding]) -> pa.Table | None:
    paths = episodes_files(root)
    if not paths:
        message = "there is no episodes table; without it nothing says where an episode begins and ends"
        fix = "`lerobot-ops repair` makes one of the data and the videos, as far as these are there"
        findings.append(finding("missing-file", message, place="meta/episodes/*/*.parquet", fix=fix))
    tables = [_parquet(root, path, findings) for path in paths]
    readable = [table for table in tables if table is not None]
    if not readable or len(readable) < len(tables):
        return None
    try:
        return pa.concat_tables(readable, promote_options="permissive")
    except pa.ArrowException as error:
        message = f"the files of the episodes table do not fit together: {_first_line(error)}"
        fix = "merge the datasets that they came from again"
        findings.append(finding("episodes-schema", message, place="meta/episodes", fix=fix))
        return None


def _parquet(root: Path, path: Path, findings: list[Finding], skip: list[str] | None = None) -> pa.Table | None:
    try:
        if not skip:
            table = read_parquet(path)
        else:
            names = pq.read_schema(path).names
            table = read_parquet(path, [name for name in names if name not in skip])
        table.validate(full=True)
    except DatasetError as error:
        cause = str(error.found or error.problem)
    except (pa.ArrowException, OSError, ValueError) as error:
        cause = _first_line(error)
    else:
        return table
    name = path.relative_to(root).as_posix()
    if "magic bytes" in cause:
        cause = "it has no parquet footer, so its writer was killed or the copy stopped before the end"
    findings.append(finding("unreadable-file", f"{name} cannot be read: {cause}", place=name, fix=RESTORE))
    return None


def _tasks(root: Path, findings: list[Finding]) -> list[str] | None:
    path = root / TASKS_PATH
    if not path.is_file():
        findings.append(finding("missing-file", "there is no task table", place=TASKS_PATH, fix=RESTORE))
        return None
    if _parquet(root, path, findings) is None:
        return None
    try:
        return load_tasks(root)
    except DatasetError as error:
        findings.append(finding("tasks-schema", _sentence(error), place=TASKS_PATH, fix=RESTORE))
        return None


def _stats(root: Path, findings: list[Finding]) -> Stats | None:
    fix = "`lerobot-ops repair` computes them from the data"
    if not (root / STATS_PATH).is_file():
        message = "there are no statistics, so no policy can be trained on the dataset"
        severity: Severity = "warning" if is_recording(root) else "error"  # they are written after an episode
        findings.append(finding("stats-missing", message, place=STATS_PATH, fix=fix, severity=severity))
        return None
    try:
        json.loads((root / STATS_PATH).read_text(encoding="utf-8"))
        return load_stats(root)
    except (DatasetError, ValueError, AttributeError, OSError) as error:
        cause = error.found if isinstance(error, DatasetError) else _first_line(error)
        message = f"{STATS_PATH} cannot be read: {cause}"
        findings.append(finding("unreadable-file", message, place=STATS_PATH, fix=fix))
        return None


def _columns(info: DatasetInfo, files: list[DataFile]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, feature in info.numeric.items():
        parts = []
        for file in files:
            if name not in file.table.column_names or file.table.column(name).null_count:
                break
            try:
                parts.append(column_array(file.table.column(name), feature))
            except (DatasetError, pa.ArrowException, ValueError, TypeError):
                break  # `data-schema` says which column of which file has another type
        if parts and len(parts) == len(files):
            columns[name] = np.concatenate(parts)
    return columns


def _leftovers(evidence: Evidence) -> Iterator[Finding]:
    root, info = evidence.root, evidence.info
    scratch = [path.name for path in sorted(root.glob("tmp*")) if path.is_dir()]
    if any(path.is_file() for path in (root / "images").rglob("*")):  # LeRobot leaves its empty folders behind
        scratch.insert(0, "images")
    if scratch:
        message = f"{listed(f'{name}/' for name in scratch)} holds frames of a recording that was not finished"
        fix = "delete it, unless you want to rescue the unfinished episode from it; `lerobot-ops repair` leaves it out"
        yield finding("leftover-files", message, place=f"{scratch[0]}/", fix=fix)
    if evidence.episodes is None:
        return
    known: set[str] = set()
    for key in info.video_keys:
        chunks = evidence.rows(f"videos/{key}/chunk_index")
        files = evidence.rows(f"videos/{key}/file_index")
        if chunks is None or files is None:
            return
        known |= {
            info.video_file(key, chunk, file) for chunk, file in set(zip(chunks.tolist(), files.tolist(), strict=True))
        }
    found = sorted(path.relative_to(root).as_posix() for path in (root / "videos").rglob("*") if path.is_file())
    extra = [name for name in found if name not in known]
    if extra:
        message = f"no episode points at {counted(len(extra), 'video file')}: {listed(extra)}"
        fix = RESUME if evidence.recording else "delete them, or run `lerobot-ops repair`"
        yield finding("leftover-files", message, place=extra[0], fix=fix)


def _sentence(error: DatasetError) -> str:
    parts = [error.problem + (f", {error.field}" if error.field else "")]
    if error.found is not None:
        parts.append(f"found {error.found}")
    if error.expected is not None:
        parts.append(f"expected {error.expected}")
    return ", ".join(parts)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

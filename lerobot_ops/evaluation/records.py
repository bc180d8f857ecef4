"""Episode records: one line of JSON for each finished episode, on disk before the next one is counted.

The record is the product of an evaluation; every aggregate is computed from records (see `metrics`). A record that was
appended survives a kill: what a crash tears is only the line that was being written, and reading drops that one.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from lerobot_ops.artifacts import fsync_directory, write_bytes
from lerobot_ops.errors import ArtifactError

FILE_NAME = "records.jsonl"


@dataclass(frozen=True)
class Record:
    """What happened in one episode. The same policy, task and seed give the same but for how it came about."""

    task: str
    episode: int
    """Number of the episode within its task, from 0."""
    seed: int
    """Seed of the environment: the evaluation's seed + episode."""
    init_state: int | None
    """Index of the stored initial state that it began with; None where a benchmark draws them from the seed."""
    success: bool
    error: str | None
    """Why the simulator could not finish the episode; such an episode says nothing about the policy."""
    steps: int
    """Actions that were executed."""
    sum_reward: float
    max_reward: float
    """0.0 when no step was executed."""
    observation: str
    """16 hexadecimal digits that name the observation (without images) that the episode began with."""
    seconds: float
    """Wall time, from the reset to the last step."""
    worker: int
    """Number of the simulator that played it, from 0."""
    attempt: int
    """1, or 2 when the episode was repeated because its simulator died."""

    @property
    def key(self) -> tuple[str, int]:
        """What names the episode within an evaluation."""
        return self.task, self.episode

    def outcome(self) -> "Record":
        """The record without what may differ from run to run."""
        return replace(self, seconds=0.0, worker=0, attempt=1)


class RecordLog:
    """An append-only file of records; each one is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        intact, self.records = _scan(path)
        self._file = open(path, "ab")  # noqa: SIM115 (closed by __exit__)
        self._file.truncate(intact)
        fsync_directory(path.parent)

    def append(self, record: Record) -> None:
        """Write one record durably."""
        self._file.write(_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records.append(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_records(path: Path) -> list[Record]:
    """The records in a file, in its order; a torn last line is left out, any other bad line raises ArtifactError."""
    if not path.is_file():
        raise ArtifactError("there are no episode records", file=path, fix="point to the output of an evaluation")
    return _scan(path)[1]


def repeated_beginnings(records: Iterable[Record]) -> list[str]:
    """A sentence for each task whose episodes do not all begin differently: repetitions are no further evidence."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        if record.error is None:
            by_task.setdefault(record.task, []).append(record)
    sentences = []
    for task, episodes in by_task.items():
        stored = {record.init_state for record in episodes} - {None}
        if stored and len(stored) < len(episodes):
            sentences.append(f"{task}: {len(episodes)} episodes began from {len(stored)} stored initial states")
        seen = {record.observation for record in episodes}
        if not stored and len(seen) < len(episodes):
            sentences.append(f"{task}: {len(episodes)} episodes began with {len(seen)} different observations")
    return sentences


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replace `path` by these records, in their order, at once."""
    write_bytes(path, b"".join(map(_line, records)))


def _line(record: Record) -> bytes:
    return json.dumps(asdict(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _scan(path: Path) -> tuple[int, list[Record]]:
    """(bytes of whole lines, their records)."""
    content = path.read_bytes() if path.exists() else b""
    intact = content.rfind(b"\n") + 1
    lines = content[:intact].splitlines()
    return intact, [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def _parse(path: Path, number: int, line: bytes) -> Record:
    expected = [field.name for field in fields(Record)]
    try:
        values = json.loads(line)
        return Record(**values)
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            "a line is not an episode record",
            file=path,
            field=f"line {number}",
            found=line[:120].decode(errors="replace"),
            expected=f"a JSON object with {', '.join(expected)}",
            fix="remove the file's folder and evaluate again",
        ) from error

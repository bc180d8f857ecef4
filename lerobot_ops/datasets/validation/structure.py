"""Checks across files: counters, row order, episode bounds, pointers and tasks agree with one another."""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import INFO_PATH, TASKS_PATH
from lerobot_ops.datasets.tables import episodes_files, read_parquet
from lerobot_ops.datasets.validation.checks import Finding, counted, finding, listed
from lerobot_ops.datasets.validation.evidence import RESTORE, RESUME, Evidence

_RESTORE = "restore the data files in their order, or let `lerobot-ops repair` number the frames anew"
_TABLE = "`lerobot-ops repair` makes meta/episodes anew of the data and the videos"
TIMESTAMP_TOLERANCE_S = 1e-4
"""How far a timestamp may be from frame_index / fps: LeRobot's tolerance."""


def check_structure(evidence: Evidence) -> Iterator[Finding]:
    """All checks of this module; those that need a part that could not be read are left out."""
    yield from _totals(evidence)
    if evidence.data_complete:
        yield from _index_order(evidence)
        yield from _frame_order(evidence)
        yield from _episode_bounds(evidence)
        yield from _data_pointers(evidence)
    yield from _own_pointers(evidence)
    yield from _timestamps(evidence)
    yield from _task_index(evidence)
    yield from _episode_tasks(evidence)


def _totals(evidence: Evidence) -> Iterator[Finding]:
    info = evidence.info
    counts: list[tuple[str, int, int | None, str]] = []
    if evidence.data_complete:
        frames = sum(file.table.num_rows for file in evidence.files)
        counts.append(("total_frames", info.total_frames, frames, "rows in the data files"))
    if evidence.episodes is not None:
        counts.append(("total_episodes", info.total_episodes, evidence.episodes.num_rows, "rows in meta/episodes"))
    if evidence.tasks is not None:
        counts.append(("total_tasks", info.total_tasks, len(evidence.tasks), f"rows in {TASKS_PATH}"))
    behind = _is_behind(evidence)
    if behind or evidence.recording:
        message = "the recording was not finished"
        if behind:
            message += f": info.json counts {counted(info.total_episodes, 'episode')}, but the last one is there, too"
        yield finding("unfinished-recording", message, place=INFO_PATH, fix=RESUME)
    for field, said, found, what in counts:
        if said != found and not (behind or (evidence.recording and field == "total_tasks" and said < (found or 0))):
            message = f"{field} says {said:,}, but there are {found:,} {what}"
            fix = f"set {field} to {found} if nothing is lost (`lerobot-ops repair` does), or restore the missing files"
            yield finding("totals", message, place=f"{INFO_PATH} {field}", fix=fix)
    for name, text in info.splits.items():
        if not _valid_split(text, info.total_episodes):
            message = f"split {name!r} is {text!r}, expected begin:end within 0:{info.total_episodes}"
            yield finding("totals", message, place=f"{INFO_PATH} splits.{name}", fix="correct it", severity="warning")


def _is_behind(evidence: Evidence) -> bool:
    """Whether info.json does not count the last episode: it is written after the episode is there."""
    length, info = evidence.rows("length"), evidence.info
    if length is None or not len(length) or not evidence.data_complete:
        return False
    frames = sum(file.table.num_rows for file in evidence.files)
    said = (info.total_episodes, info.total_frames)
    fewer_tasks = evidence.tasks is None or info.total_tasks <= len(evidence.tasks)
    return fewer_tasks and said == (len(length) - 1, frames - int(length[-1]))


def _valid_split(text: str, episodes: int) -> bool:
    begin, colon, end = text.partition(":")
    return bool(colon) and begin.isdigit() and end.isdigit() and int(begin) <= int(end) <= episodes


def _index_order(evidence: Evidence) -> Iterator[Finding]:
    index = evidence.columns.get("index")
    if index is None:
        return
    wrong = np.flatnonzero(index != np.arange(len(index)))
    if len(wrong):
        row = int(wrong[0])
        file = evidence.file_of(row)
        message = f"`index` is {index[row]} where {row} is expected ({counted(len(wrong), 'frame')} in all)"
        yield finding("index-order", message, place=f"{file.name} row {row - file.first}", fix=_RESTORE)


def _frame_order(evidence: Evidence) -> Iterator[Finding]:
    episode, frame = evidence.columns.get("episode_index"), evidence.columns.get("frame_index")
    if episode is None or not len(episode):
        return
    starts = np.flatnonzero(np.diff(episode, prepend=episode[0] - 1))
    wrong = np.flatnonzero(episode[starts] != np.arange(len(starts)))
    if len(wrong):
        row = int(starts[wrong[0]])
        file = evidence.file_of(row)
        message = f"episode {episode[row]} begins where episode {wrong[0]} is expected"
        episodes = episode[starts[wrong]]
        yield finding(
            "frame-order", message, place=f"{file.name} row {row - file.first}", fix=_RESTORE, episodes=episodes
        )
    if frame is None:
        return
    lengths = np.diff(np.append(starts, len(episode)))
    expected = np.arange(len(episode)) - np.repeat(starts, lengths)
    rows = np.flatnonzero(frame != expected)
    if len(rows):
        row = int(rows[0])
        file = evidence.file_of(row)
        message = (
            f"frame_index is {frame[row]} where {expected[row]} is expected in episode {episode[row]}"
            f" ({counted(len(rows), 'frame')} in all): frames are missing, repeated or out of order"
        )
        place = f"{file.name} row {row - file.first}"
        yield finding("frame-order", message, place=place, fix=_RESTORE, episodes=np.unique(episode[rows]))


def _timestamps(evidence: Evidence) -> Iterator[Finding]:
    frame, time = evidence.columns.get("frame_index"), evidence.columns.get("timestamp")
    episode = evidence.columns.get("episode_index")
    if frame is None or time is None or episode is None:
        return
    expected = frame / evidence.info.fps
    # float32 cannot tell 1e-4 s apart in episodes of an hour.
    tolerance = TIMESTAMP_TOLERANCE_S + np.spacing(np.abs(expected).astype(np.float32))
    rows = np.flatnonzero(~(np.abs(time - expected) <= tolerance))
    if len(rows):
        row = int(rows[0])
        file = evidence.file_of(row)
        message = (
            f"timestamp is {time[row]:.6f} s where frame {frame[row]} at {evidence.info.fps} fps is at"
            f" {expected[row]:.6f} s ({counted(len(rows), 'frame')} in all)"
        )
        fix = "set timestamp to frame_index / fps (`lerobot-ops repair` does), or correct fps in meta/info.json"
        place = f"{file.name} row {row - file.first}"
        yield finding("timestamps", message, place=place, fix=fix, episodes=np.unique(episode[rows]))


def _episode_bounds(evidence: Evidence) -> Iterator[Finding]:
    begin, end, length = (evidence.rows(name) for name in ("dataset_from_index", "dataset_to_index", "length"))
    if begin is None or end is None or length is None or "episode_index" not in evidence.columns:
        return
    wrong = []
    for number, claim in enumerate(zip(begin.tolist(), end.tolist(), length.tolist(), strict=True)):
        found = evidence.runs.get(number)
        if found is None or claim != (found[0], found[1], found[1] - found[0]):
            wrong.append((number, claim, found))
    if wrong:
        number, claim, found = wrong[0]
        has = f"rows {found[0]} to {found[1]} ({found[1] - found[0]} frames)" if found else "no rows in one piece"
        message = (
            f"episode {number} says rows {claim[0]} to {claim[1]} and length {claim[2]}, but has {has}"
            f" ({counted(len(wrong), 'episode')} in all)"
        )
        episodes = [number for number, _, _ in wrong]
        yield finding(
            "episode-bounds", message, place="meta/episodes dataset_from_index", fix=_TABLE, episodes=episodes
        )
    unlisted = sorted(set(evidence.runs) - set(range(len(length))))
    if unlisted:
        message = (
            f"the data holds {counted(len(unlisted), 'episode')} that meta/episodes does not list: {listed(unlisted)}"
        )
        yield finding("episode-bounds", message, place="meta/episodes", fix=_TABLE, episodes=unlisted)


def _data_pointers(evidence: Evidence) -> Iterator[Finding]:
    chunks, files = evidence.rows("data/chunk_index"), evidence.rows("data/file_index")
    if chunks is None or files is None or min(chunks.min(initial=0), files.min(initial=0)) < 0:
        return
    missing: dict[str, list[int]] = {}
    wrong: list[tuple[int, str, str]] = []
    for number, place in enumerate(zip(chunks.tolist(), files.tolist(), strict=True)):
        said = evidence.info.data_file(*place)
        if not (evidence.root / said).is_file():
            missing.setdefault(said, []).append(number)
        elif number in evidence.runs:
            begin, end = evidence.runs[number]
            holders = {evidence.file_of(begin).name, evidence.file_of(end - 1).name}
            if holders != {said}:
                wrong.append((number, said, " and ".join(sorted(holders))))
    for said, episodes in missing.items():
        message = f"{said} does not exist, but {counted(len(episodes), 'episode')} should be in it"
        yield finding("missing-file", message, place=said, fix=RESTORE, episodes=episodes)
    if wrong:
        number, said, holder = wrong[0]
        message = f"episode {number} is in {holder}, not in {said} ({counted(len(wrong), 'episode')} in all)"
        episodes = [number for number, _, _ in wrong]
        yield finding("data-pointers", message, place="meta/episodes data/file_index", fix=_TABLE, episodes=episodes)


def _own_pointers(evidence: Evidence) -> Iterator[Finding]:
    """Rows of the episodes table say in which of its files they are; LeRobot needs that to merge and to resume."""
    names = ["meta/episodes/chunk_index", "meta/episodes/file_index"]
    wrong: dict[str, str] = {}
    for path in episodes_files(evidence.root) if evidence.episodes is not None else ():
        name = path.relative_to(evidence.root).as_posix()
        place = re.fullmatch(r"meta/episodes/chunk-(\d+)/file-(\d+)\.parquet", name)
        if not set(names) <= set(pq.read_schema(path).names):
            wrong[name] = "does not say where it is"
        elif place:
            said = read_parquet(path, names).to_pylist()
            if any(tuple(row.values()) != (int(place[1]), int(place[2])) for row in said):
                wrong[name] = "says that it is another file"
    if wrong:
        name, problem = next(iter(wrong.items()))
        message = f"{name} {problem} ({counted(len(wrong), 'file')} in all)"
        place_of = f"{name} {names[1]}"
        yield finding("data-pointers", message, place=place_of, fix=_TABLE, severity="warning")


def _task_index(evidence: Evidence) -> Iterator[Finding]:
    index, episode = evidence.columns.get("task_index"), evidence.columns.get("episode_index")
    if evidence.tasks is None or index is None or episode is None:
        return
    rows = np.flatnonzero((index < 0) | (index >= len(evidence.tasks)))
    if len(rows):
        row = int(rows[0])
        file = evidence.file_of(row)
        message = (
            f"task_index is {index[row]}, but the task table has {counted(len(evidence.tasks), 'task')}"
            f" ({counted(len(rows), 'frame')} in all)"
        )
        place = f"{file.name} row {row - file.first}"
        fix = f"restore {TASKS_PATH}, or delete the episodes concerned"
        yield finding("task-index", message, place=place, fix=fix, episodes=np.unique(episode[rows]))


def _episode_tasks(evidence: Evidence) -> Iterator[Finding]:
    index = evidence.columns.get("task_index")
    if evidence.tasks is None or index is None or evidence.episodes is None:
        return
    if "tasks" not in evidence.episodes.column_names:
        return
    wrong = []
    for number, said in enumerate(evidence.episodes.column("tasks").to_pylist()):
        begin, end = evidence.runs.get(number, (0, 0))
        used = np.unique(index[begin:end])
        known = {evidence.tasks[task] for task in used if 0 <= task < len(evidence.tasks)}
        if begin < end and set(said or []) != known:
            wrong.append((number, said or [], sorted(known)))
    if wrong:
        number, said, of = wrong[0]
        message = (
            f"episode {number} says its tasks are {said}, but its frames are of {of}"
            f" ({counted(len(wrong), 'episode')} in all)"
        )
        episodes = [number for number, _, _ in wrong]
        yield finding("episode-tasks", message, place="meta/episodes tasks", fix=_TABLE, episodes=episodes)

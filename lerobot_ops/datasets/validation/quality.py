"""Checks of what the dataset teaches: nothing here stops a reader, but a policy learns from it."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lerobot_ops.datasets.info import DEFAULT_FEATURES, TASKS_PATH
from lerobot_ops.datasets.validation.checks import Finding, counted, finding, listed
from lerobot_ops.datasets.validation.evidence import Evidence

_DELETE = "delete these episodes, unless you want them"
SHORT, LONG = 0.2, 5.0
"""Times the median length: an episode outside was probably stopped by mistake, or never stopped."""


def check_quality(evidence: Evidence) -> Iterator[Finding]:
    """All checks of this module."""
    yield from _without_success(evidence)
    yield from _lengths(evidence)
    yield from _task_texts(evidence)
    yield from _duplicates(evidence)


def _without_success(evidence: Evidence) -> Iterator[Finding]:
    success = evidence.columns.get("next.success")
    if success is None:
        return
    failed = [number for number, (begin, end) in sorted(evidence.runs.items()) if not success[begin:end].any()]
    if failed:
        message = f"{counted(len(failed), 'episode')} of {len(evidence.runs)} never reach success: {listed(failed)}"
        fix = "delete these episodes before training by imitation"
        yield finding("episode-without-success", message, place="data next.success", fix=fix, episodes=failed)


def _lengths(evidence: Evidence) -> Iterator[Finding]:
    lengths = {number: end - begin for number, (begin, end) in evidence.runs.items()}
    if not lengths:
        return
    median = float(np.median(list(lengths.values())))
    few = len(lengths) < 3
    short = sorted(n for n, length in lengths.items() if length < 2 or (not few and length < SHORT * median))
    long = sorted(n for n, length in lengths.items() if not few and length > LONG * median)
    for kind, episodes in (("short", short), ("long", long)):
        if episodes:
            shown = listed(f"episode {number} has {counted(lengths[number], 'frame')}" for number in episodes)
            message = f"{counted(len(episodes), 'episode')} very {kind} beside the median of {median:g} frames: {shown}"
            yield finding("episode-length", message, place="meta/episodes length", fix=_DELETE, episodes=episodes)


def _task_texts(evidence: Evidence) -> Iterator[Finding]:
    if evidence.tasks is None:
        return
    empty = [number for number, task in enumerate(evidence.tasks) if not task.strip()]
    if empty:
        index = evidence.columns.get("task_index")
        runs = sorted(evidence.runs.items()) if index is not None else []
        concerned = [number for number, (begin, end) in runs if np.isin(index[begin:end], empty).any()]  # type: ignore[index]
        message = f"{counted(len(empty), 'task')} without text: row {listed(empty)}"
        fix = "say in words what the robot has to do: policies that read language learn from it"
        yield finding("missing-task-text", message, place=TASKS_PATH, fix=fix, episodes=concerned)


def _duplicates(evidence: Evidence) -> Iterator[Finding]:
    columns = [values for name, values in sorted(evidence.columns.items()) if name not in DEFAULT_FEATURES]
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number, (begin, end) in sorted(evidence.runs.items()) if columns else ():
        digest = hashlib.blake2b(digest_size=16)
        for values in columns:
            digest.update(np.ascontiguousarray(values[begin:end]).data)
        groups[digest.digest()].append(number)
    twins = [numbers for numbers in groups.values() if len(numbers) > 1]
    if twins:
        shown = listed((" = ".join(map(str, numbers)) for numbers in twins), 3)
        message = f"{counted(len(twins), 'group')} of episodes with the same frames: {shown}"
        repeated = [number for numbers in twins for number in numbers[1:]]
        fix = "delete the repeated episodes; in training and test set at once they make a policy look better than it is"
        yield finding("duplicate-episodes", message, place="data", fix=fix, episodes=repeated)

"""Benchmarks by name. Runs in a sandbox too: needs only the standard library, numpy and the benchmark itself.

A third party adds a benchmark with an entry point in the group `lerobot_ops.envs` that names a `Benchmark`.
"""

import importlib
import importlib.metadata

from lerobot_ops.envs.interface import Benchmark, Env, Step
from lerobot_ops.errors import ConfigError, did_you_mean

__all__ = [
    "Benchmark",
    "Env",
    "Step",
    "benchmark",
    "benchmarks",
    "default_task",
    "instruction",
    "make_env",
    "task_groups",
    "tasks",
]

GROUP = "lerobot_ops.envs"
BUILT_IN = {
    "hub": "lerobot_ops.envs.hub:BENCHMARK",
    "libero": "lerobot_ops.envs.libero:BENCHMARK",
    "metaworld": "lerobot_ops.envs.metaworld:BENCHMARK",
    "pusht": "lerobot_ops.envs.pusht:BENCHMARK",
}


def benchmarks() -> list[str]:
    """The names of every benchmark, built in or installed."""
    installed = (entry.name for entry in importlib.metadata.entry_points(group=GROUP))
    return sorted({*BUILT_IN, *installed})


def benchmark(name: str) -> Benchmark:
    """The benchmark called `name`; raises ConfigError with the close matches when there is none."""
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name].split(":")
        found: Benchmark = getattr(importlib.import_module(module), attribute)
        return found
    for entry in importlib.metadata.entry_points(group=GROUP, name=name):
        loaded: Benchmark = entry.load()
        return loaded
    raise ConfigError("no such benchmark", field="env.type", found=name, fix=did_you_mean(name, benchmarks()))


def task_groups(name: str, selection: str) -> dict[str, list[str]]:
    """The tasks that a comma list of groups and tasks selects, by group; a task named alone is its own group.

    The position of a task in its group's list is LeRobot's `task_id`.
    """
    known = benchmark(name)
    groups: dict[str, list[str]] = {}
    for word in (part.strip() for part in selection.split(",")):
        if word in known.groups:
            groups[word] = list(known.groups[word])
        elif word in known.instructions:
            groups[word] = [word]
        elif word:
            fix = did_you_mean(word, [*known.instructions, *known.groups])
            raise ConfigError(f"{name} has no such task or group of tasks", field="env.task", found=word, fix=fix)
    if not groups:
        expected = f"a task, a group ({', '.join(known.groups)}) or a comma list of them"
        raise ConfigError("no task is selected", field="env.task", found=repr(selection), expected=expected)
    return groups


def tasks(name: str, selection: str) -> list[str]:
    """Every task that a comma list of groups and tasks selects, once, in order."""
    return list(dict.fromkeys(task for group in task_groups(name, selection).values() for task in group))


def instruction(name: str, task: str) -> str:
    """What to do in natural language."""
    return benchmark(name).instructions[tasks(name, task)[0]]


def default_task(name: str) -> str:
    """The task or group that is played when none is named."""
    known = benchmark(name)
    return known.default_task or next(iter([*known.groups, *known.instructions]), "")


def make_env(name: str, **options: object) -> Env:
    """The environment of one benchmark; needs its simulator, so it is called in a sandbox."""
    return benchmark(name).make(**options)

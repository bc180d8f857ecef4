"""Where the steps that a flow fans out run: in threads of its own process, or on a Dask cluster."""

import os
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from lerobot_ops.errors import PrerequisiteError

THREADS, DASK = "threads", "dask"


def open_runner(name: str, jobs: int) -> "TaskRunner[Any]":
    """The task runner that `name` means, with room for `jobs` at once as far as there are cores.

    `threads` are this process's own; `dask` is a cluster of processes on this machine; anything else is the address
    of a Dask scheduler. Raises PrerequisiteError when Dask is wanted and not installed.
    """
    at_once = beside(jobs)
    if name == THREADS:
        return ThreadPoolTaskRunner(max_workers=at_once)
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise PrerequisiteError(
            "the Dask task runner is not installed", field="runner", found=name, fix="pip install 'lerobot-ops[dask]'"
        ) from error
    if name != DASK:
        return DaskTaskRunner(address=name)
    # One task is one thread's: the simulators beside it are processes of their own.
    local = {"n_workers": at_once, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=local)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def beside(jobs: int) -> int:
    """How many of `jobs` run at once on this machine."""
    return max(1, min(jobs, cores()))

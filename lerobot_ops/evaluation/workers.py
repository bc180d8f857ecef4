"""Workers that are kept between one use and the next, because starting a simulator takes seconds; and how many."""

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation import rollout
from lerobot_ops.evaluation.config import simulators
from lerobot_ops.evaluation.rollout import Episode, Progress
from lerobot_ops.evaluation.sandbox import Sandbox, Worker


class WorkerPark:
    """Gives out workers of one sandbox, new or parked. The first one starts at once, so its `info` is known.

    Raises what `Sandbox.spawn` raises.
    """

    def __init__(self, sandbox: Sandbox, hello: dict[str, Any]) -> None:
        self._sandbox, self._hello = sandbox, hello
        self._lock = threading.Lock()
        first = sandbox.spawn(hello)
        self._idle = [first]
        self.info: dict[str, Any] = first.info
        """What a worker says of itself: fps, max_steps, action_dim, features, versions, render."""

    def take(self) -> Worker:
        """A worker that nobody else has."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._sandbox.spawn(self._hello)

    def park(self, worker: Worker) -> None:
        """Give a worker back that is in order."""
        with self._lock:
            self._idle.append(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the parked workers."""
        while self._idle:
            self._idle.pop().close()


@dataclass(frozen=True)
class Crew:
    """How many simulators run at once, and why."""

    count: int
    reason: str


def crew(requested: int, jobs: int, memory: int | None) -> Crew:
    """`requested` simulators; for 0 one per core that this process may use, as far as memory allows.

    `memory` is what one simulator takes, in bytes, of which one runs already; None when it is not known. A quarter is
    added, since it is measured at an episode's beginning. There are never more simulators than `jobs`.
    """
    if requested:
        return Crew(max(1, min(requested, jobs)), f"eval.batch_size is {requested}, for {jobs} episodes")
    cores, free = simulators(0, jobs), available_memory()
    if memory is None or free is None:
        return Crew(cores, f"as many as cores, for {jobs} episodes")
    each = memory * 5 // 4
    room = 1 + int(free * 0.9) // max(1, each)
    sizes = f"{each / 1e9:.2f} GB for each, of {free / 1e9:.1f} GB free"
    return Crew(min(cores, room), f"{cores} by cores and episodes, {room} by memory ({sizes})")


def measured(park: WorkerPark, episode: Episode, cameras: list[str]) -> int | None:
    """The memory of a simulator that has begun an episode, in bytes; it stays in the park, built for the task.

    None when the simulator broke; playing finds out why.
    """
    worker = park.take()
    try:
        reply = rollout.begin(worker, Progress(episode), cameras)
    except BaseException as error:
        worker.close()
        if isinstance(error, SandboxError):
            return None
        raise
    park.park(worker)
    return int(reply["memory"])


def available_memory() -> int | None:
    """Bytes that new processes may take without swapping: what is free, within this process's control group."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, max(0, limit - used + int(pages["inactive_file"])))
    return free

"""Workers that are kept between one use and the next, because starting a simulator takes seconds."""

import threading
from typing import Any, Self

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

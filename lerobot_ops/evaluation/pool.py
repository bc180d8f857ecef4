"""A pool of simulators: every worker plays one episode at a time, and starts the next at once when it is free.

One thread waits on each worker's pipe. Everything else happens in the thread that called `run`: queries of the policy
(`Desk.ask`) and the delivery of results, so neither needs a lock. When a worker dies, hangs or fails, a new one repeats
its episode once; the second time the episode's result is the error.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation import stopping

Job = TypeVar("Job")
Result = TypeVar("Result")
Answer = TypeVar("Answer")

ATTEMPTS = 2


class Worker(Protocol):
    """What the pool needs of a simulator; `evaluation.sandbox` has the real ones."""

    def request(self, message: dict[str, Any], timeout: float | None = None) -> dict[str, Any]: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...


W = TypeVar("W", bound=Worker)


@dataclass(frozen=True)
class Turn:
    """Who plays a job, and whether for the first time."""

    slot: int = 0
    """Number of the simulator, from 0; one that replaces another has its number."""
    attempt: int = 1


FIRST_TURN = Turn()


@dataclass(frozen=True)
class Failure:
    """The result of a job that no worker could finish."""

    error: SandboxError
    turn: Turn


class Desk:
    """Where worker threads hand work to the thread that runs the pool."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._closed = threading.Event()

    def ask(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Have `function(*arguments)` called in the pool's thread, and wait for what it returns."""
        return self.post(function, *arguments).result()

    def post(self, function: Callable[..., Answer], *arguments: Any) -> "Future[Answer]":
        """The same without waiting."""
        future: Future[Answer] = Future()
        if self._closed.is_set():
            future.cancel()
        else:
            self._inbox.put((future, lambda: function(*arguments)))
        return future

    def serve(self) -> None:
        """Do the next piece of work; what it raises is raised here as well, since it ends the pool."""
        future, work = self._inbox.get()
        try:
            future.set_result(work())
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Refuse and cancel all work, so that nobody waits for it."""
        self._closed.set()
        while not self._inbox.empty():
            self._inbox.get()[0].cancel()


def run(
    jobs: Sequence[Job],
    *,
    spawn: Callable[[], W],
    play: Callable[[W, Job, Turn, Desk], Result],
    deliver: Callable[[Job, Result | Failure], None],
    workers: int,
    retire: Callable[[W], None] | None = None,
    kind: Callable[[Job], object] = lambda job: None,
) -> None:
    """Play every job on one of `workers` simulators, as they become free.

    A simulator goes on with jobs of the `kind` that it had, since it is built for them already; then it takes up a kind
    that no other plays, then any. Otherwise the order is that of `jobs`.

    `play(worker, job, turn, desk)` runs in a worker's thread; `deliver(job, result)` runs here, in the order in
    which jobs finish. `retire(worker)` takes a worker that has no more to do; by default it is closed. An error of a
    worker (SandboxError) leads to a second attempt and then to a Failure. Any other error, a second error of `spawn`,
    and what `deliver` or a function given to the desk raises end the run: all workers are killed and it is raised here.
    """
    crew = _Crew(_Queue(jobs, kind), spawn, play, deliver, retire or _close)
    crew.start(min(workers, len(jobs)))
    try:
        with stopping.told_by(lambda: crew.desk.post(stopping.check)):
            while crew.working:
                crew.desk.serve()
    finally:
        crew.dismiss()


class _Queue(Generic[Job]):
    """The jobs that nobody has begun, and which kind each simulator plays."""

    def __init__(self, jobs: Sequence[Job], kind: Callable[[Job], object]) -> None:
        self._waiting: dict[object, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(kind(job), deque()).append(job)
        self._played: dict[int, object] = {}
        self._lock = threading.Lock()

    def take(self, slot: int) -> tuple[Job] | None:
        """The next job for one simulator, if there is any."""
        with self._lock:
            if not self._waiting:
                return None
            chosen = self._played.get(slot)
            if slot not in self._played or chosen not in self._waiting:
                busy = [kind for other, kind in self._played.items() if other != slot]
                chosen = next((kind for kind in self._waiting if kind not in busy), next(iter(self._waiting)))
            self._played[slot] = chosen
            job = self._waiting[chosen].popleft()
            if not self._waiting[chosen]:
                del self._waiting[chosen]
            return (job,)


class _Crew(Generic[W, Job, Result]):
    """The threads of one run and the jobs that are left."""

    def __init__(
        self,
        jobs: _Queue[Job],
        spawn: Callable[[], W],
        play: Callable[[W, Job, Turn, Desk], Result],
        deliver: Callable[[Job, Result | Failure], None],
        retire: Callable[[W], None],
    ) -> None:
        self.jobs, self.spawn, self.play, self.deliver, self.retire = jobs, spawn, play, deliver, retire
        self.desk = Desk()
        self.working = 0
        self._threads: list[threading.Thread] = []
        self._alive: set[W] = set()
        self._lock = threading.Lock()
        self._dismissed = False

    def start(self, count: int) -> None:
        self.working = count
        self._threads = [
            threading.Thread(target=self._work, args=(n,), name=f"simulator-{n}", daemon=True) for n in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def dismiss(self) -> None:
        """Kill what is still running and wait for the threads; does nothing after a run that ended well."""
        with self._lock:
            self._dismissed = True
            alive = list(self._alive)
        for worker in alive:
            worker.kill()
        for thread in self._threads:
            while thread.is_alive():
                self.desk.close()
                thread.join(timeout=0.05)

    def _work(self, slot: int) -> None:
        """Play jobs until none is left; the life of one thread."""
        worker: W | None = None
        try:
            while not self._dismissed and (job := self.jobs.take(slot)) is not None:
                worker, result = self._attempt(worker, job[0], slot)
                self.desk.post(self.deliver, job[0], result)
            if worker is not None:
                self._part(worker, self.retire)
            self.desk.post(self._leave, None)
        except BaseException as error:
            if worker is not None:
                self._part(worker, _close)
            self.desk.post(self._leave, error)

    def _attempt(self, worker: W | None, job: Job, slot: int) -> tuple[W | None, Result | Failure]:
        """The job's result, and the worker that is ready for the next one."""
        for attempt in range(1, ATTEMPTS + 1):
            worker, turn = worker or self._join(), Turn(slot, attempt)
            try:
                return worker, self.play(worker, job, turn, self.desk)
            except SandboxError as error:
                self._part(worker, _close)
                worker, failure = None, Failure(error, turn)
        return None, failure

    def _join(self) -> W:
        try:
            worker = self._start()
        except SandboxError:  # what kills simulators also kills those that start; one that cannot start fails again
            worker = self._start()
        with self._lock:
            self._alive.add(worker)
            dismissed = self._dismissed
        if dismissed:
            self._part(worker, _close)
            raise SandboxError("the run was stopped")
        return worker

    def _start(self) -> W:
        if self._dismissed:  # a second attempt would start a simulator only to kill it
            raise SandboxError("the run was stopped")
        return self.spawn()

    def _part(self, worker: W, end: Callable[[W], None]) -> None:
        with self._lock:
            self._alive.discard(worker)
        end(worker)

    def _leave(self, error: BaseException | None) -> None:
        self.working -= 1
        if error is not None:
            raise error


def _close(worker: Worker) -> None:
    worker.close()

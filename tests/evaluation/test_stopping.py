"""Ctrl-C and SIGTERM reach only the main thread; evaluations in other threads are stopped from there."""

import threading

import pytest

from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation import pool, stopping


class Patient:
    """A simulator that works until it is killed."""

    def __init__(self) -> None:
        self.killed = threading.Event()

    def request(self, message, timeout=None):
        self.killed.wait()
        raise SandboxError("killed")

    def close(self) -> None:
        self.killed.set()

    kill = close


def play(worker, job, attempt, desk):
    return worker.request({"op": "step"})


def test_what_runs_in_threads_ends_when_everything_is_stopped() -> None:
    workers, began, ended = [], threading.Barrier(3), []

    def spawn() -> Patient:
        worker = Patient()
        workers.append(worker)
        began.wait(timeout=10)
        return worker

    def evaluation() -> None:
        try:
            pool.run([1, 2, 3], spawn=spawn, play=play, deliver=lambda *_: None, workers=1)
        except stopping.StoppedError as error:
            ended.append(error)

    threads = [threading.Thread(target=evaluation) for _ in range(2)]
    with stopping.stoppable():
        for thread in threads:
            thread.start()
        began.wait(timeout=10)
        stopping.stop_all()
        for thread in threads:
            thread.join(timeout=10)
        assert len(ended) == 2
        assert all(worker.killed.is_set() for worker in workers)
        with pytest.raises(stopping.StoppedError):
            pool.run([1], spawn=Patient, play=play, deliver=lambda *_: None, workers=1)


def test_the_next_evaluation_is_not_held_back() -> None:
    with stopping.stoppable():
        stopping.stop_all()
    stopping.check()
    done = []
    pool.run(["a"], spawn=Patient, play=lambda *_: 1, deliver=lambda *result: done.append(result), workers=1)
    assert done == [("a", 1)]

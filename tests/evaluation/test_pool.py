"""The pool with real workers of a benchmark that dies, fails or dawdles on request."""

import itertools
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation import pool
from lerobot_ops.evaluation.sandbox import SandboxConfig, WorkerDied, WorkerFailed, WorkerTimeout
from lerobot_ops.evaluation.sandbox.process import start

BENCHMARK = """
import os, time
from pathlib import Path
import numpy as np
from lerobot_ops.envs import Benchmark, Step

class Env:
    fps, action_dim, max_steps = 10, 1, 5
    features = {"observation.state": {"dtype": "int64", "shape": [1], "names": None}}

    def __init__(self, marks):
        self.marks = Path(marks)

    def reset(self, task, seed, number=0):
        mark = self.marks / f"{task}-{seed}"
        first = not mark.exists()
        mark.touch()
        if task == "crash" or (task == "crash-once" and first):
            os.abort()
        if task == "fail-once" and first:
            raise ValueError("the layout is impossible")
        if task == "hang-once" and first:
            time.sleep(1000)
        while task == "patient" and not (self.marks / "steady-8").exists():
            time.sleep(0.01)

    def step(self, action):
        return Step(1.0, True, True, False)

    def observe(self, cameras):
        return {"observation.state": np.array([os.getpid()])}

    def close(self):
        pass

tasks = "steady patient crash crash-once fail-once hang-once".split()
BENCHMARK = Benchmark("fickle", {task: task for task in tasks}, Env)
"""


@pytest.fixture(scope="module")
def search_path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("third-party")
    (folder / "fickle.py").write_text(BENCHMARK)
    info = folder / "fickle-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fickle\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lerobot_ops.envs]\nfickle = fickle:BENCHMARK\n")
    return Path(f"{folder}:{Path(__file__).parents[2]}")


class Bench:
    """A sandbox of fickle simulators, and everything that happened on them."""

    def __init__(self, search_path: Path, marks: Path) -> None:
        self._path, self._marks = search_path, marks
        self.step_timeout_s = 60.0
        self.spawned = []
        self.results = {}
        self.threads = set()

    def spawn(self):
        config = SandboxConfig(type="process", step_timeout_s=self.step_timeout_s)
        hello = {"options": {"marks": str(self._marks)}}
        worker = start("fickle", config, hello, Path(sys.executable), self._path, 0)
        self.spawned.append(worker)
        return worker

    def play(self, worker, job, turn, desk):
        task, seed = job
        reply = worker.request({"op": "reset", "task": task, "seed": seed})
        thread = desk.ask(threading.get_ident)
        return {"process": int(reply["observation"]["observation.state"][0]), "attempt": turn.attempt, "asked": thread}

    def deliver(self, job, result):
        self.threads.add(threading.get_ident())
        self.results[job] = result

    def run(self, jobs, workers=2, **changes):
        pool.run(
            jobs, **{"spawn": self.spawn, "play": self.play, "deliver": self.deliver, "workers": workers, **changes}
        )


@pytest.fixture
def bench(search_path, tmp_path):
    return Bench(search_path, tmp_path)


def assert_nothing_is_left(bench):
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("simulator-")]
    for worker in bench.spawned:
        with pytest.raises(SandboxError):
            worker.request({"op": "reset", "task": "steady", "seed": 0})


def test_every_job_is_played_once_and_decided_in_one_thread(bench):
    jobs = [("steady", seed) for seed in range(20)]
    bench.run(jobs)
    assert set(bench.results) == set(jobs)
    assert {result["attempt"] for result in bench.results.values()} == {1}
    here = {threading.get_ident()}
    assert bench.threads == here == {result["asked"] for result in bench.results.values()}
    assert len(bench.spawned) == 2
    assert_nothing_is_left(bench)


def test_a_free_worker_does_not_wait_for_a_slow_one(bench):
    bench.run([("patient", 0), *(("steady", seed) for seed in range(9))])
    busy = bench.results["patient", 0]["process"]
    shares = Counter(result["process"] for result in bench.results.values())
    assert shares[busy] == 1
    assert sum(shares.values()) == 10


@pytest.mark.parametrize("task", ["crash-once", "fail-once", "hang-once"])
def test_a_broken_worker_is_replaced_and_its_episode_repeated(bench, task):
    bench.step_timeout_s = 2
    bench.run([("steady", 0), (task, 0), ("steady", 1)], workers=1)
    assert [bench.results[job]["attempt"] for job in [("steady", 0), (task, 0), ("steady", 1)]] == [1, 2, 1]
    assert bench.results["steady", 0]["process"] != bench.results["steady", 1]["process"]
    assert len(bench.spawned) == 2
    assert_nothing_is_left(bench)


def test_what_breaks_its_worker_twice_is_a_failure_and_the_rest_goes_on(bench):
    bench.run([("crash", 0), ("steady", 0), ("crash", 1)])
    assert bench.results["steady", 0]["attempt"] == 1
    for seed in (0, 1):
        failure = bench.results["crash", seed]
        assert isinstance(failure, pool.Failure)
        assert isinstance(failure.error, WorkerDied)
        assert failure.turn.attempt == 2
        assert "SIGABRT" in str(failure.error)


def test_errors_say_how_a_worker_broke(bench):
    bench.step_timeout_s = 2
    errors = {}

    def play(worker, job, turn, desk):
        try:
            return bench.play(worker, job, turn, desk)
        except SandboxError as error:
            errors[job[0]] = type(error)
            raise

    bench.run([("crash-once", 0), ("fail-once", 0), ("hang-once", 0)], play=play)
    assert errors == {"crash-once": WorkerDied, "fail-once": WorkerFailed, "hang-once": WorkerTimeout}


def test_workers_that_are_done_can_be_kept(bench):
    kept = []
    bench.run([("steady", 0), ("steady", 1)], retire=kept.append)
    assert all(worker in bench.spawned for worker in kept)
    for worker in kept:
        worker.request({"op": "reset", "task": "steady", "seed": 2})
        worker.close()


class PolicyBroke(Exception):
    """Not the simulator's fault."""


def test_an_error_of_the_policy_ends_the_run_at_once(bench):
    def breaking():
        raise PolicyBroke

    def play(worker, job, turn, desk):
        return desk.ask(breaking) if job[1] == 3 else bench.play(worker, job, turn, desk)

    with pytest.raises(PolicyBroke):
        bench.run([("steady", seed) for seed in range(100)], play=play)
    assert len(bench.results) < 100
    assert_nothing_is_left(bench)


@pytest.mark.parametrize("error", [KeyboardInterrupt, PolicyBroke])
def test_an_interruption_stops_workers_in_the_middle_of_an_episode(bench, error):
    def deliver(job, result):
        raise error

    started = time.monotonic()
    with pytest.raises(error):
        bench.run([("steady", 0), ("hang-once", 0)], deliver=deliver)
    assert time.monotonic() - started < 10
    assert_nothing_is_left(bench)


def test_a_worker_that_cannot_start_ends_the_run(bench):
    asked = []

    def spawn():
        asked.append(None)
        if len(asked) > 1:
            raise SandboxError("no room for another simulator")
        return bench.spawn()

    with pytest.raises(SandboxError, match="no room"):
        bench.run([("steady", seed) for seed in range(5)], spawn=spawn)
    assert len(bench.results) < 5
    assert_nothing_is_left(bench)


def test_no_jobs_need_no_worker(bench):
    bench.run([])
    assert bench.spawned == []


def test_a_simulator_goes_on_with_the_task_that_it_was_built_for(bench):
    played = []

    def play(worker, job, turn, desk):
        result = bench.play(worker, job, turn, desk)
        played.append((turn.slot, job[1] // 10))
        return result

    # Three kinds of four jobs each, in turns; the seed's tens are the kind.
    jobs = [("steady", 10 * kind + number) for number in range(4) for kind in range(3)]
    bench.run(jobs, play=play, kind=lambda job: job[1] // 10)
    assert set(bench.results) == set(jobs)
    for slot in (0, 1):
        kinds = [kind for other, kind in played if other == slot]
        changes = sum(one != other for one, other in itertools.pairwise(kinds))
        assert changes <= 2, "a simulator takes up another task only when its own is played"
    first = {slot: next(kind for other, kind in played if other == slot) for slot in (0, 1)}
    assert set(first.values()) == {0, 1}, "each begins with a task of its own"

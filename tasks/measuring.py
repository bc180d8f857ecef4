"""One policy on several benchmarks, each in several shards: every pair is a task run, wherever it runs."""

import contextlib
import importlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from prefect.task_runners import TaskRunner

from lerobot_ops.evaluation import stopping
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.shards import shards_of
from tasks.containers import remove_containers
from tasks.evaluation import evaluate_policy, evaluate_shard, merge_evaluation
from tasks.runners import THREADS, beside, cores, open_runner
from tasks.steps import Artifact, Links, Share, run_step, submit_step


@dataclass(frozen=True)
class Measurement:
    """A policy that is measured, and how the work is shared out."""

    source: Artifact | None
    """Its checkpoint, or the dataset that is replayed; None for a policy that needs neither."""
    links: Links
    shards: int = 1
    """Parts of each benchmark."""
    runner: str = THREADS
    """See `tasks.runners`."""
    occasion: str = ""
    """The same measurement is made once for each occasion."""


def measure(configs: Mapping[str, EvalConfig], measurement: Measurement) -> dict[str, Artifact | Exception]:
    """The evaluation of each benchmark, or why there is none: one that fails does not keep the others from going on."""
    jobs = len(configs) * measurement.shards
    if jobs == 1 and measurement.runner == THREADS:
        (name,) = configs
        inputs = _inputs(configs[name], measurement)
        with stopping.stoppable(), _clearing_up():
            return {name: _outcome(lambda: run_step(evaluate_policy, share=Share(), **inputs))}
    if measurement.source is not None and measurement.source.kind == "checkpoint":
        importlib.import_module("lerobot_ops.policies.inference")  # threads would meet torch half imported
    # Threads share this machine's cores; on a cluster each task has its worker's.
    share = Share(simulators=max(1, cores() // beside(jobs)) if measurement.runner == THREADS else 0)
    with stopping.stoppable(), open_runner(measurement.runner, jobs) as runner, _clearing_up():
        waiting = {name: _submit(runner, name, config, measurement, share) for name, config in configs.items()}
        return {name: _outcome(wait) for name, wait in waiting.items()}


def _inputs(config: EvalConfig, measurement: Measurement) -> dict[str, Any]:
    return {
        "config": config,
        "source": measurement.source,
        "links": measurement.links,
        "occasion": measurement.occasion,
    }


def _submit(
    runner: "TaskRunner[Any]", name: str, config: EvalConfig, measurement: Measurement, share: Share
) -> Callable[[], Artifact]:
    """Begin a benchmark; what comes back waits for its evaluation."""
    inputs = _inputs(config, measurement)
    if measurement.shards == 1:
        return submit_step(runner, evaluate_policy, label=f"evaluate {name}", share=share, **inputs)
    links, occasion = inputs.pop("links"), inputs.pop("occasion")
    waiting = []
    for shard in shards_of(config, measurement.shards):
        played = inputs | {"config": shard, "share": share, "occasion": occasion}
        label = f"evaluate {name} {shard.shard}"
        waiting.append(submit_step(runner, evaluate_shard, label=label, **played))

    def merge() -> Artifact:
        outcomes = [_outcome(wait) for wait in waiting]  # all of them: what was begun is finished and kept
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return run_step(merge_evaluation, label=f"merge {name}", shards=outcomes, links=links, **inputs)

    return merge


def _outcome(work: Callable[[], Artifact]) -> Artifact | Exception:
    try:
        return work()
    except Exception as error:
        return error


@contextlib.contextmanager
def _clearing_up() -> Iterator[None]:
    """When the run is stopped, stop its threads too, and leave no container behind."""
    try:
        with _passing_signals_on():
            yield
    except BaseException:
        stopping.stop_all()
        remove_containers()
        raise


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[None]:
    """Tell the threads of Ctrl-C and SIGTERM as they arrive.

    The exception that they raise in the main thread may get lost: Python drops one that is raised in a callback or a
    destructor, and libraries catch some. Without this the evaluations would then go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def tell(number: int, frame: FrameType | None) -> None:
        stopping.stop_all()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            raise SystemExit(128 + number)

    for number in before:
        signal.signal(number, tell)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

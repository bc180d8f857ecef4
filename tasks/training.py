"""The training step."""

import contextvars
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import task
from prefect.logging import get_run_logger

from lerobot_ops.config import content_key
from lerobot_ops.evaluation.in_training import EvaluatedTrainConfig
from lerobot_ops.training.interrupts import interrupting_threads
from tasks.cores import training_on
from tasks.progress import TrainingShown
from tasks.steps import CACHED, Artifact, Links, current_key, heard, may_pass, place

if TYPE_CHECKING:
    from lerobot_ops.training.train import TrainResult

R = TypeVar("R")
TRAINED: dict[str, Any] = {**CACHED, "retries": 2, "retry_delay_seconds": 5, "retry_condition_fn": may_pass}
"""A further attempt goes on from the last checkpoint of the one before."""


@task(name="train", version="2", **TRAINED)
def train_policy(config: EvaluatedTrainConfig, dataset: Artifact, links: Links) -> Artifact:
    """Train a policy; continues from the last checkpoint that an interrupted run or attempt had saved."""
    from lerobot_ops.evaluation.in_training import train_evaluated
    from lerobot_ops.policies.device import best_device  # torch takes seconds to import
    from lerobot_ops.training.tracked import registered, run_id

    name = f"{config.policy.type}-{dataset.name.replace('/', '-')}"
    run_dir = training_place(config, dataset, name)
    located = config.altered("dataset.root", dataset.path).altered("output_dir", run_dir).altered("resume", "auto")

    def work() -> "TrainResult":
        return train_evaluated(
            located,
            links.tracking,
            parent_id=links.parent_run,
            model=links.model,
            tags=links.tags,
            on_metrics=TrainingShown(f"train {name}", config.steps, get_run_logger().info),
        )

    with heard(), training_on(best_device(config.policy.device)):
        result = beside_signals(work)
    version = registered(run_dir)
    facts = {
        "policy": config.policy.type,
        "steps": result.steps,
        **result.metrics,
        "dataset": dataset.digest,
        "mlflow_run": run_id(run_dir),
        "registered": asdict(version) if version else None,
    }
    return Artifact.at(result.checkpoint, "checkpoint", name, current_key(), facts)


def training_place(config: EvaluatedTrainConfig, dataset: Artifact, name: str) -> Path:
    """The run directory of a training: named by what decides its result, and by nothing else.

    So one that ran out of memory goes on with fewer `num_workers`, and one with other intervals does not begin anew.
    """
    return place("train", name, content_key("train", config.identity(dataset.digest)))


def beside_signals(work: Callable[[], R]) -> R:
    """Do `work`, which trains, in a thread; a signal ends it with a checkpoint, and then does what it does in Prefect.

    Prefect tells a cancelled flow run from a crashed one only while SIGTERM's handler is its own, which raises wherever
    the main thread is: it must not be in the middle of a step then.
    """
    context = contextvars.copy_context()
    with interrupting_threads() as interrupt, ThreadPoolExecutor(1, "train") as pool:
        future = pool.submit(context.run, work)
        try:
            return future.result()
        except BaseException as error:
            if not future.done():
                interrupt(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
            raise

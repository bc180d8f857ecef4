"""Evaluation with its run in MLflow: `pc_success` with its interval, per task and overall, and the clips."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lerobot_ops.artifacts import write_json
from lerobot_ops.errors import OpsError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import EvalResult, evaluate
from lerobot_ops.tracking import Run, TrackingConfig, open_run

RUN_FILE = "run.json"
"""Beside the results: the MLflow run that they were logged to."""
ARTIFACTS = "evaluation"
"""Artifact folder of a run that holds its evaluation."""


class TrackedEvalConfig(EvalConfig):
    """An evaluation from the command line."""

    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go."""


def evaluate_tracked(
    config: EvalConfig,
    tracking: TrackingConfig,
    *,
    parent_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_record: Callable[[Any], None] | None = None,
) -> EvalResult:
    """Evaluate, and log the configuration, the success rates, the records and the clips; or that it failed, and why."""
    try:
        result = evaluate(config, on_record=on_record)
    except OpsError as error:
        track_failure(benchmark_name(config), str(error), tracking, parent_id=parent_id, tags=tags)
        raise
    track(result, config, tracking, parent_id=parent_id, tags=tags)
    return result


def track(
    result: EvalResult,
    config: EvalConfig,
    tracking: TrackingConfig,
    *,
    parent_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log a finished evaluation of `config` in a run of its own."""
    benchmark = benchmark_name(config)
    identity = {"step": "evaluate", "benchmark": benchmark, "sandbox": result.sandbox}
    identity |= {"image.digest": result.identity, "recipe.digest": result.recipe, "policy": result.policy}
    if result.stop is not None:
        identity["stop.verdict"] = result.stop.verdict
    params = config.model_dump(mode="json", exclude={"tracking"})
    with open_run(
        tracking, name=f"eval {benchmark}", parent_id=parent_id, tags={**identity, **(tags or {})}, params=params
    ) as run:
        log_scores(run, benchmark, json.loads((result.output_dir / "metrics.json").read_text()))
        run.log_artifacts(result.output_dir, ARTIFACTS)
    write_json(run_file(result.output_dir), {"run_id": run.id})


def track_failure(
    benchmark: str,
    problem: str,
    tracking: TrackingConfig,
    *,
    parent_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log that a benchmark could not be measured, as a failed run; the health page says it until a measurement does."""
    named = {"step": "evaluate", "benchmark": benchmark, "problem": problem}
    run = open_run(tracking, name=f"eval {benchmark}", parent_id=parent_id, tags={**named, **(tags or {})})
    run.finish("FAILED")


def benchmark_name(config: EvalConfig) -> str:
    """What an evaluation's results are called: the benchmark and its tasks."""
    name = f"{config.env.type}-{config.env.task.replace(',', '+')}"
    return name if config.env.task_ids is None else f"{name}-{'+'.join(map(str, config.env.task_ids))}"


def log_scores(run: Run, benchmark: str, metrics: dict[str, Any]) -> None:
    """Log an evaluation's scores: `pc_success` overall, and each task's under `eval/<benchmark>/<task>/`."""
    overall = {f"eval/{benchmark}/{name}": value for name, value in _numbers(metrics).items()}
    per_task = {
        f"eval/{benchmark}/{task}/{name}": value
        for task, score in metrics["per_task"].items()
        for name, value in _numbers(score).items()
    }
    run.log_metrics({**_numbers(metrics), **overall, **per_task})


def run_file(output_dir: Path) -> Path:
    """Where an evaluation's MLflow run is kept: beside the results, since their bytes must not depend on it."""
    return output_dir.with_name(f"{output_dir.name}.{RUN_FILE}")


def run_id(output_dir: Path) -> str | None:
    """The MLflow run of the evaluation in `output_dir`."""
    file = run_file(output_dir)
    stored: str | None = json.loads(file.read_text())["run_id"] if file.exists() else None
    return stored


def _numbers(score: dict[str, Any]) -> dict[str, float]:
    names = ("pc_success", "ci_low", "ci_high", "n_episodes", "n_errors", "avg_sum_reward", "avg_steps", "eval_s")
    return {name: float(score[name]) for name in names if score.get(name) is not None}

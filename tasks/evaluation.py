"""The evaluation steps: one benchmark at once, or in shards that are merged."""

import json
from pathlib import Path
from typing import Any

from prefect import task

from lerobot_ops.evaluation.config import EvalConfig, simulators
from lerobot_ops.evaluation.evaluate import EvalResult, evaluate
from lerobot_ops.evaluation.result import load_result
from lerobot_ops.evaluation.shards import merge_shards
from lerobot_ops.evaluation.tracked import benchmark_name, run_id, track
from tasks.containers import run_labels
from tasks.cores import occupied
from tasks.progress import showing
from tasks.steps import CACHED, Artifact, Links, Share, current_key, may_pass, place

PLAYED: dict[str, Any] = {**CACHED, "retries": 1, "retry_delay_seconds": 2, "retry_condition_fn": may_pass}
"""A second attempt goes on with the episodes that the first one finished."""


@task(name="evaluate", version="2", **PLAYED)
def evaluate_policy(
    config: EvalConfig, source: Artifact | None, links: Links, share: Share, occasion: str = ""
) -> Artifact:
    """Measure a policy's success rate; keeps the episodes that an interrupted run had finished.

    The same measurement is made once for each `occasion`.
    """
    key, name = current_key(), benchmark_name(config)
    output = place("eval", name, key)
    if not output.exists():
        _play(config, source, share, output)
    return _logged(config, source, links, output, key)


@task(name="evaluate shard", version="1", **PLAYED)
def evaluate_shard(config: EvalConfig, source: Artifact | None, share: Share, occasion: str = "") -> Artifact:
    """Play the episodes of `config.shard`; the evaluation's figures follow when its shards are merged."""
    key, name = current_key(), benchmark_name(config)
    output = place("shards", name, key)
    if not output.exists():
        _play(config, source, share, output)
    return Artifact.at(output, "evaluation", f"{name} {config.shard}", key)


@task(name="merge shards", version="1", **CACHED)
def merge_evaluation(config: EvalConfig, shards: list[Artifact], source: Artifact | None, links: Links) -> Artifact:
    """The evaluation that its shards make together: the same records as played at once."""
    key, name = current_key(), benchmark_name(config)
    output = place("eval", name, key)
    if not output.exists():
        merge_shards([shard.path for shard in shards], output)
    return _logged(config, source, links, output, key)


def _play(config: EvalConfig, source: Artifact | None, share: Share, output: Path) -> EvalResult:
    """Play and record the episodes of `config` into `output`, when there are cores for it."""
    located = _located(config, source).altered("output_dir", output)
    located = located.altered("sandbox.labels", {**config.sandbox.labels, **run_labels()})
    if share.simulators and not config.eval.batch_size:
        located = located.altered("eval.batch_size", share.simulators)
    policy = config.policy.path if config.policy.is_sanity else "checkpoint"
    label = " ".join(filter(None, [benchmark_name(config), policy, config.shard]))
    episodes = len(config.episodes())
    with showing(label, episodes) as on_record, occupied(simulators(located.eval.batch_size, episodes)):
        return evaluate(located, on_record=on_record)


def _logged(config: EvalConfig, source: Artifact | None, links: Links, output: Path, key: str) -> Artifact:
    """The evaluation in `output` as an artifact, with its run in MLflow."""
    policy = config.policy.path if config.policy.is_sanity or source is None else source.digest
    if links.tracking.enable and run_id(output) is None:
        located = _located(config, source).altered("output_dir", output)
        tags = {"policy": policy, **links.tags}
        track(load_result(output), located, links.tracking, parent_id=links.parent_run, tags=tags)
    metrics = json.loads((output / "metrics.json").read_text())
    facts = {**metrics, "policy": policy, "mlflow_run": run_id(output)}
    return Artifact.at(output, "evaluation", benchmark_name(config), key, facts)


def _located(config: EvalConfig, source: Artifact | None) -> EvalConfig:
    """Where the checkpoint, or the dataset that is replayed, lies: that is no part of a step's key."""
    if source is None:
        return config
    if source.kind == "dataset":
        return config.altered("policy.dataset", source.path)
    return config.altered("policy.path", str(source.path))

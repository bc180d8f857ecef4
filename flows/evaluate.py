"""Measure a policy: `python -m flows.evaluate --policy.path=PATH --env.task=button-press-topdown-v3`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import Field, model_validator

from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation.config import EnvConfig, EvalConfig
from lerobot_ops.evaluation.tracked import benchmark_name
from lerobot_ops.hub.checkpoints import checkpoint_folder
from tasks.comparing import against_champion
from tasks.datasets import dataset_at
from tasks.measuring import Measurement, measure
from tasks.runners import THREADS
from tasks.steps import Artifact, Links, slug
from tasks.tables import show_scores


class EvaluateConfig(EvalConfig):
    """A measurement of one policy on one benchmark or on several, shared out over threads or machines."""

    benchmarks: dict[str, EnvConfig] = {}
    """Several benchmarks by name, instead of `env`."""
    shards: int = Field(default=1, ge=1)
    """Parts that each benchmark's episodes are played in, side by side. The result does not depend on it."""
    runner: str = THREADS
    """Where the parts run: `threads` of this process, `dask` for a Dask cluster of its own, or a Dask scheduler's
    address."""
    champion: str | None = None
    """A registered model; the success rates are compared with those of its champion."""

    @model_validator(mode="before")
    @classmethod
    def _of_one(cls, values: Any) -> Any:
        """A plain evaluation is one of a single benchmark in one part."""
        return dict(values) if isinstance(values, EvalConfig) and not isinstance(values, cls) else values

    def evaluations(self) -> dict[str, EvalConfig]:
        """The evaluation of each benchmark, by name."""
        plain = EvalConfig(**{name: getattr(self, name) for name in EvalConfig.model_fields})
        if not self.benchmarks:
            return {benchmark_name(plain): plain}
        return {name: plain.altered("env", env) for name, env in self.benchmarks.items()}


@flow(name="evaluate")
def evaluate(config: EvaluateConfig, links: Links = Links()) -> dict[str, Artifact]:
    """Measure a policy's success rate in a sandbox, on each benchmark; keeps what an interrupted run had finished."""
    config, source = located(config)
    measurement = Measurement(source, links, config.shards, config.runner)
    outcomes = measure(config.evaluations(), measurement)
    for name, outcome in outcomes.items():
        if isinstance(outcome, Artifact):
            change = against_champion(outcome, config.champion or links.model, links.tracking)
            show_scores(f"benchmark-{slug(name)}", name, outcome.facts, change)
    return complete(outcomes)


def located(config: EvaluateConfig) -> tuple[EvaluateConfig, Artifact | None]:
    """The configuration without places, and the checkpoint, or the dataset that is replayed, with its content."""
    if dataset := config.policy.dataset:
        return config.altered("policy.dataset", Path("dataset")), dataset_at(dataset)
    if config.policy.is_sanity:
        return config, None
    checkpoint = Artifact.at(checkpoint_folder(config.policy.path), "checkpoint")
    return config.altered("policy.path", "checkpoint"), checkpoint


def complete(outcomes: Mapping[str, Artifact | Exception]) -> dict[str, Artifact]:
    """The evaluations, when there is one of every benchmark; else raises what went wrong."""
    problems = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Exception)}
    if problems:
        if len(outcomes) == 1:
            raise next(iter(problems.values()))
        told = "\n".join(f"{name}: {problem}" for name, problem in problems.items())
        raise SandboxError(f"{len(problems)} of {len(outcomes)} benchmarks could not be measured\n{told}")
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Artifact)}


if __name__ == "__main__":
    from flows.terminal import main

    main(evaluate, EvaluateConfig)

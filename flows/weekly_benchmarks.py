"""Evaluate the champion on the configured benchmarks: `python -m flows.weekly_benchmarks`, or Mondays at 02:00 UTC."""

from prefect import flow

from flows.evaluate import evaluate
from lerobot_ops.config import Config
from lerobot_ops.evaluation.config import EnvConfig, EpisodesConfig, EvalConfig
from lerobot_ops.tracking import TrackingConfig
from tasks.publishing import fetch_champion
from tasks.steps import Artifact, Links
from tasks.tables import show, table


class WeeklyConfig(Config):
    """Which policy is measured on what."""

    model: str = "button-press-topdown"
    """A registered model; its version with the alias `champion` is evaluated."""
    benchmarks: dict[str, EvalConfig] = {
        "button-press-topdown": EvalConfig(
            env=EnvConfig(task="button-press-topdown-v3"), eval=EpisodesConfig(n_episodes=50), seed=2000
        )
    }
    """The measurements, by name."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the champion is registered and the metrics go."""


@flow(name="weekly-benchmarks")
def weekly_benchmarks(config: WeeklyConfig = WeeklyConfig()) -> dict[str, Artifact]:
    """Evaluate the champion checkpoint on every configured benchmark."""
    champion = fetch_champion(config.model, config.tracking)
    tags = {"champion": f"{champion.name}/{champion.version}", "schedule": "weekly"}
    links = Links(tracking=config.tracking, tags=tags)
    evaluations = {
        name: evaluate(benchmark.altered("policy.path", str(champion.path)), links)
        for name, benchmark in config.benchmarks.items()
    }
    rows = [
        (
            name,
            f"{scores['pc_success']:.1f} %",
            f"{scores['ci_low']:.1f} to {scores['ci_high']:.1f}",
            scores["n_episodes"],
        )
        for name, scores in ((name, evaluation.facts) for name, evaluation in evaluations.items())
    ]
    heading = f"## {champion.name}, version {champion.version}\n\n"
    show("weekly-benchmarks", heading + table(("benchmark", "pc_success", "95 % interval", "episodes"), rows))
    return evaluations


if __name__ == "__main__":
    from flows.terminal import main

    main(weekly_benchmarks, WeeklyConfig)

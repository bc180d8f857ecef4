"""Check every benchmark and measure the champion: `python -m flows.weekly_benchmarks`, or Mondays at 02:00 UTC."""

from collections.abc import Mapping, Sequence
from typing import Literal

from prefect import flow, runtime
from prefect.states import Failed, State
from pydantic import Field

from lerobot_ops import envs
from lerobot_ops.config import Config
from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation.config import ClipsConfig, EnvConfig, EpisodesConfig, EvalConfig
from lerobot_ops.evaluation.tracked import benchmark_name, track_failure
from lerobot_ops.tracking import TrackingConfig
from tasks.comparing import Change, against_past
from tasks.health import open_weekly_run, write_health_page
from tasks.measuring import Measurement, measure
from tasks.publishing import fetch_champion
from tasks.runners import THREADS
from tasks.smoke import SmokeConfig, smoke_test
from tasks.steps import Artifact, Links, provenance, slug
from tasks.tables import show, show_scores, table

SCHEDULE = {"schedule": "weekly"}
"""The tag in MLflow of every run of this flow."""
REGRESSED = "Regressed"
"""Name of the state that a run ends in when the champion does worse than the week before."""


class SanityConfig(Config):
    """Policies without training: they tell a broken benchmark from a bad policy."""

    policies: list[Literal["zero", "random", "expert"]] = ["zero", "random", "expert"]
    """Which ones; the expert only where the benchmark has one."""
    n_episodes: int = Field(default=2, ge=1)
    """Episodes of each task."""
    expert_at_least: float = Field(default=50.0, ge=0, le=100)
    """The benchmark is broken when the expert's `pc_success` is below this."""
    others_at_most: float = Field(default=50.0, ge=0, le=100)
    """The benchmark is broken when a policy that does nothing useful succeeds more often than this."""


class WeeklyBenchmark(EvalConfig):
    """A benchmark, and what is measured on it."""

    champion: bool = True
    """Measure the champion; without it only the benchmark itself is checked."""
    smoke: SmokeConfig | None = SmokeConfig()
    """The smoke test of recording, training and evaluation."""
    sanity: SanityConfig = SanityConfig()
    """What tells that the benchmark is in order."""


class WeeklyConfig(Config):
    """Which policy is measured on what."""

    model: str = "button-press-topdown"
    """A registered model; its version with the alias `champion` is evaluated."""
    benchmarks: dict[str, WeeklyBenchmark] = {
        "button-press-topdown": WeeklyBenchmark(
            env=EnvConfig(type="metaworld", task="button-press-topdown-v3"),
            eval=EpisodesConfig(n_episodes=50),
            seed=2000,
        ),
        "libero-spatial": WeeklyBenchmark(
            env=EnvConfig(type="libero", task="libero_spatial", task_ids=[0], episode_length=20),
            champion=False,
            sanity=SanityConfig(policies=["zero", "random"], n_episodes=1),
        ),
    }
    """The measurements, by name."""
    shards: int = Field(default=1, ge=1)
    """Parts of each benchmark; see the flow `evaluate`."""
    runner: str = THREADS
    """Where the parts run; see the flow `evaluate`."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the champion is registered and the metrics go."""


class Week(Config):
    """One benchmark in one weekly run."""

    name: str
    sanity: dict[str, float | None]
    """`pc_success` of the policies without training."""
    evaluation: Artifact | None = None
    """The champion's; None when only the benchmark itself is checked."""
    change: Change | None = None
    """Against the weekly run before; None for the first one."""


@flow(name="weekly-benchmarks")
def weekly_benchmarks(config: WeeklyConfig = WeeklyConfig()) -> list[Week] | State[list[Week]]:
    """Check every benchmark, measure the champion, and compare it with the week before.

    A benchmark that is broken fails alone. Ends as `Regressed` when a comparison says so, as `Failed` when a benchmark
    could not be measured.
    """
    links = Links(tracking=config.tracking, tags={**provenance(), **SCHEDULE})
    links = links.altered("parent_run", open_weekly_run(config.model, links))
    champion = None
    if any(benchmark.champion for benchmark in config.benchmarks.values()):
        champion = Artifact.at(fetch_champion(config.model, config.tracking).path, "checkpoint", config.model)
    weeks, problems = [], {}
    for name, benchmark in config.benchmarks.items():
        measured = champion if benchmark.champion else None
        state = weekly_benchmark.with_options(flow_run_name=f"weekly {name}")(
            name, benchmark, measured, links, config.shards, config.runner, return_state=True
        )
        found = state.result(raise_on_failure=False)
        if isinstance(found, Week):
            weeks.append(found)
        else:
            problems[name] = str(found)
            about = {**links.tags, "weekly.benchmark": name}
            track_failure(
                benchmark_name(benchmark), problems[name], links.tracking, parent_id=links.parent_run, tags=about
            )
    show("weekly-benchmarks", summary(config.model, champion, weeks, problems))
    write_health_page(links)
    return verdict(weeks, problems)


@flow(name="weekly-benchmark")
def weekly_benchmark(
    name: str, config: WeeklyBenchmark, champion: Artifact | None, links: Links, shards: int, runner: str
) -> Week:
    """One benchmark: the smoke test, the policies without training, then the champion and what changed."""
    occasion = str(runtime.flow_run.root_flow_run_id)
    links = links.altered("tags", {**links.tags, "weekly.benchmark": name})
    plain = EvalConfig(**{field: getattr(config, field) for field in EvalConfig.model_fields})
    if config.smoke:
        smoke_test(plain, config.smoke)
    sanity = _sanity(plain, config.sanity, links, runner, occasion)
    if champion is None:
        return Week(name=name, sanity=sanity)
    series = {**SCHEDULE, "weekly.benchmark": name, "weekly.model": champion.name, "weekly.policy": "champion"}
    ours = links.altered("tags", {**links.tags, **series})
    measurement = Measurement(champion, ours, shards, runner, occasion)
    (evaluation,) = measure({name: plain.altered("policy.path", "checkpoint")}, measurement).values()
    if isinstance(evaluation, Exception):
        raise evaluation
    change = against_past("the week before", evaluation, series, links.tracking)
    show_scores(f"weekly-{slug(name)}", name, evaluation.facts, change)
    return Week(name=name, sanity=sanity, evaluation=evaluation, change=change)


def _sanity(
    config: EvalConfig, checks: SanityConfig, links: Links, runner: str, occasion: str
) -> dict[str, float | None]:
    """What the policies without training reach; raises SandboxError when that says that the benchmark is broken."""
    has_expert = envs.benchmark(config.env.type).has_expert
    small = config.altered("eval.n_episodes", checks.n_episodes).altered("clips", ClipsConfig(enable=False))
    policies = [policy for policy in checks.policies if policy != "expert" or has_expert]
    configs = {f"with the policy {policy}": small.altered("policy.path", policy) for policy in policies}
    if not configs:
        return {}
    outcomes = measure(configs, Measurement(None, links, runner=runner, occasion=occasion))
    rates: dict[str, float | None] = {
        policy: _rate(outcome) for policy, outcome in zip(policies, outcomes.values(), strict=True)
    }
    for policy, rate in rates.items():
        expert = policy == "expert"
        bound = checks.expert_at_least if expert else checks.others_at_most
        if rate is None or (rate < bound if expert else rate > bound):
            raise SandboxError(
                f"the benchmark {config.env.type} is broken: so says the policy {policy}, whatever the champion does",
                found="no episode counts" if rate is None else f"pc_success {rate:.0f}",
                expected=f"{'at least' if expert else 'at most'} {bound:.0f}",
                fix=f"look at the evaluation of {policy}; the champion is measured again when this is mended",
            )
    return rates


def _rate(outcome: Artifact | Exception) -> float | None:
    if isinstance(outcome, Exception):
        raise outcome
    rate: float | None = outcome.facts["pc_success"]
    return rate


def summary(model: str, champion: Artifact | None, weeks: Sequence[Week], problems: Mapping[str, str]) -> str:
    """The weekly page, as Markdown."""
    heading = f"## {model}, version {champion.version}\n\n" if champion else "## Benchmarks\n\n"
    rows = [_row(week) for week in weeks]
    rows += [(name, "could not be measured", "", "", "", problem.splitlines()[0]) for name, problem in problems.items()]
    columns = ("benchmark", "pc_success", "95 % interval", "episodes", "against the week before", "without training")
    return heading + table(columns, rows)


def _row(week: Week) -> tuple[object, ...]:
    checks = ", ".join(f"{policy} {rate:.0f} %" for policy, rate in week.sanity.items() if rate is not None)
    if week.evaluation is None:
        return week.name, "only checked", "", "", "", checks
    scores = week.evaluation.facts
    interval = f"{scores['ci_low']:.1f} to {scores['ci_high']:.1f}"
    change = str(week.change) if week.change else "the first one"
    return week.name, f"{scores['pc_success']:.1f} %", interval, scores["n_episodes"], change, checks


def verdict(weeks: list[Week], problems: Mapping[str, str]) -> list[Week] | State[list[Week]]:
    """What the run ends with: a state that people and automations see, or the results."""
    told = [f"{name} could not be measured: {problem}" for name, problem in problems.items()]
    worse = [f"{week.name}: {week.change}" for week in weeks if week.change and week.change.regressed]
    if worse:
        return Failed(name=REGRESSED, message="\n".join([*worse, *told]))
    return Failed(message="\n".join(told)) if told else weeks


if __name__ == "__main__":
    from flows.terminal import main

    main(weekly_benchmarks, WeeklyConfig)

"""The health page: how every benchmark and the champion have done, from MLflow, as one HTML file.

It needs nothing else, not even a network; charts are SVG, clips are inside, and it reads without JavaScript.
"""

import base64
import json
import logging
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import Field

from lerobot_ops import envs
from lerobot_ops.artifacts import write_bytes
from lerobot_ops.config import Config
from lerobot_ops.errors import OpsError
from lerobot_ops.evaluation.config import SANITY_POLICIES
from lerobot_ops.evaluation.history import PastEvaluation, past_evaluations, past_folder
from lerobot_ops.evaluation.result import EvalResult, load_result
from lerobot_ops.tracking import TrackingConfig

logger = logging.getLogger(__name__)
ABLE_AT_LEAST, OTHERS_AT_MOST = 50.0, 50.0
"""`pc_success` of policies without training on a benchmark that is in order: of the expert and of stored actions, and
of those that do nothing useful."""
RUNS = 1000
"""Evaluations that are looked at, the newest."""


class HealthConfig(Config):
    """A health page from the command line."""

    output: Path = Path("outputs/health/index.html")
    """The HTML file."""
    clips: int = Field(default=4, ge=0)
    """Videos of each benchmark's newest measurement."""
    stale_days: float = Field(default=8, gt=0)
    """A benchmark that was last measured longer ago is said to be stale."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the history is."""


class Point(Config):
    """One measurement in a chart; percentages."""

    when: datetime
    pc_success: float
    ci_low: float
    ci_high: float
    n_episodes: int
    policy: str
    run_id: str


class Film(Config):
    """A clip with what it shows."""

    instruction: str
    outcome: str
    source: str
    """A data URL."""


class Sanity(Point):
    """The newest measurement of a policy without training."""

    problem: str | None
    """What it says is wrong with the benchmark."""


class Benchmark(Config):
    """What the page says of one benchmark; times are of the newest measurement."""

    name: str
    points: list[Point]
    """Oldest first."""
    verdict: str | None
    """Of the last comparison."""
    compared_with: str | None
    comparison: str | None
    """It in words."""
    seconds: float | None
    identities: dict[str, str]
    sanity: dict[str, Sanity]
    """By policy."""
    films: list[Film]
    problems: list[str]
    """What is failing, missing or stale."""

    @property
    def svg(self) -> dict[str, Any]:
        """The chart: dots with intervals over time, and its ticks."""
        return chart(self.points)


def health(config: HealthConfig) -> Path:
    """Write the page; a store without evaluations gives a page that says so."""
    now = datetime.now(UTC)
    finished = past_evaluations(config.tracking, {}, most=RUNS)
    failed = past_evaluations(config.tracking, {}, most=RUNS, status="FAILED")
    names = _names([*finished, *failed])
    benchmarks = [
        _benchmark(
            name,
            [run for run in finished if names[run.run_id] == name],
            [run for run in failed if names[run.run_id] == name],
            config,
            now,
        )
        for name in sorted(set(names.values()))
    ]
    measured = [run.tags.get("benchmark", "") for run in [*finished, *failed]]
    missing = [
        name
        for name in envs.benchmarks()
        if not envs.benchmark(name).untrusted and not any(each.startswith(f"{name}-") for each in measured)
    ]
    write_health(benchmarks, config.output, now, missing)
    return config.output


def write_health(benchmarks: Sequence[Benchmark], target: Path, now: datetime, missing: Sequence[str] = ()) -> None:
    """Write the page of these benchmarks to `target`, whole or not at all; `missing` were never measured."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("lerobot_ops.evaluation", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("health.html").render(benchmarks=benchmarks, now=now, missing=missing)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, page.encode())


def chart(points: Sequence[Point]) -> dict[str, Any]:
    """Places in percent of the chart's width and height: each measurement in turn, with its interval, and three days.

    Places in percent let a phone draw a narrow chart with letters of the usual size.
    """
    step = 100 / max(1, len(points))
    marks = [
        {
            "x": round((number + 0.5) * step, 2),
            "y": round(100 - point.pc_success, 2),
            "top": round(100 - point.ci_high, 2),
            "bottom": round(100 - point.ci_low, 2),
            "point": point,
        }
        for number, point in enumerate(points)
    ]
    shown = {0, len(points) // 2, len(points) - 1}
    return {
        "marks": marks,
        "days": [(mark["x"], points[n].when.strftime("%d %b %Y")) for n, mark in enumerate(marks) if n in shown],
    }


def _names(runs: Sequence[PastEvaluation]) -> dict[str, str]:
    """What each run measured, by its id: the weekly benchmark, or else the benchmark and its tasks.

    Policies without training, whose runs carry the latter, belong to the weekly benchmark on the same tasks.
    """
    weekly = {
        run.tags["benchmark"]: run.tags["weekly.benchmark"]
        for run in runs
        if "weekly.benchmark" in run.tags and "benchmark" in run.tags
    }
    plain = {run.run_id: run.tags.get("benchmark", "?") for run in runs}
    return {
        run.run_id: run.tags.get("weekly.benchmark") or weekly.get(plain[run.run_id], plain[run.run_id]) for run in runs
    }


def _benchmark(
    name: str, runs: Sequence[PastEvaluation], failed: Sequence[PastEvaluation], config: HealthConfig, now: datetime
) -> Benchmark:
    """What to say of a benchmark with these finished and failed runs, newest first; one of them there is."""
    champions = [run for run in runs if run.tags.get("weekly.policy") == "champion"]
    trained = champions or [run for run in runs if run.tags.get("policy") not in SANITY_POLICIES]
    newest = next(iter(trained or runs), None)
    sanity = _sanity(runs)
    films, seconds, problems = _files(newest, config) if newest else ([], None, [])
    problems = [*_trouble(trained, runs, failed, config, now), *_broken(sanity), *problems]
    tags = newest.tags if newest else {}
    return Benchmark(
        name=name,
        points=[point for run in reversed(trained) if (point := _point(run)) is not None],
        verdict=tags.get("comparison.verdict"),
        compared_with=tags.get("comparison.with"),
        comparison=tags.get("comparison.told"),
        seconds=seconds,
        identities=_identities(newest) if newest else {},
        sanity=sanity,
        films=films,
        problems=problems,
    )


def _trouble(
    trained: Sequence[PastEvaluation],
    runs: Sequence[PastEvaluation],
    failed: Sequence[PastEvaluation],
    config: HealthConfig,
    now: datetime,
) -> list[str]:
    """What is failing, missing or stale."""
    problems = []
    if failed and (not runs or failed[0].started > runs[0].started):
        reason = (failed[0].tags.get("problem") or "MLflow does not say why").splitlines()[0]
        problems.append(f"the last measurement, on {failed[0].started:%d %b %Y}, failed: {reason}")
    if not trained:
        problems.append("no trained policy was measured")
    elif now - trained[0].started > timedelta(days=config.stale_days):
        problems.append(f"the last measurement is {(now - trained[0].started).days} days old")
    return problems


def _broken(sanity: dict[str, Sanity]) -> list[str]:
    """What the policies without training say is wrong, or that nobody asked them."""
    if not sanity:
        return ["no policy without training was measured, so a broken benchmark would not be noticed"]
    return [found.problem for found in sanity.values() if found.problem]


def _sanity(runs: Sequence[PastEvaluation]) -> dict[str, Sanity]:
    found: dict[str, Sanity] = {}
    for run in runs:
        policy = run.tags.get("policy", "")
        if policy in SANITY_POLICIES and policy not in found and (point := _point(run)) is not None:
            able, rate = policy in ("expert", "replay"), point.pc_success
            wrong = rate < ABLE_AT_LEAST if able else rate > OTHERS_AT_MOST
            only = "only " if able else ""
            problem = f"the policy {policy} reaches {only}{rate:.0f} %, so the benchmark is broken" if wrong else None
            found[policy] = Sanity(**point.model_dump(), problem=problem)
    return {policy: found[policy] for policy in SANITY_POLICIES if policy in found}


def _identities(run: PastEvaluation) -> dict[str, str]:
    """What a measurement was made with."""
    named = {
        "sandbox": "sandbox",
        "image": "image.digest",
        "recipe": "recipe.digest",
        "policy": "policy",
        "code": "git.commit",
    }
    known = {label: run.tags[tag] for label, tag in named.items() if tag in run.tags}
    return known | {"MLflow run": run.run_id}


def _point(run: PastEvaluation) -> Point | None:
    """None for a run in which no episode counted."""
    names = ("pc_success", "ci_low", "ci_high", "n_episodes")
    if any(name not in run.metrics for name in names):
        return None
    values: dict[str, Any] = {name: run.metrics[name] for name in names}
    return Point(when=run.started, run_id=run.run_id, policy=run.tags.get("policy", "")[:12], **values)


def _files(run: PastEvaluation, config: HealthConfig) -> tuple[list[Film], float | None, list[str]]:
    """The clips and the duration of a measurement, and what is wrong with its files."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = past_folder(config.tracking, run.run_id, Path(scratch))
            result = load_result(folder)
            metrics = json.loads((folder / "metrics.json").read_text())
            problems = list(result.clip_problems)
            if result.n_errors:
                problems.append(f"{result.n_errors} episodes ended in an error of the simulator")
            return _films(folder, result, config.clips), metrics.get("eval_s"), problems
        except (OpsError, OSError, ValueError, KeyError) as error:
            logger.warning("the files of run %s cannot be shown: %s", run.run_id, error)
            return [], None, [f"the files of its run cannot be had: {str(error).splitlines()[0]}"]


def _films(folder: Path, result: EvalResult, most: int) -> list[Film]:
    described = json.loads((folder / "metrics.json").read_text()).get("task_descriptions", {})
    groups = json.loads((folder / "evaluation.json").read_text())["groups"]
    names = [task for members in groups.values() for task in members]
    instructions = dict(zip(names, described.values(), strict=False))
    failures_first = sorted(result.clips, key=lambda clip: clip.success)
    return [
        Film(
            instruction=instructions.get(clip.task, clip.task),
            outcome="success" if clip.success else "failure",
            source="data:video/mp4;base64," + base64.b64encode((folder / clip.path).read_bytes()).decode(),
        )
        for clip in failures_first[:most]
    ]

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

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.config import Config
from lerobot_ops.errors import OpsError
from lerobot_ops.evaluation.config import SANITY_POLICIES
from lerobot_ops.evaluation.history import PastEvaluation, past_evaluations, past_folder
from lerobot_ops.evaluation.result import EvalResult, load_result
from lerobot_ops.tracking import TrackingConfig

logger = logging.getLogger(__name__)
WIDTH, HEIGHT = 640, 200
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


class Benchmark(Config):
    """What the page says of one benchmark; times are of the newest measurement."""

    name: str
    points: list[Point]
    """Oldest first."""
    verdict: str | None
    """Of the last comparison."""
    compared_with: str | None
    seconds: float | None
    identities: dict[str, str]
    sanity: dict[str, Point]
    """The newest measurement of each policy without training."""
    films: list[Film]
    problems: list[str]
    """What is missing or stale."""

    @property
    def svg(self) -> dict[str, Any]:
        """The chart: dots with intervals over time, and its ticks."""
        return chart(self.points)


def health(config: HealthConfig) -> Path:
    """Write the page; a store without evaluations gives a page that says so."""
    now = datetime.now(UTC)
    by_benchmark: dict[str, list[PastEvaluation]] = {}
    for run in past_evaluations(config.tracking, {}, most=RUNS):
        by_benchmark.setdefault(run.tags.get("weekly.benchmark") or run.tags.get("benchmark", "?"), []).append(run)
    benchmarks = [_benchmark(name, runs, config, now) for name, runs in sorted(_joined(by_benchmark).items())]
    write_health(benchmarks, config.output, now)
    return config.output


def write_health(benchmarks: Sequence[Benchmark], target: Path, now: datetime) -> None:
    """Write the page of these benchmarks to `target`, whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("lerobot_ops.evaluation", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("health.html").render(benchmarks=benchmarks, now=now)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, page.encode())


def chart(points: Sequence[Point]) -> dict[str, Any]:
    """Places in an SVG of WIDTH x HEIGHT: each measurement in turn, with its interval, and a line through them."""
    step = WIDTH / max(1, len(points))

    def height(percent: float) -> float:
        return round((100 - percent) / 100 * HEIGHT, 1)

    marks = [
        {
            "x": round((number + 0.5) * step, 1),
            "y": height(point.pc_success),
            "top": height(point.ci_high),
            "bottom": height(point.ci_low),
            "point": point,
        }
        for number, point in enumerate(points)
    ]
    shown = {0, len(points) // 2, len(points) - 1}
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "marks": marks,
        "line": " ".join(f"{mark['x']},{mark['y']}" for mark in marks),
        "days": [(mark["x"], points[n].when.strftime("%d %b %Y")) for n, mark in enumerate(marks) if n in shown],
    }


def _joined(by_benchmark: dict[str, list[PastEvaluation]]) -> dict[str, list[PastEvaluation]]:
    """Sanity runs, which carry the benchmark's own name, go to the weekly benchmark on the same tasks."""
    weekly = {
        run.tags["benchmark"]: name
        for name, runs in by_benchmark.items()
        for run in runs
        if "weekly.benchmark" in run.tags and "benchmark" in run.tags
    }
    joined: dict[str, list[PastEvaluation]] = {}
    for name, runs in by_benchmark.items():
        joined.setdefault(weekly.get(name, name), []).extend(runs)
    return joined


def _benchmark(name: str, runs: Sequence[PastEvaluation], config: HealthConfig, now: datetime) -> Benchmark:
    runs = sorted(runs, key=lambda run: run.started, reverse=True)
    champions = [run for run in runs if run.tags.get("weekly.policy") == "champion"]
    trained = champions or [run for run in runs if run.tags.get("policy") not in SANITY_POLICIES]
    newest = trained[0] if trained else runs[0]
    points = [point for run in reversed(trained) if (point := _point(run)) is not None]
    sanity: dict[str, Point] = {}
    for run in runs:
        policy = run.tags.get("policy", "")
        if policy in SANITY_POLICIES and policy not in sanity and (point := _point(run)) is not None:
            sanity[policy] = point
    films, seconds, problems = _files(newest, config)
    if not trained:
        problems.append("no trained policy was measured")
    elif now - newest.started > timedelta(days=config.stale_days):
        problems.append(f"the last measurement is {(now - newest.started).days} days old")
    if not sanity:
        problems.append("no policy without training was measured, so a broken benchmark would not be noticed")
    named = {
        "sandbox": "sandbox",
        "image": "image.digest",
        "recipe": "recipe.digest",
        "policy": "policy",
        "code": "git.commit",
    }
    return Benchmark(
        name=name,
        points=points,
        verdict=newest.tags.get("comparison.verdict"),
        compared_with=newest.tags.get("comparison.with"),
        seconds=seconds,
        identities={label: newest.tags[tag] for label, tag in named.items() if tag in newest.tags}
        | {"MLflow run": newest.run_id},
        sanity=sanity,
        films=films,
        problems=problems,
    )


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

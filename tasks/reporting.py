"""The report step: what the pipeline's artifacts say, as one page."""

import csv
import tempfile
from pathlib import Path

from prefect import task

from lerobot_ops.artifacts import staged
from lerobot_ops.datasets.editing.operations import flagged_episodes
from lerobot_ops.evaluation.report import ReportClip, ReportData, Step, TaskScore, episode_clip, write_report
from lerobot_ops.evaluation.result import EvalResult, load_result
from lerobot_ops.tracking import open_run
from tasks.steps import CACHED, Artifact, Links, current_key, place

BAD_EPISODE = "episode-without-success"


@task(name="report", version="1", **CACHED)
def report_results(
    name: str,
    recordings: list[Artifact],
    training_set: Artifact,
    checkpoint: Artifact,
    evaluation: Artifact,
    links: Links,
) -> Artifact:
    """Write the report, and add it to the pipeline's run in MLflow."""
    key = current_key()
    root = place("report", name, key)
    if not root.exists():
        with staged(root) as partial, tempfile.TemporaryDirectory() as scratch:
            data = _gather(name, recordings, training_set, checkpoint, evaluation, links, Path(scratch))
            write_report(data, partial / "report.html")
    scores = evaluation.facts
    with open_run(links.tracking, name=f"pipeline {name}", run_id=links.parent_run, tags=links.tags) as run:
        run.log_metrics({f"pipeline/{measure}": scores[measure] for measure in ("pc_success", "ci_low", "ci_high")})
        run.set_tags({f"dvc.{artifact.name}": artifact.digest for artifact in [*recordings, training_set, checkpoint]})
        run.log_artifact(root / "report.html")
    return Artifact.at(root, "report", name, key)


def _gather(
    name: str,
    recordings: list[Artifact],
    training_set: Artifact,
    checkpoint: Artifact,
    evaluation: Artifact,
    links: Links,
    scratch: Path,
) -> ReportData:
    result = load_result(evaluation.path)
    seen = next((recording for recording in recordings if recording.facts["cameras"]), None)
    discarded = _discarded_clip(seen, scratch) if seen and result.n_successes == result.n_episodes else []
    return ReportData(
        title=f"{name}: a policy and where it comes from",
        lineage=[
            *(_card("recording", recording, ("episodes", "frames")) for recording in recordings),
            _card("training set", training_set, ("episodes", "frames")),
            _card("checkpoint", checkpoint, ("policy", "steps")),
            Step(
                title="evaluation",
                name=evaluation.name,
                version=evaluation.digest,
                facts={"sandbox": result.sandbox, "identity": result.identity.removeprefix("sha256:")[:12]},
            ),
        ],
        links={
            **links.tags,
            "mlflow pipeline run": links.parent_run or "tracking is off",
            "mlflow training run": str(checkpoint.facts["mlflow_run"]),
            "mlflow evaluation run": str(evaluation.facts["mlflow_run"]),
            "sandbox": f"{result.sandbox} {result.identity}",
        },
        datasets=[_row(dataset) for dataset in [*recordings, training_set]],
        contact_sheet=seen.path if seen else None,
        loss=_loss(checkpoint.path.parent / "loss.csv"),
        overall=_score("all", result),
        scores=[_score(score.task, score) for score in result.per_task],
        clips=[*_evaluation_clips(result), *discarded],
        no_failure=bool(discarded),
    )


def _card(title: str, artifact: Artifact, names: tuple[str, ...]) -> Step:
    facts = {name: str(artifact.facts[name]) for name in names}
    return Step(title=title, name=artifact.name, version=artifact.digest, facts=facts)


def _row(dataset: Artifact) -> dict[str, str]:
    facts = dataset.facts
    return {
        "dataset": dataset.name,
        "version": dataset.version,
        "episodes": str(facts["episodes"]),
        "frames": f"{facts['frames']:,}",
        "rate": f"{facts['fps']} fps",
        "cameras": ", ".join(facts["cameras"]) or "none",
        "size": f"{dataset.size / 1e6:.1f} MB",
    }


def _loss(file: Path) -> list[tuple[int, float]]:
    with open(file, newline="") as lines:
        return [(int(line["step"]), float(line["loss"])) for line in csv.DictReader(lines)]


def _score(task_name: str, score: object) -> TaskScore:
    names = ("pc_success", "ci_low", "ci_high", "n_successes", "n_episodes", "n_errors")
    return TaskScore(task=task_name, **{name: getattr(score, name) or 0 for name in names})


def _evaluation_clips(result: EvalResult) -> list[ReportClip]:
    return [
        ReportClip(
            outcome="success" if clip.success else "failure",
            caption=f"{clip.task}, held-out seed {clip.seed}",
            path=result.output_dir / clip.path,
        )
        for clip in result.clips
    ]


def _discarded_clip(recording: Artifact, scratch: Path) -> list[ReportClip]:
    """The first recorded episode that failed, when there is one: the policy itself never failed."""
    failed = flagged_episodes(recording.path, [BAD_EPISODE])
    if not failed:
        return []
    target = scratch / "discarded.mp4"
    episode_clip(recording.path, failed[0], target)
    caption = f"episode {failed[0]} of {recording.name}: the disturbed expert ran out of time"
    return [ReportClip(outcome="discarded", caption=caption, path=target)]

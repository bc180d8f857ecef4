"""Record on a robot: `python -m flows.record --config_path=robot.yaml`, or the deployment `record` on a robot's host.

Looks at the hardware, asks the operator before every episode (a form in Prefect's UI, or the terminal), records,
validates, versions with DVC, tracks in MLflow, and hands the dataset on to curation. An interrupted recording goes on
with its next episode when it is started again with `resume`.
"""

from typing import Any, Literal

from prefect import flow, runtime
from pydantic import Field

from flows.curate import CurateConfig, curate
from flows.validate import validate
from lerobot_ops.config import Config
from lerobot_ops.datasets.validation.command import CheckConfig
from lerobot_ops.datasets.validation.validate import ValidateConfig
from lerobot_ops.errors import ConfigError
from lerobot_ops.recording.config import RecordConfig
from lerobot_ops.recording.hardware import check_hardware
from lerobot_ops.recording.operator import EpisodeReport, Operator
from lerobot_ops.recording.record import episodes_wanted
from lerobot_ops.recording.record import record as record_episodes
from lerobot_ops.recording.terminal import Terminal
from lerobot_ops.tracking import TrackingConfig, open_run
from tasks.datasets import dataset_at
from tasks.publishing import version_artifacts
from tasks.recording import Form, Told, metrics_of, robot_name, robot_page, turn_at
from tasks.steps import Artifact, provenance, run_step, slug
from tasks.tables import facts, show


class OperatorConfig(Config):
    """How the operator is asked."""

    through: Literal["form", "terminal", "nobody"] | None = None
    """A form in Prefect's UI before every episode, the keys of this terminal, or nobody: episodes follow one another.
    null: the form when a deployment runs the flow, else the terminal."""
    timeout_s: int = Field(default=1800, ge=5)
    """A form that nobody answers for so long ends the recording."""
    robot_patience_s: float = Field(default=90, gt=0)
    """So long another run that has the robot is waited for; a killed one keeps it for a minute."""


class RecordFlowConfig(RecordConfig):
    """A recording, and what becomes of it."""

    ask: OperatorConfig = OperatorConfig()
    """How the operator is asked."""
    validation: ValidateConfig = ValidateConfig()
    """The gate that the dataset passes."""
    curate: CurateConfig | None = None
    """Make a training set of the recording, and of other `sources`; null leaves it at the recording."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the recording is tracked."""


@flow(name="record", validate_parameters=True)
def record(config: RecordFlowConfig) -> dict[str, Artifact]:
    """Record episodes on a robot; returns the dataset as `recording`, and what curation made of it."""
    name = config.dataset.repo_id
    operator = _operator(config.ask)
    recipe = RecordConfig(**{field: getattr(config, field) for field in RecordConfig.model_fields})
    with turn_at(config.robot, config.ask.robot_patience_s):
        wanted = episodes_wanted(recipe, recipe.dataset.place)
        if wanted:  # the robot is not needed, and may be off, when everything is recorded
            show(f"robot-{robot_name(config.robot)}", robot_page(check_hardware(recipe)))
        told = Told(name, wanted)
        tags = {"step": "record", "robot": robot_name(config.robot), **provenance()}
        with open_run(config.tracking, name=f"record {name}", tags=tags, params=recipe) as run:

            def on_episode(report: EpisodeReport) -> None:
                told.add(report)
                run.log_metrics(metrics_of(report), report.episode)

            recorded = record_episodes(recipe, operator, on_episode=on_episode)
            if recorded.episodes:
                run.log_dataset(name, recorded.digest, str(recorded.root), context="recording")
            run.log_metrics({"episodes": recorded.episodes, "total_frames": recorded.frames}, recorded.episodes)
    if not recorded.episodes:
        raise ConfigError("no episode was recorded", field="dataset", fix="record at least one, or cancel the run")

    dataset = dataset_at(recorded.root, name)
    show(f"dataset-{slug(name)}", facts(f"Dataset {name}", {**dataset.about, **_quality(recorded.reports)}))
    validate(CheckConfig(root=dataset.path, **config.validation.model_dump()))
    run_step(version_artifacts, artifacts=[dataset])
    if config.curate is None:
        return {"recording": dataset}
    parts = curate(config.curate.altered("sources", [dataset.path, *config.curate.sources]))
    return {"recording": dataset, **parts}


def _operator(config: OperatorConfig) -> Operator:
    through = config.through or ("form" if runtime.deployment.id else "terminal")
    if through == "form":
        return Form(config.timeout_s)
    return Terminal() if through == "terminal" else Operator()


def _quality(reports: list[EpisodeReport]) -> dict[str, Any]:
    """How this run's episodes went, for the dataset's page."""
    if not reports:
        return {}
    timings = [report.timing for report in reports]
    return {
        "episodes of this run": len(reports),
        "slowest rate": f"{min(timing.rate for timing in timings):.2f} Hz",
        "jitter (p99)": f"{max(timing.jitter_ms_p99 for timing in timings):.2f} ms",
        "overruns": sum(timing.overruns for timing in timings),
        "skipped ticks": sum(timing.skipped for timing in timings),
    }


def finish(artifacts: dict[str, Artifact]) -> None:
    """Print where everything is."""
    for label, artifact in artifacts.items():
        print(f"{label:<11} {artifact.path}  {artifact.digest}  ({artifact.facts['episodes']} episodes)")


if __name__ == "__main__":
    from flows.terminal import main

    main(record, RecordFlowConfig, finish)

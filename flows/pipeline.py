"""The whole job: `python -m flows.pipeline --config_path=params.yaml`.

Collect recordings of a scripted expert, validate them, curate a training set, train a policy, evaluate it on held-out
seeds in a sandbox, version, report and publish. What is up to date is not done again.
"""

from prefect import flow

from flows.collect import collect
from flows.curate import CurateConfig, curate
from flows.evaluate import EvaluateConfig, evaluate
from flows.publish import PublishItems, publish
from flows.train import train
from flows.validate import validate
from lerobot_ops.config import Config
from lerobot_ops.datasets.editing.command import Merge
from lerobot_ops.datasets.validation.command import CheckConfig
from lerobot_ops.datasets.validation.validate import ValidateConfig
from lerobot_ops.evaluation.config import EnvConfig, EpisodesConfig, EvalConfig
from lerobot_ops.evaluation.in_training import EvaluatedTrainConfig
from lerobot_ops.hub.publish import HubConfig, PublishConfig
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.recording.collect import CollectConfig, DatasetConfig
from lerobot_ops.tracking import TrackingConfig, server_command
from tasks.publishing import Published, open_pipeline_run, promote_checkpoint, version_artifacts
from tasks.reporting import report_results
from tasks.steps import Artifact, Links, provenance, run_step
from tasks.tables import show, table

TASK = "button-press-topdown-v3"


class PipelineConfig(Config):
    """Every step's configuration. The defaults are the demo: one Meta-World task, learned from recorded episodes."""

    name: str = "button-press-topdown"
    """Names the registered model and the report."""
    collect: dict[str, CollectConfig] = {
        "state": CollectConfig(
            env=EnvConfig(task=TASK), dataset=DatasetConfig(repo_id="demo/button-press-state"), num_episodes=50, seed=0
        ),
        "camera": CollectConfig(
            env=EnvConfig(task=TASK, episode_length=84),
            dataset=DatasetConfig(repo_id="demo/button-press-camera"),
            num_episodes=8,
            seed=101,
            cameras=True,
            action_noise=0.4,
        ),
    }
    """The recordings, by label."""
    validation: ValidateConfig = ValidateConfig()
    """The gate that every recording passes."""
    curate: CurateConfig = CurateConfig(repo_id="demo/button-press", merge=Merge(features="common"))
    """Which of the recorded episodes are learned from."""
    train: EvaluatedTrainConfig = EvaluatedTrainConfig(
        policy=ACTConfig(
            use_vae=False,
            dim_model=128,
            dim_feedforward=512,
            n_heads=4,
            n_encoder_layers=2,
            chunk_size=20,
            n_action_steps=10,
            dropout=0.0,
            optimizer_lr=3e-4,
        ),
        batch_size=32,
        num_threads=1,
        steps=1500,
        log_freq=50,
        save_freq=500,
    )
    """The policy and its training."""
    evaluate: EvalConfig = EvalConfig(env=EnvConfig(task=TASK), eval=EpisodesConfig(n_episodes=50), seed=1000)
    """The measurement, on seeds that no recording used."""
    hub: HubConfig = HubConfig()
    """Where the training set, the checkpoint and the report are published."""
    tracking: TrackingConfig = TrackingConfig()
    """Where runs are tracked."""


class PipelineResult(Config):
    """What a pipeline run leads to."""

    datasets: dict[str, Artifact]
    """The recordings, and the training set as `train`."""
    checkpoint: Artifact
    evaluation: Artifact
    report: Artifact
    published: list[Published]
    experiment: str
    """Its experiment in MLflow."""
    run_id: str | None
    """Its run there."""
    mlflow_command: str | None
    """Shows it in a browser; none when a tracking server is in use."""


@flow(name="pipeline")
def pipeline(config: PipelineConfig = PipelineConfig()) -> PipelineResult:
    """From scripted experts to a measured, versioned and published policy."""
    links = Links(tracking=config.tracking, tags=provenance())
    run = run_step(open_pipeline_run, name=config.name, config=config.model_dump(mode="json"), links=links)
    links = links.altered("parent_run", run.run_id).altered("model", config.name)

    recordings = {label: collect(recipe) for label, recipe in config.collect.items()}
    for recording in recordings.values():
        validate(CheckConfig(root=recording.path, **config.validation.model_dump()))
    training_set = curate(config.curate.altered("sources", [found.path for found in recordings.values()]))["train"]
    checkpoint = train(config.train.altered("dataset.root", training_set.path), links)
    measured = EvaluateConfig.model_validate(config.evaluate.altered("policy.path", str(checkpoint.path)))
    (evaluation,) = evaluate(measured, links).values()

    datasets = {**recordings, "train": training_set}
    run_step(version_artifacts, artifacts=[*datasets.values(), checkpoint])
    run_step(promote_checkpoint, checkpoint=checkpoint, evaluation=evaluation, links=links)
    report = run_step(
        report_results,
        name=config.name,
        recordings=list(recordings.values()),
        training_set=training_set,
        checkpoint=checkpoint,
        evaluation=evaluation,
        links=links,
    )
    published = publish(to_publish(config, training_set, checkpoint, report))
    result = PipelineResult(
        datasets=datasets,
        checkpoint=checkpoint,
        evaluation=evaluation,
        report=report,
        published=published,
        experiment=config.tracking.experiment,
        run_id=run.run_id,
        mlflow_command=server_command(config.tracking),
    )
    show("pipeline", summary(result), "The latest run of the pipeline")
    return result


def to_publish(config: PipelineConfig, training_set: Artifact, checkpoint: Artifact, report: Artifact) -> PublishItems:
    """What leaves the pipeline, under the training set's name or the pipeline's."""
    owner = config.curate.repo_id.partition("/")[0]
    name = f"{owner}/{config.name}"
    return PublishItems(
        items=[
            PublishConfig(kind="dataset", path=training_set.path, repo_id=config.curate.repo_id, hub=config.hub),
            PublishConfig(kind="checkpoint", path=checkpoint.path, repo_id=name, hub=config.hub),
            PublishConfig(kind="report", path=report.path, repo_id=name, hub=config.hub),
        ]
    )


def summary(result: PipelineResult) -> str:
    """Where to look, as Markdown."""
    artifacts = [*result.datasets.items(), ("checkpoint", result.checkpoint), ("evaluation", result.evaluation)]
    rows = [(label, artifact.digest, f"`{artifact.path}`") for label, artifact in artifacts]
    return f"## {scored(result.evaluation)}\n\n" + table(("what", "version", "path"), rows)


def scored(evaluation: Artifact) -> str:
    """The success rate in words."""
    scores = evaluation.facts
    interval = f"95 % interval {scores['ci_low']:.1f} to {scores['ci_high']:.1f}"
    return f"pc_success {scores['pc_success']:.1f} ({interval}, {scores['n_episodes']} held-out episodes)"


def finish(result: PipelineResult) -> None:
    """Print where to look."""
    lines = [
        scored(result.evaluation),
        "",
        f"report      {result.report.path / 'report.html'}",
        *(f"dataset     {artifact.path}  {artifact.digest}  ({label})" for label, artifact in result.datasets.items()),
        f"checkpoint  {result.checkpoint.path}  {result.checkpoint.digest}",
        *(f"published   {published.where}" for published in result.published),
    ]
    if result.run_id:
        how = result.mlflow_command and f"look at it with: .venv/bin/{result.mlflow_command}"
        lines.append(
            f"mlflow      experiment {result.experiment}, run {result.run_id}"
            + (f"; {how}" if how else " on your tracking server")
        )
    print("\n".join(lines))


if __name__ == "__main__":
    from flows.terminal import main

    main(pipeline, PipelineConfig, finish)

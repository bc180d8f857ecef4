"""The whole job: `python -m flows.pipeline --config_path=params.yaml`.

Collect recordings of a scripted expert, validate them, curate a training set, train a policy, evaluate it on held-out
seeds in a sandbox, version, report and publish. What is up to date is not done again.
"""

from lerobot_ops.hub.publish import HubConfig
from lerobot_ops.training.config import TrainConfig
from prefect import flow
from tasks.publishing import Published, finish_pipeline_run, open_pipeline_run, version_artifacts, write_pipeline_report

from flows.collect import collect
from flows.curate import CurateConfig, curate
from flows.evaluate import evaluate
from flows.publish import publish
from flows.train import train
from flows.validate import validate
from lerobot_ops.config import Config
from lerobot_ops.datasets.operations import CheckConfig
from lerobot_ops.datasets.validate import ValidateConfig
from lerobot_ops.evaluation.config import EnvConfig, EpisodesConfig, EvalConfig
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.recording.collect import CollectConfig, DatasetConfig
from lerobot_ops.tracking import TrackingConfig, server_command
from tasks.steps import Artifact, Links, run_step
from tasks.tables import show, table

TASK = EnvConfig(task="button-press-topdown-v3")


class PipelineConfig(Config):
    """Every step's configuration. The defaults are the demo: one Meta-World task, solved from 50 recorded episodes."""

    name: str = "button-press-topdown"
    """Names the datasets, the registered model and the report."""
    collect: dict[str, CollectConfig] = {
        "state": CollectConfig(
            env=TASK, dataset=DatasetConfig(repo_id="demo/button-press-state"), num_episodes=50, seed=0
        ),
        "camera": CollectConfig(
            env=TASK,
            dataset=DatasetConfig(repo_id="demo/button-press-camera"),
            num_episodes=8,
            seed=100,
            cameras=True,
        ),
    }
    """The recordings, by label."""
    validation: ValidateConfig = ValidateConfig()
    """The gate that every recording passes."""
    curate: CurateConfig = CurateConfig(repo_id="demo/button-press", features="common")
    """Which of the recorded episodes are learned from."""
    train: TrainConfig = TrainConfig(
        policy=ACTConfig(use_vae=False, dim_model=128, chunk_size=20, n_action_steps=10), batch_size=32, steps=1500
    )
    """The policy and its training."""
    evaluate: EvalConfig = EvalConfig(env=TASK, eval=EpisodesConfig(n_episodes=50), seed=1000)
    """The measurement, on seeds that no recording used."""
    hub: HubConfig = HubConfig()
    """Where the results are published."""
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
    run_id: str | None
    """The pipeline's run in MLflow."""
    mlflow_command: str | None
    """Shows it in a browser; none when a tracking server is in use."""


@flow(name="pipeline")
def pipeline(config: PipelineConfig = PipelineConfig()) -> PipelineResult:
    """From scripted experts to a measured, versioned and published policy."""
    run = run_step(open_pipeline_run, config=config.model_dump(mode="json"), tracking=Links(tracking=config.tracking))
    links = Links(tracking=config.tracking, parent_run=run.run_id, model=config.name)

    recordings = {label: collect(recipe) for label, recipe in config.collect.items()}
    for recording in recordings.values():
        validate(CheckConfig(root=recording.path, **config.validation.model_dump()))
    curated = curate(config.curate.altered("sources", [recording.path for recording in recordings.values()]))
    training_set = curated["train"]
    checkpoint = train(config.train.altered("dataset.root", training_set.path), links)
    evaluation = evaluate(config.evaluate.altered("policy.path", str(checkpoint.path)), links)

    datasets = {**recordings, "train": training_set}
    versions = run_step(version_artifacts, artifacts=[*datasets.values(), checkpoint])
    report = run_step(
        write_pipeline_report,
        name=config.name,
        datasets=datasets,
        checkpoint=checkpoint,
        evaluation=evaluation,
        links=links,
    )
    published = publish(config.name, training_set, checkpoint, report, config.hub)
    run_step(finish_pipeline_run, artifacts=[*datasets.values(), checkpoint, evaluation, report], links=links)
    result = PipelineResult(
        datasets=datasets,
        checkpoint=checkpoint,
        evaluation=evaluation,
        report=report,
        published=published,
        run_id=run.run_id,
        mlflow_command=server_command(config.tracking),
    )
    show("pipeline", summary(result), "The latest run of the pipeline")
    return result


def summary(result: PipelineResult) -> str:
    """Where to look, as Markdown."""
    artifacts = [*result.datasets.items(), ("checkpoint", result.checkpoint), ("evaluation", result.evaluation)]
    rows = [(label, artifact.digest, f"`{artifact.path}`") for label, artifact in artifacts]
    scores = result.evaluation.facts
    return (
        f"## pc_success {scores['pc_success']:.1f} %, 95 % interval {scores['ci_low']:.1f} to {scores['ci_high']:.1f} "
        f"({scores['n_episodes']} held-out episodes)\n\n" + table(("what", "version", "path"), rows)
    )


def finish(result: PipelineResult) -> None:
    """Print where to look."""
    scores = result.evaluation.facts
    lines = [
        "",
        f"pc_success  {scores['pc_success']:.1f} % (95 % interval {scores['ci_low']:.1f} to {scores['ci_high']:.1f}, "
        f"{scores['n_episodes']} held-out episodes)",
        f"report      {result.report.path / 'report.html'}",
        *(f"dataset     {artifact.path}  {artifact.digest}  ({label})" for label, artifact in result.datasets.items()),
        f"checkpoint  {result.checkpoint.path}  {result.checkpoint.digest}",
        *(f"published   {published.where}" for published in result.published),
    ]
    if result.run_id:
        lines.append(
            f"mlflow      run {result.run_id}; look at it with: {result.mlflow_command or 'your tracking server'}"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    from flows.terminal import main

    main(pipeline, PipelineConfig, finish)

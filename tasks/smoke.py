"""The smoke test of the whole chain: record, train and evaluate, as small as it can be."""

import tempfile
import time
from pathlib import Path

from prefect import task
from pydantic import Field

from lerobot_ops import envs
from lerobot_ops.config import Config
from lerobot_ops.evaluation.config import ClipsConfig, EpisodesConfig, EvalConfig, PolicySource
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.recording.collect import CollectConfig, DatasetConfig, collect
from tasks.containers import run_labels
from tasks.cores import occupied
from tasks.steps import WORKSPACE


class SmokeConfig(Config):
    """How small."""

    num_episodes: int = Field(default=2, ge=1)
    """Episodes of the expert that are recorded."""
    steps: int = Field(default=3, ge=1)
    """Of training."""
    episode_length: int = Field(default=20, ge=2)
    """Steps of every episode."""


@task(name="smoke test")
def smoke_test(config: EvalConfig, smoke: SmokeConfig) -> float:
    """Record, train and evaluate on the first task of `config.env`; returns the seconds that it took.

    Nothing is kept, and nothing is up to date: what breaks between two weeks is found. A benchmark without an expert
    is evaluated only. Raises what breaks.
    """
    began = time.perf_counter()
    sandbox = config.sandbox.altered("labels", {**config.sandbox.labels, **run_labels()})
    first = config.env.altered("task", config.env.tasks()[0]).altered("episode_length", smoke.episode_length)
    WORKSPACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORKSPACE, prefix=".smoke-") as scratch, occupied(1):
        policy = "zero"
        if envs.benchmark(first.type).has_expert:
            recorded = CollectConfig(
                env=first,
                dataset=DatasetConfig(repo_id="smoke/expert", root=Path(scratch, "dataset")),
                num_episodes=smoke.num_episodes,
                workers=1,
                sandbox=sandbox,
            )
            policy = str(_train(collect(recorded).root, smoke, Path(scratch, "train")))
        small = EvalConfig(
            env=first,
            policy=PolicySource(path=policy),
            eval=EpisodesConfig(n_episodes=1, batch_size=1),
            output_dir=Path(scratch, "eval"),
            clips=ClipsConfig(fps=4, size=64),
            sandbox=sandbox,
        )
        evaluate(small)
    return round(time.perf_counter() - began, 1)


def _train(dataset: Path, smoke: SmokeConfig, output: Path) -> Path:
    """The checkpoint of a policy that has learned next to nothing."""
    from lerobot_ops.policies.act.config import ACTConfig
    from lerobot_ops.training.config import TrainConfig, TrainDatasetConfig
    from lerobot_ops.training.train import train  # torch takes seconds to import

    policy = ACTConfig(dim_model=32, dim_feedforward=64, n_heads=2, chunk_size=10, n_action_steps=10)
    config = TrainConfig(
        dataset=TrainDatasetConfig(root=dataset), policy=policy, output_dir=output, batch_size=4, steps=smoke.steps
    )
    return train(config).checkpoint

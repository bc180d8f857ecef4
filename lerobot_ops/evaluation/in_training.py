"""Evaluation during a training: its checkpoints are measured by the real evaluator, in the benchmark's sandbox."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from lerobot_ops.evaluation import stopping
from lerobot_ops.evaluation.config import ClipsConfig, EnvConfig, EpisodesConfig, EvalConfig, PolicySource
from lerobot_ops.evaluation.sandbox import SandboxConfig
from lerobot_ops.tracking import TrackingConfig
from lerobot_ops.training import interrupts
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.tracked import train_tracked

if TYPE_CHECKING:
    from lerobot_ops.training.loop import OnMetrics
    from lerobot_ops.training.train import TrainResult


class EvaluatedTrainConfig(TrainConfig):
    """A training whose checkpoints are measured on the way."""

    env: EnvConfig | None = None
    """The benchmark that checkpoints are measured on; none measures none."""
    env_eval_freq: int = Field(default=20_000, ge=1)
    """Steps between two measurements; each is of a checkpoint."""
    eval: EpisodesConfig = EpisodesConfig()
    """Episodes of a measurement."""
    clips: ClipsConfig = ClipsConfig(enable=False)
    """Videos of a measurement."""
    sandbox: SandboxConfig = SandboxConfig()
    """Where the benchmark runs."""


class TrainCommand(EvaluatedTrainConfig):
    """A training from the command line."""

    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go."""
    dry_run: bool = False
    """Show what would be trained on what, with which memory, and train nothing."""


def train_evaluated(
    config: EvaluatedTrainConfig,
    tracking: TrackingConfig,
    *,
    parent_id: str | None = None,
    model: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_metrics: "OnMetrics | None" = None,
) -> "TrainResult":
    """Train, and measure checkpoints on the way; `pc_success` is logged against the step in the training's own run.

    The results are in `<output_dir>/eval/step_<step>`. An evaluation that was interrupted is continued on resume.
    `on_metrics` is called with everything that is logged.
    """
    from lerobot_ops.training.loop import OnCheckpoint

    wanted = config.env is not None
    hook = OnCheckpoint(config.env_eval_freq, lambda step, policy: _measure(config, step, policy)) if wanted else None
    return train_tracked(
        config, tracking, parent_id=parent_id, model=model, tags=tags, on_checkpoint=hook, on_metrics=on_metrics
    )


def _measure(config: EvaluatedTrainConfig, step: int, policy: Path) -> dict[str, float]:
    from lerobot_ops.evaluation.evaluate import evaluate

    assert config.env is not None
    measured = EvalConfig(
        env=config.env,
        policy=PolicySource(path=str(policy), device=config.policy.device or "cpu"),
        eval=config.eval,
        seed=config.seed,
        output_dir=config.output_dir / "eval" / f"step_{step:06d}",
        clips=config.clips,
        sandbox=config.sandbox,
    )
    try:
        with stopping.stoppable(), interrupts.told_by(stopping.stop_all):
            result = evaluate(measured)
    except stopping.StoppedError:  # the training is ending: when it goes on, so does this
        return {}
    numbers = {"pc_success": result.pc_success, "avg_sum_reward": result.avg_sum_reward}
    return {f"eval/{name}": value for name, value in numbers.items() if value is not None}

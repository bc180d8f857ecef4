"""What an evaluation is compared with: the champion's on the same episodes, or the one of the week before."""

import logging

from prefect import task

from lerobot_ops.config import Config
from lerobot_ops.errors import ArtifactError
from lerobot_ops.evaluation.comparison import Comparison, compare
from lerobot_ops.evaluation.history import past_evaluations, past_records
from lerobot_ops.evaluation.records import FILE_NAME, read_records
from lerobot_ops.tracking import TrackingConfig, champion_version, open_run
from tasks.steps import Artifact

logger = logging.getLogger(__name__)


class Change(Config):
    """An evaluation beside an earlier one, on the episodes that both played."""

    before: str
    """What it is compared with, for people."""
    comparison: Comparison

    @property
    def regressed(self) -> bool:
        """Whether the policy does worse, beyond what chance explains."""
        return self.comparison.verdict == "regressed"

    def row(self, task: str) -> dict[str, str]:
        """The cells that a table of success rates gains; `all` stands for all tasks together."""
        found = self.comparison if task == "all" else self.comparison.per_task.get(task)
        if found is None:
            return {self.before: "", "change": "", "verdict": ""}
        row = {self.before: f"{found.before:.1f} %", "change": f"{found.after - found.before:+.1f}", "verdict": ""}
        if found is self.comparison:
            row["change"] += f" ({self.comparison.ci_low:+.1f} to {self.comparison.ci_high:+.1f})"
            row["verdict"] = self.comparison.verdict
        return row

    def __str__(self) -> str:
        return f"{self.comparison.verdict} against {self.before}: {self.comparison.summary()}"


def against_champion(evaluation: Artifact, model: str | None, tracking: TrackingConfig) -> Change | None:
    """The change against the champion of `model`; None where there is none, or nothing that it can be compared with."""
    if model is None or not tracking.enable:
        return None
    present = champion_version(tracking, model)
    if present is None or present.digest == evaluation.facts["policy"]:
        return None
    tags = {"benchmark": evaluation.name, "policy": present.digest}
    return against_past(f"champion {model} v{present.version}", evaluation, tags, tracking)


@task(name="compare")
def against_past(before: str, evaluation: Artifact, tags: dict[str, str], tracking: TrackingConfig) -> Change | None:
    """The change against the newest evaluation with these tags; None where there is none with the same episodes."""
    found = past_evaluations(tracking, tags, without=evaluation.facts["mlflow_run"])
    if not found:
        return None
    try:
        comparison = compare(past_records(tracking, found[0].run_id), read_records(evaluation.path / FILE_NAME))
    except ArtifactError as error:  # its records are gone, or it played other episodes
        logger.warning("no comparison with %s: %s", before, error)
        return None
    if run := evaluation.facts["mlflow_run"]:
        tags = {"verdict": comparison.verdict, "with": before, "with_run": found[0].run_id}
        tags["told"] = comparison.summary()
        with open_run(tracking, name="", run_id=run) as tracked:
            tracked.set_tags({f"comparison.{name}": value for name, value in tags.items()})
    return Change(before=before, comparison=comparison)

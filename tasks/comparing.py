"""What an evaluation is compared with: the champion's on the same episodes, or the one of the week before."""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from prefect import task

from lerobot_ops.config import Config
from lerobot_ops.errors import ArtifactError
from lerobot_ops.evaluation.history import past_evaluations, past_records
from lerobot_ops.evaluation.records import FILE_NAME, Record, read_records
from lerobot_ops.tracking import TrackingConfig, champion_version, open_run
from tasks.steps import Artifact

logger = logging.getLogger(__name__)


class Change(Config):
    """An evaluation beside an earlier one, on the episodes that both played."""

    before: str
    """What it is compared with, for people."""
    rates: dict[str, tuple[float, float]]
    """`pc_success` before and after, by task and as `all`; only episodes that both played count."""
    verdict: Literal["regressed", "improved", "inconclusive"]
    told: str
    """The comparison in words."""

    def row(self, task: str) -> dict[str, str]:
        """The cells that a table of success rates gains."""
        if task not in self.rates:
            return {self.before: "", "change": ""}
        before, after = self.rates[task]
        return {self.before: f"{before:.1f} %", "change": f"{after - before:+.1f}"}

    def __str__(self) -> str:
        return f"{self.verdict} against {self.before}: {self.told}"


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
        earlier = past_records(tracking, found[0].run_id)
    except ArtifactError as error:
        logger.warning("no comparison with %s: %s", before, error)
        return None
    records = read_records(evaluation.path / FILE_NAME)
    rates = _rates(earlier, records)
    if not rates:
        logger.warning("no comparison with %s: it played other episodes", before)
        return None
    from lerobot_ops.evaluation.comparison import compare

    comparison = compare(earlier, records)
    change = Change(before=before, rates=rates, verdict=comparison.verdict, told=comparison.summary())
    if run := evaluation.facts["mlflow_run"]:
        with open_run(tracking, name="", run_id=run) as tracked:
            tags = {"verdict": change.verdict, "with": before, "with_run": found[0].run_id}
            tracked.set_tags({f"comparison.{name}": value for name, value in tags.items()})
    return change


def _rates(before: Sequence[Record], after: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """`pc_success` of both on the episodes that both finished, by task and as `all`."""
    earlier, later = _by_episode(before), _by_episode(after)
    common = [episode for episode in later if episode in earlier]
    tasks = {"all": common} | {
        task: [e for e in common if e[0] == task] for task in dict.fromkeys(e[0] for e in common)
    }
    return {task: (_rate(earlier, episodes), _rate(later, episodes)) for task, episodes in tasks.items() if episodes}


Episode = tuple[str, int, int | None]


def _by_episode(records: Sequence[Record]) -> dict[Episode, bool]:
    """Whether each episode that counts succeeded, by task, seed and initial state."""
    return {(r.task, r.seed, r.init_state): r.success for r in records if r.error is None}


def _rate(successes: Mapping[Episode, bool], episodes: Sequence[Episode]) -> float:
    return 100 * sum(successes[episode] for episode in episodes) / len(episodes)

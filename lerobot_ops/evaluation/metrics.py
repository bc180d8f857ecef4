"""From episode records to success rates: per task, per group and overall, with a 95% interval.

An episode whose simulator failed is no evidence about the policy: it is counted in `n_errors` and nowhere else.

The interval of one task is Wilson's. Episodes of one task are more alike than those of several, so over several tasks
it is Wilson's for as many independent episodes as these are worth (Korn & Graubard 1998, Survey Methodology 24:193):
n* = p (1 - p) / V * (z / t)^2, at most n, where V = m / (m - 1) * sum_j (s_j - p n_j)^2 / n^2 is the variance of p over
m tasks with s_j successes of n_j episodes, and t is Student's quantile for m - 1 degrees of freedom. It says where the
rate over tasks like these is; between policies on these very tasks decides `comparison`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lerobot_ops.config import Config
from lerobot_ops.evaluation.records import Record

Z95 = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""


class Score(Config):
    """The aggregate of some episodes; percentages run from 0 to 100, and are None where no episode counts."""

    pc_success: float | None
    """100 x successes / episodes without an error."""
    ci_low: float | None
    """Lower end of the 95% interval of `pc_success`, over several tasks clustered by task."""
    ci_high: float | None
    """Upper end of it."""
    n_episodes: int
    """Episodes without an error."""
    n_successes: int
    n_errors: int
    """Episodes that the simulator could not finish."""
    avg_sum_reward: float | None
    avg_max_reward: float | None
    avg_steps: float | None

    def summary(self) -> str:
        """One line for people: `94.0% (47 of 50; 95% interval 83.8 to 97.9)`."""
        errors = f"; {self.n_errors} ended in an error" if self.n_errors else ""
        if self.pc_success is None:
            return f"no episode counts{errors}"
        interval = f"95% interval {self.ci_low:.1f} to {self.ci_high:.1f}"
        return f"{self.pc_success:.1f}% ({self.n_successes} of {self.n_episodes}; {interval}{errors})"


def score(records: Iterable[Record]) -> Score:
    """Aggregate `records`."""
    records = list(records)
    counted = [record for record in records if record.error is None]
    count, successes = len(counted), sum(record.success for record in counted)
    low, high = wilson_interval(successes, count, worth=effective_episodes(counted)) if count else (None, None)
    return Score(
        pc_success=100 * successes / count if count else None,
        ci_low=None if low is None else 100 * low,
        ci_high=None if high is None else 100 * high,
        n_episodes=count,
        n_successes=successes,
        n_errors=len(records) - count,
        avg_sum_reward=_mean([record.sum_reward for record in counted]),
        avg_max_reward=_mean([record.max_reward for record in counted]),
        avg_steps=_mean([record.steps for record in counted]),
    )


def wilson_interval(successes: int, trials: int, z: float = Z95, *, worth: float | None = None) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927): (low, high) in [0, 1]; `trials` must be positive.

    `worth` is how many independent trials they are worth, when they are not.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials")
    count = trials if worth is None else worth
    proportion, spread = successes / trials, z * z / count
    centre = (proportion + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(proportion * (1 - proportion) / count + spread / (4 * count))
    # The ends are exact where all trials agree; arithmetic would leave 1e-17 there.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def effective_episodes(records: Sequence[Record]) -> float:
    """How many independent episodes these are worth, clustered by task; all of them where tasks do not differ."""
    tasks = dict.fromkeys(record.task for record in records)
    count, m = len(records), len(tasks)
    rate = sum(record.success for record in records) / count
    if m == 1 or rate in (0.0, 1.0):
        return count
    surplus = dict.fromkeys(tasks, 0.0)
    for record in records:
        surplus[record.task] += record.success - rate
    variance = m / (m - 1) * math.fsum(value**2 for value in surplus.values()) / count**2
    if variance == 0:
        return count
    from scipy.special import stdtrit

    stricter = Z95 / float(stdtrit(m - 1, 0.975))
    return min(count, rate * (1 - rate) / variance * stricter**2)


def metrics(records: Sequence[Record], groups: dict[str, list[str]]) -> dict[str, Any]:
    """The scores of `metrics.json`: overall, and per task and per group of `groups`.

    Equal outcomes give equal content: durations are no part of it.
    """
    tasks = dict.fromkeys(task for members in groups.values() for task in members)
    return {
        **score(records).model_dump(),
        "per_task": {task: score_of(records, [task]).model_dump() for task in tasks},
        "per_group": {group: score_of(records, members).model_dump() for group, members in groups.items()},
    }


def score_of(records: Iterable[Record], tasks: Iterable[str]) -> Score:
    """Aggregate the records of `tasks`."""
    chosen = set(tasks)
    return score(record for record in records if record.task in chosen)


def eval_info(
    records: Sequence[Record],
    groups: dict[str, list[str]],
    videos: dict[str, list[str]],
    task_id: Callable[[str, str], int] | None = None,
) -> dict[str, Any]:
    """The content of LeRobot's `eval_info.json`; `videos` holds the paths of each task's clips.

    `task_id` gives a task's number in its group, by default its place. `eval_s` is the sum of the episodes' seconds,
    whatever number of simulators they were shared among. Episodes that ended in an error are left out.
    """
    per_task = [
        {
            "task_group": group,
            "task_id": task_id(group, task) if task_id else place,
            "metrics": _episodes(records, task, videos.get(task, [])),
        }
        for group, members in groups.items()
        for place, task in enumerate(members)
    ]
    per_group = {group: _summary(records, members, videos) for group, members in groups.items()}
    tasks = list(dict.fromkeys(task for members in groups.values() for task in members))
    seconds = sum(record.seconds for record in records if record.error is None)
    overall = _summary(records, tasks, videos)
    timing = {"eval_s": seconds, "eval_ep_s": seconds / max(1, overall["n_episodes"])}
    return {"per_task": per_task, "per_group": per_group, "overall": overall | timing}


def _episodes(records: Sequence[Record], task: str, videos: list[str]) -> dict[str, Any]:
    counted = [record for record in records if record.task == task and record.error is None]
    return {
        "sum_rewards": [record.sum_reward for record in counted],
        "max_rewards": [record.max_reward for record in counted],
        "successes": [record.success for record in counted],
        "video_paths": videos,
        "predicted_video_paths": [],
    }


def _summary(records: Sequence[Record], tasks: list[str], videos: dict[str, list[str]]) -> dict[str, Any]:
    chosen = score_of(records, tasks)
    return {
        "avg_sum_reward": chosen.avg_sum_reward,
        "avg_max_reward": chosen.avg_max_reward,
        "pc_success": chosen.pc_success,
        "n_episodes": chosen.n_episodes,
        "video_paths": [path for task in tasks for path in videos.get(task, [])],
        "predicted_video_paths": [],
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None

"""Two policies on the same episodes: is the difference real, and if nobody can tell, how many episodes would decide?

Episodes are paired by task, seed and initial state, so what is easy or hard about an episode cancels out. Only pairs in
which one policy succeeded and the other failed say something: under the hypothesis of no difference each of them is a
fair coin (McNemar 1947), and the test is the exact binomial one, two-sided. The interval of the difference is
Newcombe's (1998, Statistics in Medicine 17:2635, method 10), the number of episodes Connor's (1987, Biometrics 43:207).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from pydantic import ConfigDict, Field

from lerobot_ops.config import Config
from lerobot_ops.errors import ArtifactError, OpsError
from lerobot_ops.evaluation.metrics import wilson_interval
from lerobot_ops.evaluation.records import FILE_NAME, Record, read_records
from lerobot_ops.evaluation.result import read_provenance

Verdict = Literal["regressed", "improved", "inconclusive"]
POWER = 0.8
SMALLEST = 0.05
"""A difference that is worth finding, where none was seen at all: five points."""

Pair = tuple[bool, bool]
"""Whether an episode succeeded before and after."""


class Change(Config):
    """The successes of some pairs, before and after; percentages from 0 to 100."""

    n_pairs: int
    before: float
    after: float
    lost: int
    """Episodes that succeeded before and not after."""
    won: int
    """Episodes that succeeded after and not before."""


class Comparison(Change):
    """The verdict over all pairs, and what it rests on; differences are after - before, in points."""

    verdict: Verdict
    alpha: float
    p_value: float
    """Of the exact test of McNemar, two-sided."""
    difference: float
    ci_low: float
    ci_high: float
    """The interval of the difference at 1 - `alpha`."""
    more_episodes: int | None
    """How many more pairs would decide, four times of five, if the truth is what was seen; none when it is decided."""
    n_unpaired: int
    """Episodes that only one of the evaluations finished."""
    per_task: dict[str, Change]

    def summary(self) -> str:
        """One line for people."""
        told = (
            f"{self.before:.1f} % -> {self.after:.1f} % on {self.n_pairs} episodes ({self.difference:+.1f} points, "
            f"{100 * (1 - self.alpha):.0f} % interval {self.ci_low:+.1f} to {self.ci_high:+.1f}; "
            f"{self.lost} lost, {self.won} won, p = {self.p_value:.3g})"
        )
        return told if self.more_episodes is None else f"{told}; about {self.more_episodes} more episodes would decide"

    def __str__(self) -> str:
        width = max(map(len, self.per_task), default=4)
        lines = [
            f"{task:<{width}}  {change.before:5.1f} % -> {change.after:5.1f} %  {change.lost} lost, {change.won} won, "
            f"{change.n_pairs} episodes"
            for task, change in self.per_task.items()
        ]
        unpaired = [f"{self.n_unpaired} episodes have no counterpart and do not count"] if self.n_unpaired else []
        return "\n".join([f"{self.verdict}: {self.summary()}", *unpaired, *lines])


def compare(a: Sequence[Record], b: Sequence[Record], *, alpha: float = 0.05) -> Comparison:
    """Compare the records of two evaluations, `a` before and `b` after; episodes that ended in an error do not count.

    Raises ArtifactError when they have no episode in common.
    """
    before, after = _outcomes(a), _outcomes(b)
    common = [episode for episode in after if episode in before]
    if not common:
        raise ArtifactError(
            "the evaluations have no episode in common, so there is nothing to compare",
            found=f"{len(before)} and {len(after)} episodes",
            expected="the same tasks, seeds and initial states",
            fix="evaluate both with the same env.task, seed and eval.n_episodes",
        )
    pairs = {episode: (before[episode], after[episode]) for episode in common}
    tasks = dict.fromkeys(task for task, _, _ in common)
    total = _change(pairs.values())
    p_value, difference = mcnemar(total.lost, total.won), total.after - total.before
    decided = p_value < alpha
    low, high = newcombe_interval(_table(pairs.values()), alpha)
    verdict: Verdict = "inconclusive" if not decided else "regressed" if difference < 0 else "improved"
    return Comparison(
        **total.model_dump(),
        verdict=verdict,
        alpha=alpha,
        p_value=p_value,
        difference=difference,
        ci_low=100 * low,
        ci_high=100 * high,
        more_episodes=None if decided else _more(total, alpha),
        n_unpaired=len(before) + len(after) - 2 * len(common),
        per_task={task: _change(pair for episode, pair in pairs.items() if episode[0] == task) for task in tasks},
    )


def mcnemar(lost: int, won: int) -> float:
    """The two-sided p-value of `lost` against `won` pairs that differ: twice the smaller tail of a fair coin."""
    count = lost + won
    tail = sum(math.comb(count, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**count)


def newcombe_interval(table: tuple[int, int, int, int], alpha: float = 0.05) -> tuple[float, float]:
    """The interval of the difference after - before of paired proportions, in [-1, 1].

    `table` counts the pairs: (both succeeded, lost, won, both failed).
    """
    both, lost, won, _ = table
    count, z = sum(table), NormalDist().inv_cdf(1 - alpha / 2)
    after, before = (both + won) / count, (both + lost) / count
    (low_a, high_a), (low_b, high_b) = (wilson_interval(n, count, z) for n in (both + won, both + lost))
    phi = _correlation(table)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    difference = after - before
    low = difference - reach(after - low_a, high_b - before)
    high = difference + reach(high_a - after, before - low_b)
    return max(-1.0, low), min(1.0, high)


def episodes_to_decide(lost: float, won: float, alpha: float = 0.05, power: float = POWER) -> int:
    """Pairs that a test at `alpha` needs to find, with `power`, that shares `lost` and `won` of all pairs differ so."""
    differing, difference = lost + won, won - lost
    normal = NormalDist()
    reach = normal.inv_cdf(1 - alpha / 2) * math.sqrt(differing)
    reach += normal.inv_cdf(power) * math.sqrt(max(0.0, differing - difference**2))
    return math.ceil((reach / difference) ** 2)


class CompareConfig(Config):
    """A comparison from the command line: `lerobot-ops compare BEFORE AFTER`."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    before: Path
    """An evaluation's folder, or its records.jsonl."""
    after: Path
    """The one that is judged."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """How often a verdict may be given where there is no difference."""
    as_json: bool = Field(default=False, alias="json")
    """Print JSON in place of text."""
    allow_other_env: bool = False
    """Compare evaluations whose benchmarks had other settings, too."""
    fail_on: Literal["never", "regressed", "inconclusive"] = "never"
    """The mildest verdict that ends with an error: for a check in CI."""


def compare_evaluations(config: CompareConfig) -> Comparison:
    """Compare two evaluations on disk.

    Raises ArtifactError when there are none, or none of the same episodes, and when their benchmarks' settings differ.
    """
    before, after = settings_of(config.before), settings_of(config.after)
    if not config.allow_other_env and before is not None and after is not None and before != after:
        raise ArtifactError(
            "the evaluations were made with other settings of the benchmark, so their episodes are not the same",
            file=config.after,
            found=after,
            expected=before,
            fix="evaluate again with the same settings, or add --allow_other_env",
        )
    return compare(*(read_records(records_file(path)) for path in (config.before, config.after)), alpha=config.alpha)


def env_settings(env: Mapping[str, Any]) -> dict[str, Any]:
    """What makes an episode of a task and a seed another one: the benchmark, its options, the limit."""
    return {name: env.get(name) for name in ("type", "episode_length", "options")}


def settings_of(path: Path) -> dict[str, Any] | None:
    """The settings of an evaluation's benchmark, by its folder or its records; None where nothing says them."""
    provenance = read_provenance(path if path.is_dir() else path.parent)
    return env_settings(provenance["evaluation"]["env"]) if provenance else None


def records_file(path: Path) -> Path:
    """The records of an evaluation, by its folder or by themselves."""
    return path / FILE_NAME if path.is_dir() else path


def raise_if(comparison: Comparison, fail_on: str) -> None:
    """Raise OpsError when the verdict is one to fail on."""
    bad = {"never": (), "regressed": ("regressed",), "inconclusive": ("regressed", "inconclusive")}[fail_on]
    if comparison.verdict in bad:
        raise OpsError(f"the evaluation {comparison.verdict}", found=comparison.summary(), expected=f"not {bad[-1]}")


def _outcomes(records: Iterable[Record]) -> dict[tuple[str, int, int | None], bool]:
    return {(r.task, r.seed, r.init_state): r.success for r in records if r.error is None}


def _table(pairs: Iterable[Pair]) -> tuple[int, int, int, int]:
    pairs = list(pairs)
    both, lost, won, neither = (
        pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))
    )
    return both, lost, won, neither


def _change(pairs: Iterable[Pair]) -> Change:
    both, lost, won, neither = _table(pairs)
    count = both + lost + won + neither
    return Change(
        n_pairs=count, before=100 * (both + lost) / count, after=100 * (both + won) / count, lost=lost, won=won
    )


def _correlation(table: tuple[int, int, int, int]) -> float:
    """Of the two outcomes, corrected for continuity as Newcombe does."""
    both, lost, won, neither = table
    spread = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    if spread == 0:
        return 0.0
    excess: float = both * neither - lost * won
    if excess > 0:
        excess = max(excess - sum(table) / 2, 0.0)
    return excess / math.sqrt(spread)


def _more(total: Change, alpha: float) -> int:
    """Pairs beyond those that were played."""
    lost, won = total.lost / total.n_pairs, total.won / total.n_pairs
    if lost == won:  # nothing was seen: what it takes to find a small difference
        lost, won = max(lost, SMALLEST), max(won - SMALLEST, 0.0) if lost else 0.0
    return max(1, episodes_to_decide(lost, won, alpha) - total.n_pairs)

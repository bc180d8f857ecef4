"""Stopping an evaluation as soon as its question is answered, whenever that is.

A test that is repeated after every episode finds a difference sooner or later, even where there is none. These do not:
the evidence against a hypothesis is a wealth that bets on it, a product that in expectation never grows while the
hypothesis holds, so the chance that it ever exceeds 1 / alpha is at most alpha (Ville 1939; Waudby-Smith & Ramdas 2024,
JRSS B 86:1, "Estimating means of bounded random variables by betting"). The bets are those of Robbins' mixture (1970,
Annals of Mathematical Statistics 41:1397): the likelihood of every rate beyond the hypothesis against the hypothesis'
own, averaged with Jeffreys' prior on those rates.

Episodes count in rounds, one of every task, in the order of their numbers. A product over a round in which tasks have
different rates is at most what their mean would give, so the answer is about the mean over the tasks. Because rounds
are looked at in order, and only when they and all before them are finished, the answer does not depend on how many
simulators play.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.comparison import env_settings, records_file, settings_of
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.records import Record, read_records
from lerobot_ops.evaluation.result import Answer, Stop

Key = tuple[str, int]


def evidence(successes: int, failures: int, bar: float) -> float:
    """The logarithm of the evidence against "the rate is at most `bar`", 0 < bar < 1.

    Against "at least `bar`" it is `evidence(failures, successes, 1 - bar)`.
    """
    from scipy.special import betaincc

    def mass(a: float, b: float) -> float:
        """Of the rates above the bar, under Beta(a, b) without its normalisation; a logarithm."""
        share = float(betaincc(a, b, bar))
        return _log_beta(a, b) + (math.log(share) if share > 0 else -math.inf)

    return (
        mass(successes + 0.5, failures + 0.5) - mass(0.5, 0.5) - successes * math.log(bar) - failures * math.log1p(-bar)
    )


def interval(successes: int, failures: int, alpha: float) -> tuple[float, float]:
    """The rates in [0, 1] that the evidence leaves; the true one is among them, whenever one looks."""
    count = successes + failures
    if count == 0:
        return 0.0, 1.0
    mixture = _log_beta(successes + 0.5, failures + 0.5) - _log_beta(0.5, 0.5)

    def doubtful(rate: float) -> bool:
        likelihood = successes * math.log(rate) if successes else 0.0
        likelihood += failures * math.log1p(-rate) if failures else 0.0
        return mixture - likelihood >= -math.log(alpha)

    seen = successes / count
    low = 0.0 if successes == 0 else _edge(doubtful, 0.0, seen)
    high = 1.0 if failures == 0 else _edge(doubtful, 1.0, seen)
    return low, high


class Rule:
    """When to stop: what the rounds say that are finished so far.

    Raises ConfigError for a baseline that played other episodes, or other settings.
    """

    def __init__(self, config: EvalConfig) -> None:
        self.stop = config.eval.stop
        self.alpha = self.stop.alpha
        self._tasks, self._of = config.env.tasks(), config.eval.n_episodes
        self._baseline = _baseline(config, self.stop.baseline) if self.stop.baseline else None
        self.rounds = 0
        """Finished rounds that were looked at, up to the one that gave the answer."""
        self.verdict: Answer = "inconclusive"
        self._for = self._against = 0
        self._successes = self._failures = 0

    def answered(self, finished: Mapping[Key, Record]) -> bool:
        """Look at the rounds that are finished by now, in order; whether there is an answer."""
        while self.verdict == "inconclusive" and self.rounds < self._of:
            played = [finished.get((task, self.rounds)) for task in self._tasks]
            found = [record for record in played if record is not None]
            if len(found) < len(played):
                return False
            self.rounds += 1
            self._count(found)
            self.verdict = self._answer()
        return self.verdict != "inconclusive"

    def outcome(self) -> Stop:
        """What to say of the stop."""
        low, high = interval(self._successes, self._failures, self.alpha)
        bar, level = self.stop.bar, f"at level {self.alpha:g}, however often one looks"
        sentence = {
            "reached": f"pc_success is above {bar}, {level}",
            "missed": f"pc_success is below {bar}, {level}",
            "improved": f"better than the baseline on the same episodes, {level}",
            "regressed": f"worse than the baseline on the same episodes, {level}",
            "inconclusive": "no answer",
        }[self.verdict]
        within = f"pc_success is within {100 * low:.1f} to {100 * high:.1f}, wherever one stops"
        return Stop(
            verdict=self.verdict,
            rounds=self.rounds,
            of=self._of,
            ci_low=100 * low,
            ci_high=100 * high,
            told=f"after {self.rounds} of at most {self._of} episodes of each task: {sentence}; {within}",
        )

    def _count(self, played: Sequence[Record]) -> None:
        """A round in which an episode ended in an error, or has no counterpart, is no evidence."""
        if any(record.error is not None for record in played):
            return
        successes = [record.success for record in played]
        self._successes += sum(successes)
        self._failures += len(successes) - sum(successes)
        if self._baseline is None:
            self._for, self._against = self._successes, self._failures
            return
        before = [self._baseline.get((record.task, record.seed, record.init_state)) for record in played]
        if None not in before:
            pairs = list(zip(before, successes, strict=True))
            self._for += pairs.count((False, True))
            self._against += pairs.count((True, False))

    def _answer(self) -> Answer:
        if self._baseline is not None:
            # Without a difference either verdict would be wrong, so each gets half of alpha.
            enough, bar = -math.log(self.alpha / 2), 0.5
        else:
            # Only one verdict can be wrong, whatever the rate is.
            assert self.stop.bar is not None
            enough, bar = -math.log(self.alpha), self.stop.bar / 100
        above = evidence(self._for, self._against, bar) >= enough
        below = evidence(self._against, self._for, 1 - bar) >= enough
        if above:
            return "reached" if self._baseline is None else "improved"
        if below:
            return "missed" if self._baseline is None else "regressed"
        return "inconclusive"


def rule(config: EvalConfig) -> Rule | None:
    """The rule that `config` asks for, if any."""
    return Rule(config) if config.eval.stop.is_set else None


def _baseline(config: EvalConfig, path: Path) -> dict[tuple[str, int, int | None], bool]:
    """The outcomes to compare with, by task, seed and initial state."""
    ours, theirs = env_settings(config.env.model_dump(mode="json")), settings_of(path)
    if theirs is not None and theirs != ours:
        raise ConfigError(
            "the baseline was measured with other settings",
            field="eval.stop.baseline",
            found=theirs,
            expected=ours,
            fix="measure the baseline again with these",
        )
    records = [record for record in read_records(records_file(path)) if record.error is None]
    known = {(record.task, record.seed) for record in records}
    tasks, rounds = config.env.tasks(), range(config.eval.n_episodes)
    if not any(all((task, config.seed + number) in known for task in tasks) for number in rounds):
        raise ConfigError(
            "the baseline did not play these episodes",
            field="eval.stop.baseline",
            found=path,
            expected=f"{', '.join(tasks[:3])}{' …' if len(tasks) > 3 else ''} with seeds from {config.seed}",
            fix="use the same env.task and seed",
        )
    return {(record.task, record.seed, record.init_state): record.success for record in records}


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _edge(doubtful: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where doubt ends between a rate that is doubtful and one that is not, on the doubtful side of it."""
    for _ in range(60):
        middle = (outside + inside) / 2
        if doubtful(middle):
            outside = middle
        else:
            inside = middle
    return outside

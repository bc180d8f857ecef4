"""Evaluations that stop when their question is answered: seldom wrong, early, and always after the same episode."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.config import EvalConfig, StopConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.records import Record, write_records
from lerobot_ops.evaluation.sequential import Rule, evidence, interval
from lerobot_ops.flags import build

TASKS = ["reach-v3", "push-v3"]


def record(task: str, number: int, success: bool, error: str | None = None) -> Record:
    return Record(task, number, 1000 + number, None, success, error, 10, 1.0, 1.0, "0" * 16, 0.1, 0, 1)


def configured(
    stop: dict[str, object], *, tasks: list[str] = TASKS, n_episodes: int = 100, **values: object
) -> EvalConfig:
    wanted = {"env": {"task": ",".join(tasks)}, "eval": {"n_episodes": n_episodes, "stop": stop}, **values}
    return build(EvalConfig, wanted, source="a test")


def played(outcomes: dict[str, list[bool]]) -> dict[tuple[str, int], Record]:
    return {(task, n): record(task, n, success) for task, found in outcomes.items() for n, success in enumerate(found)}


@pytest.mark.parametrize("bar", [0.1, 0.5, 0.8, 0.99])
def test_a_bet_on_the_hypothesis_itself_wins_nothing_on_average(bar: float) -> None:
    for count in (1, 5, 40):
        expected = sum(
            math.comb(count, k) * bar**k * (1 - bar) ** (count - k) * math.exp(evidence(k, count - k, bar))
            for k in range(count + 1)
        )
        assert expected == pytest.approx(1)


def test_the_evidence_is_the_mixture_of_likelihood_ratios() -> None:
    angles = np.linspace(np.arcsin(np.sqrt(0.7)), np.pi / 2, 200_001)[1:-1]  # where Jeffreys' prior is flat
    rates = np.sin(angles) ** 2
    ratios = (rates / 0.7) ** 17 * ((1 - rates) / 0.3) ** 2
    assert math.exp(evidence(17, 2, 0.7)) == pytest.approx(ratios.mean(), rel=1e-4)


def first_answers(outcomes: np.ndarray, enough: float, bar: float, per_round: int = 1) -> np.ndarray:
    """By path (rows of outcomes), the episode after which the rate is said to be above the bar; 0 for never."""
    count = outcomes.shape[1]
    table = np.array([[evidence(k, n - k, bar) if k <= n else 0.0 for k in range(count + 1)] for n in range(count + 1)])
    successes = outcomes.cumsum(axis=1)
    looked = np.arange(per_round, count + 1, per_round)
    said = table[looked[None, :], successes[:, looked - 1]] >= enough
    return np.where(said.any(axis=1), looked[said.argmax(axis=1)], 0)


ENOUGH = -math.log(0.05)


@pytest.mark.parametrize("bar", [0.2, 0.5, 0.8])
def test_a_look_after_every_episode_is_wrong_as_seldom_as_promised(bar: float) -> None:
    outcomes = np.random.default_rng(0).random((2000, 200)) < bar
    assert 0.005 < (first_answers(outcomes, ENOUGH, bar) > 0).mean() < 0.05
    assert 0.005 < (first_answers(~outcomes, ENOUGH, 1 - bar) > 0).mean() < 0.05
    # The exact binomial test at the same level, looked at as often, is wrong several times as often.
    successes = outcomes.cumsum(axis=1)
    from scipy.stats import binom

    usual = binom.sf(successes - 1, np.arange(1, 201)[None, :], bar) < 0.05
    assert usual.any(axis=1).mean() > 0.12


def test_tasks_that_differ_are_answered_for_their_mean() -> None:
    generator = np.random.default_rng(0)
    rates = np.array([1.0, 1.0, 1.0, 0.2, 0.8])  # 0.8 on average
    outcomes = (generator.random((2000, 60, 5)) < rates).reshape(2000, 300)
    assert (first_answers(outcomes, ENOUGH, 0.8, per_round=5) > 0).mean() < 0.05
    assert (first_answers(~outcomes, ENOUGH, 0.2, per_round=5) > 0).mean() < 0.05


def test_a_clear_answer_comes_early() -> None:
    outcomes = np.random.default_rng(0).random((1000, 100)) < 0.95
    found = first_answers(outcomes, ENOUGH, 0.8)
    assert (found > 0).mean() > 0.8
    assert np.median(found[found > 0]) < 50
    hopeless = np.random.default_rng(1).random((1000, 100)) < 0.4
    found = first_answers(~hopeless, ENOUGH, 0.2)
    assert (found > 0).mean() > 0.99
    assert np.median(found) < 15


def test_the_interval_holds_at_all_times() -> None:
    generator = np.random.default_rng(0)
    for rate in (0.5, 0.9):
        missed = 0
        bounds = {(k, n): interval(k, n - k, 0.05) for n in range(1, 101, 3) for k in range(n + 1)}
        for outcomes in generator.random((500, 100)) < rate:
            successes = outcomes.cumsum()
            found = [bounds[int(successes[n - 1]), n] for n in range(1, 101, 3)]
            missed += any(not low <= rate <= high for low, high in found)
        assert missed / 500 < 0.05
    assert interval(0, 0, 0.05) == (0.0, 1.0)
    low, high = interval(50, 0, 0.05)
    assert (0.8 < low < 0.95, high) == (True, 1.0)
    assert interval(0, 50, 0.05) == pytest.approx((1 - high, 1 - low))


def test_a_bar_is_reached_or_missed() -> None:
    good = Rule(configured({"bar": 80}))
    assert good.answered(played({task: [True] * 100 for task in TASKS}))
    stop = good.outcome()
    assert (stop.verdict, stop.rounds, stop.of, stop.ci_high) == ("reached", good.rounds, 100, 100.0)
    assert 5 < stop.rounds < 30
    assert stop.told.startswith(f"after {stop.rounds} of at most 100 episodes of each task: pc_success is above 80")
    bad = Rule(configured({"bar": 80}))
    assert bad.answered(played({task: [False] * 100 for task in TASKS}))
    assert (bad.outcome().verdict, bad.rounds) == ("missed", 2)  # four failures where four of five should succeed
    unclear = Rule(configured({"bar": 80}, n_episodes=10))
    assert not unclear.answered(played({task: [True, True, True, True, False] * 2 for task in TASKS}))
    assert (unclear.outcome().verdict, unclear.rounds) == ("inconclusive", 10)


@given(st.lists(st.booleans(), min_size=20, max_size=60), st.randoms())
def test_the_order_in_which_episodes_finish_changes_nothing(outcomes: list[bool], random: object) -> None:
    config = configured({"bar": 60}, n_episodes=len(outcomes))
    everything = played({"reach-v3": outcomes, "push-v3": outcomes[::-1]})
    at_once = Rule(config)
    at_once.answered(everything)
    one_by_one, finished = Rule(config), {}
    order = list(everything)
    random.shuffle(order)
    for key in order:
        finished[key] = everything[key]
        if one_by_one.answered(finished):
            break
    assert one_by_one.outcome() == at_once.outcome()


def test_a_round_with_an_error_is_no_evidence() -> None:
    outcomes = {task: [True] * 40 for task in TASKS}
    whole = Rule(configured({"bar": 80}))
    whole.answered(played(outcomes))
    broken = played(outcomes)
    broken["push-v3", 3] = record("push-v3", 3, False, error="died")
    found = Rule(configured({"bar": 80}))
    found.answered(broken)
    assert found.rounds == whole.rounds + 1
    assert found.outcome().ci_low == whole.outcome().ci_low


def test_against_a_baseline(tmp_path: Path) -> None:
    baseline = tmp_path / "records.jsonl"
    write_records(baseline, played({task: [True, False] * 50 for task in TASKS}).values())
    verdicts = {}
    for name, outcomes in {"same": [True, False] * 50, "all": [True] * 100, "none": [False] * 100}.items():
        rule = Rule(configured({"baseline": str(baseline)}))
        rule.answered(played(dict.fromkeys(TASKS, outcomes)))
        verdicts[name] = (rule.outcome().verdict, rule.rounds)
    assert verdicts == {"same": ("inconclusive", 100), "all": ("improved", 8), "none": ("regressed", 7)}
    with pytest.raises(ConfigError, match="did not play these episodes"):
        Rule(configured({"baseline": str(baseline)}, seed=5000))


def test_two_equal_policies_are_seldom_told_apart() -> None:
    generator = np.random.default_rng(0)
    enough, wrong = -math.log(0.05 / 2), 0
    outcomes = generator.random((2, 2000, 200)) < 0.7
    for before, after in zip(*outcomes, strict=True):
        won, lost = (after & ~before).cumsum(), (before & ~after).cumsum()
        at = np.unique(won + lost, return_index=True)[1][::4]
        wrong += any(
            evidence(int(won[n]), int(lost[n]), 0.5) >= enough or evidence(int(lost[n]), int(won[n]), 0.5) >= enough
            for n in at
        )
    assert wrong / 2000 < 0.05


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stop": {"bar": 80, "baseline": "x"}}, "not for both"),
        ({"stop": {"bar": 80}, "shard": "1/2"}, "it cannot stop"),
        ({"stop": {"bar": 100}}, "less than 100"),
    ],
)
def test_what_cannot_be_asked(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(**values)


def after(count: int) -> Callable[[Record], None]:
    """Interrupts an evaluation at its `count`-th record."""
    seen = []

    def interrupt(record: Record) -> None:
        seen.append(record)
        if len(seen) == count:
            raise RuntimeError("enough")

    return interrupt


def test_an_evaluation_stops_at_the_same_episode_with_any_number_of_simulators(tmp_path: Path) -> None:
    tasks, results = ["reach-v3", "drawer-close-v3"], {}
    for simulators in (1, 3):
        config = configured(
            {"bar": 75},
            tasks=tasks,
            n_episodes=30,
            policy={"path": "expert"},
            clips={"enable": False},
            sandbox={"type": "venv"},
            output_dir=tmp_path / str(simulators),
        ).altered("eval.batch_size", simulators)
        results[simulators] = evaluate(config)
    one, three = results.values()
    assert one.stop == three.stop
    assert one.stop is not None
    assert (one.stop.verdict, one.stop.of) == ("reached", 30)
    assert one.n_episodes == 2 * one.stop.rounds < 30
    assert one.notes[0] == one.stop.told
    assert [record.outcome() for record in one.records] == [record.outcome() for record in three.records]

    interrupted = config.altered("output_dir", tmp_path / "interrupted")
    with pytest.raises(RuntimeError, match="enough"):
        evaluate(interrupted, on_record=after(5))
    resumed = evaluate(interrupted)
    assert (resumed.stop, resumed.records[-1].outcome()) == (one.stop, one.records[-1].outcome())

    against = config.altered("policy.path", "zero").altered("output_dir", tmp_path / "zero")
    worse = evaluate(against.altered("eval.stop", StopConfig(baseline=tmp_path / "1")))
    assert worse.stop is not None
    assert (worse.stop.verdict, worse.pc_success) == ("regressed", 0)
    assert worse.stop.rounds < one.stop.rounds

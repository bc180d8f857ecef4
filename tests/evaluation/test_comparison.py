"""What is said of two evaluations of the same episodes."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lerobot_ops.cli import main
from lerobot_ops.errors import ArtifactError
from lerobot_ops.evaluation.comparison import compare, episodes_to_decide, mcnemar, newcombe_interval
from lerobot_ops.evaluation.records import Record, write_records


def record(task: str, number: int, success: bool, **other: object) -> Record:
    usual = {"init_state": None, "error": None, "steps": 10, "sum_reward": 1.0, "max_reward": 1.0}
    usual |= {"observation": "0" * 16, "seconds": 1.0, "worker": 0, "attempt": 1}
    return Record(task=task, episode=number, seed=1000 + number, success=success, **{**usual, **other})


def records(outcomes: list[bool], task: str = "reach") -> list[Record]:
    return [record(task, number, success) for number, success in enumerate(outcomes)]


def pairs(both: int, lost: int, won: int, neither: int) -> tuple[list[Record], list[Record]]:
    kinds = [(True, True)] * both + [(True, False)] * lost + [(False, True)] * won + [(False, False)] * neither
    return records([before for before, _ in kinds]), records([after for _, after in kinds])


def test_the_exact_test_is_the_sum_over_all_ways_to_toss() -> None:
    for lost, won in itertools.product(range(6), repeat=2):
        tosses = [sum(toss) for toss in itertools.product((0, 1), repeat=lost + won)]
        as_far = [toss for toss in tosses if abs(toss - (lost + won) / 2) >= abs(won - (lost + won) / 2)]
        assert mcnemar(lost, won) == pytest.approx(len(as_far) / len(tosses))
    # Table 2 of Fagerland, Lydersen & Laake 2013 (BMC Med Res Methodol 13:91): 1 against 7
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)


def test_the_interval_is_newcombes() -> None:
    # Newcombe 1998, section 5: 36, 2, 12 and 0 pairs, method 10
    assert newcombe_interval((36, 2, 12, 0)) == pytest.approx((0.0569, 0.3404), abs=2e-4)
    low, high = newcombe_interval((30, 5, 5, 10))
    assert low == pytest.approx(-high)


def test_the_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    for shares in ((0.6, 0.1, 0.1, 0.2), (0.85, 0.1, 0.03, 0.02), (0.3, 0.05, 0.25, 0.4)):
        truth = shares[2] - shares[1]
        tables = generator.multinomial(60, shares, size=2000)
        bounds = [newcombe_interval(tuple(map(int, table))) for table in tables]
        covered = np.mean([low <= truth <= high for low, high in bounds])
        assert 0.93 <= covered <= 0.99


@pytest.mark.parametrize(
    ("table", "verdict"),
    [((30, 12, 2, 6), "regressed"), ((30, 2, 12, 6), "improved"), ((30, 6, 2, 6), "inconclusive")],
)
def test_the_verdict(table: tuple[int, int, int, int], verdict: str) -> None:
    found = compare(*pairs(*table))
    assert found.verdict == verdict
    assert (found.lost, found.won, found.n_pairs) == (table[1], table[2], sum(table))
    assert found.difference == pytest.approx(100 * (table[2] - table[1]) / sum(table))
    assert found.ci_low < found.difference < found.ci_high
    assert (found.more_episodes is None) == (verdict != "inconclusive")


def test_nothing_is_claimed_where_there_is_no_difference() -> None:
    generator = np.random.default_rng(0)
    verdicts = []
    for _ in range(2000):
        before, after = generator.random((2, 50)) < 0.7
        verdicts.append(compare(records(before.tolist()), records(after.tolist())).verdict)
    assert np.mean([verdict != "inconclusive" for verdict in verdicts]) < 0.05


def test_so_many_episodes_do_decide() -> None:
    count = episodes_to_decide(0.2, 0.08)
    generator = np.random.default_rng(0)
    draws = generator.multinomial(count, (0.2, 0.08, 0.72), size=2000)
    found = np.mean([mcnemar(int(lost), int(won)) < 0.05 for lost, won, _ in draws])
    assert found == pytest.approx(0.8, abs=0.06)  # the exact test is a little stricter than the formula's

    seen = compare(*pairs(30, 10, 4, 6))
    assert seen.more_episodes == episodes_to_decide(0.2, 0.08) - 50


def test_equal_outcomes_say_how_many_would_find_five_points() -> None:
    found = compare(*pairs(10, 0, 0, 0))
    assert (found.verdict, found.p_value, found.difference) == ("inconclusive", 1.0, 0.0)
    assert found.more_episodes == episodes_to_decide(0.05, 0.0) - 10


def test_only_the_same_episodes_are_paired() -> None:
    before, after = pairs(3, 1, 0, 2)
    other = replace(after[0], init_state=4)
    broken = replace(after[1], error="the simulator died")
    found = compare(before, [other, broken, *after[2:]])
    assert (found.n_pairs, found.n_unpaired) == (4, 3)
    with pytest.raises(ArtifactError, match="no episode in common"):
        compare(before, records([True] * 6, task="push"))


def test_tasks_one_by_one() -> None:
    before = records([True, True, False]) + records([False, False], task="push")
    after = records([True, False, False]) + records([True, False], task="push")
    found = compare(before, after)
    assert {task: (change.lost, change.won) for task, change in found.per_task.items()} == {
        "reach": (1, 0),
        "push": (0, 1),
    }
    assert "push" in str(found)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = pairs(30, 12, 2, 6)
    (tmp_path / "before").mkdir()
    write_records(tmp_path / "before/records.jsonl", before)
    write_records(tmp_path / "after.jsonl", after)
    main(["compare", str(tmp_path / "before"), str(tmp_path / "after.jsonl")])
    assert capsys.readouterr().out.startswith("regressed: 84.0 % -> 64.0 % on 50 episodes (-20.0 points, 95 % interval")
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path / "before"), str(tmp_path / "after.jsonl"), "--json=true", "--fail_on=regressed"])
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["verdict"] == "regressed"
    assert "the evaluation regressed" in told.err
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "before"), str(tmp_path / "nothing")])
    assert "there are no episode records" in capsys.readouterr().err


def test_other_settings_of_the_benchmark_are_refused_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = pairs(30, 12, 2, 6)
    for name, found, options in (("before", before, {}), ("after", after, {"settled_start": True})):
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "records.jsonl", found)
        env = {"type": "metaworld", "task": name, "task_ids": None, "episode_length": None, "options": options}
        (tmp_path / name / "evaluation.json").write_text(json.dumps({"evaluation": {"env": env}}))
    folders = [str(tmp_path / "before"), str(tmp_path / "after")]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *folders])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "other settings of the benchmark" in told
    assert "'settled_start': True" in told
    main(["compare", *folders, "--allow_other_env"])
    assert capsys.readouterr().out.startswith("regressed")
    main(["compare", folders[0], folders[0]])  # other tasks would be no other settings: episodes are paired by task
    assert capsys.readouterr().out.startswith("inconclusive")

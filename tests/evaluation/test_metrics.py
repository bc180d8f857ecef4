"""Success rates from records: known intervals, errors that count for nothing, LeRobot's layout."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lerobot_ops.evaluation.metrics import (
    effective_episodes,
    eval_info,
    metrics,
    score,
    score_of,
    wilson_interval,
)
from lerobot_ops.evaluation.records import Record


def record(task="reach-v3", episode=0, success=True, error=None, **values) -> Record:
    fixed = {
        "seed": 1000 + episode,
        "steps": 10,
        "sum_reward": 5.0,
        "max_reward": 1.0,
        "observation": "0" * 16,
        "init_state": None,
    }
    return Record(
        task=task,
        episode=episode,
        success=success,
        error=error,
        **{**fixed, "seconds": 0.5, "worker": 0, "attempt": 1, **values},
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_published_intervals(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_the_proportion_and_more_episodes_narrow_it(case):
    successes, trials = case
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    wider = wilson_interval(successes * 4, trials * 4)
    assert wider[1] - wider[0] < high - low


def test_no_trials_have_no_interval():
    with pytest.raises(ValueError, match="0 successes of 0 trials"):
        wilson_interval(0, 0)


def test_an_error_is_neither_a_success_nor_a_failure():
    found = score([record(episode=0), record(episode=1, success=False), record(episode=2, success=False, error="died")])
    assert (found.pc_success, found.n_episodes, found.n_successes, found.n_errors) == (50.0, 2, 1, 1)
    assert found.avg_steps == 10
    assert "1 of 2" in found.summary()
    assert "1 ended in an error" in found.summary()


def test_episodes_that_all_ended_in_errors_have_no_success_rate():
    found = score([record(success=False, error="died")])
    assert found.pc_success is None
    assert found.summary() == "no episode counts; 1 ended in an error"


GROUPS = {"easy": ["reach-v3", "door-open-v3"], "reach-v3": ["reach-v3"]}
RECORDS = [
    record("reach-v3", 0, sum_reward=1.0),
    record("reach-v3", 1, success=False, sum_reward=3.0),
    record("door-open-v3", 0, sum_reward=8.0, max_reward=4.0),
    record("door-open-v3", 1, success=False, error="died", sum_reward=100.0),
]


def test_scores_per_task_per_group_and_overall():
    found = metrics(RECORDS, GROUPS)
    assert found["pc_success"] == pytest.approx(200 / 3)
    assert list(found["per_task"]) == ["reach-v3", "door-open-v3"]
    assert found["per_task"]["reach-v3"]["pc_success"] == 50
    assert found["per_task"]["door-open-v3"]["n_errors"] == 1
    assert found["per_group"]["easy"]["n_episodes"] == 3
    assert found["per_group"]["reach-v3"]["avg_sum_reward"] == 2.0
    assert score_of(RECORDS, ["door-open-v3"]).pc_success == 100


def test_metrics_do_not_depend_on_durations_or_repetitions():
    again = [replace(record, seconds=9.0, attempt=2) for record in RECORDS]
    assert json.dumps(metrics(again, GROUPS)) == json.dumps(metrics(RECORDS, GROUPS))


def test_eval_info_has_lerobots_layout():
    info = eval_info(RECORDS, GROUPS, {"reach-v3": ["clips/a.mp4"]})
    assert list(info) == ["per_task", "per_group", "overall"]
    assert [(entry["task_group"], entry["task_id"]) for entry in info["per_task"]] == [
        ("easy", 0),
        ("easy", 1),
        ("reach-v3", 0),
    ]
    assert info["per_task"][0]["metrics"] == {
        "sum_rewards": [1.0, 3.0],
        "max_rewards": [1.0, 1.0],
        "successes": [True, False],
        "video_paths": ["clips/a.mp4"],
        "predicted_video_paths": [],
    }
    assert info["per_task"][1]["metrics"]["sum_rewards"] == [8.0]
    assert info["per_group"]["easy"] == {
        "avg_sum_reward": 4.0,
        "avg_max_reward": 2.0,
        "pc_success": pytest.approx(200 / 3),
        "n_episodes": 3,
        "video_paths": ["clips/a.mp4"],
        "predicted_video_paths": [],
    }
    assert info["overall"]["eval_s"] == 1.5
    assert info["overall"]["eval_ep_s"] == 0.5


def clustered(generator: np.random.Generator, tasks: int, episodes: int, spread: float) -> list[Record]:
    """Tasks whose own rates differ around 0.6."""
    rates = generator.beta(0.6 / spread, 0.4 / spread, size=tasks)
    return [
        record(task=f"task-{task}", episode=number, success=bool(generator.random() < rate))
        for task, rate in enumerate(rates)
        for number in range(episodes)
    ]


@pytest.mark.parametrize(("tasks", "episodes"), [(10, 10), (40, 10), (5, 50)])
def test_the_interval_over_tasks_covers_the_rate_over_tasks_like_these(tasks, episodes):
    generator = np.random.default_rng(0)
    clustering, plain = [], []
    for _ in range(400):
        records = clustered(generator, tasks, episodes, spread=0.8)
        found = score(records)
        clustering.append(found.ci_low <= 60 <= found.ci_high)
        low, high = wilson_interval(found.n_successes, found.n_episodes)
        plain.append(low <= 0.6 <= high)
    assert np.mean(clustering) > 0.92
    assert np.mean(plain) < 0.8


def test_tasks_that_are_alike_are_worth_all_their_episodes():
    alike = [record(task=f"task-{task}", episode=n, success=n < 6) for task in range(5) for n in range(10)]
    assert effective_episodes(alike) == 50
    found = score(alike)
    assert (found.ci_low / 100, found.ci_high / 100) == pytest.approx(wilson_interval(30, 50))
    solved = [record(task=f"task-{task}", episode=n) for task in range(5) for n in range(10)]
    assert score(solved).ci_high == 100


def test_two_tasks_of_which_one_is_solved_say_little():
    records = [record(task=task, episode=n, success=task == "easy") for task in ("easy", "hard") for n in range(50)]
    assert effective_episodes(records) < 1
    found = score(records)
    assert found.ci_low < 10
    assert found.ci_high > 90
    assert score_of(records, ["easy"]).ci_low > 90

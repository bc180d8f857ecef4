"""What is evaluated: selections of tasks, options of a benchmark, sanity policies that need something, simulators."""

import json
from pathlib import Path

import pytest

from lerobot_ops.envs.metaworld import BENCHMARK
from lerobot_ops.errors import ConfigError, DatasetError, OpsError
from lerobot_ops.evaluation import workers
from lerobot_ops.evaluation.config import EnvConfig, EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.records import Record, repeated_beginnings
from lerobot_ops.flags import build, parse
from lerobot_ops.recording.collect import CollectConfig, collect

TASK = "button-press-topdown-v3"


def configured(output: Path, **values) -> EvalConfig:
    usual = {"eval": {"n_episodes": 3}, "clips": {"enable": False}, "sandbox": {"type": "venv"}, "output_dir": output}
    return build(EvalConfig, {**usual, **values}, source="a test")


def test_flags_that_lerobot_has():
    config = parse(EvalConfig, ["--env.task=hard,easy", "--env.task_ids=[0, 3]", "--env.camera_name=corner"])
    assert config.env.groups() == {
        "hard": ["assembly-v3", "pick-place-v3"],
        "easy": ["button-press-v3", "button-press-wall-v3"],
    }
    assert config.env.options == {"camera_name": "corner"}
    assert config.env.task_id("hard", "pick-place-v3") == 3
    assert config.episodes()[49:51] == [("assembly-v3", 49), ("pick-place-v3", 0)]
    assert EnvConfig().task == BENCHMARK.default_task == TASK


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--env.task=very_hard", "--env.task_ids=[5]"], "very_hard has no task 5"),
        (["--env.camera_nam=corner"], "env.camera_nam: unknown parameter"),
        (["--env.type=metawrld"], "did you mean 'metaworld'"),
        (["--policy.path=replay"], "add --policy.dataset=FOLDER"),
        (["--policy.path=zero", "--policy.dataset=x"], "with --policy.path=replay only"),
    ],
)
def test_flags_that_are_wrong(flags, problem):
    with pytest.raises(ConfigError, match=problem):
        parse(EvalConfig, flags)


def test_a_part_of_a_group_keeps_its_numbers(tmp_path):
    env = {"task": "medium", "task_ids": [2], "episode_length": 2}
    result = evaluate(configured(tmp_path / "result", env=env, policy={"path": "zero"}))
    assert [score.task for score in result.per_task] == ["box-close-v3"]
    described = json.loads((result.output_dir / "task_descriptions.json").read_text())
    assert list(described) == ["medium_2"]


def test_a_benchmark_without_an_expert_is_not_asked_for_one(tmp_path):
    with pytest.raises(ConfigError, match=r"pusht has no scripted expert[\s\S]*replay, with --policy.dataset"):
        evaluate(configured(tmp_path / "result", env={"type": "pusht"}))
    values = {"env": {"type": "pusht"}, "dataset": {"root": tmp_path / "dataset"}}
    with pytest.raises(ConfigError, match="no scripted expert to record"):
        collect(build(CollectConfig, values, source="a test"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three of the expert's successes, with noise, from seeds 5 to 7."""
    root = tmp_path_factory.mktemp("recorded") / "dataset"
    values = {"dataset": {"root": root}, "sandbox": {"type": "venv"}, "num_episodes": 3, "seed": 5, "action_noise": 0.1}
    assert collect(build(CollectConfig, values, source="a test")).failures == 0
    return root


def test_stored_actions_lead_to_the_recorded_successes_again(recorded, tmp_path):
    policy = {"path": "replay", "dataset": str(recorded)}
    result = evaluate(configured(tmp_path / "result", policy=policy, seed=5))
    assert (result.pc_success, result.n_episodes) == (100, 3)
    elsewhere = evaluate(configured(tmp_path / "elsewhere", policy=policy, seed=50))
    assert elsewhere.pc_success < 100
    assert next(record.steps for record in elsewhere.records if not record.success) < 500, "it ends with its actions"


def test_nothing_to_replay(recorded, tmp_path):
    policy = {"path": "replay", "dataset": str(recorded)}
    with pytest.raises(DatasetError, match=r"too few episodes of this task[\s\S]*--eval.n_episodes=3"):
        evaluate(configured(tmp_path / "result", policy=policy, eval={"n_episodes": 4}))
    with pytest.raises(DatasetError, match=r"no episode of this task[\s\S]*'Press a button from the top'"):
        evaluate(configured(tmp_path / "result", policy=policy, env={"task": "button-press-v3"}))
    with pytest.raises(OpsError, match="nowhere"):
        evaluate(configured(tmp_path / "result", policy={"path": "replay", "dataset": "nowhere"}))
    assert not (tmp_path / "result").exists()


def record(number: int, **values) -> Record:
    usual = {"seed": number, "init_state": None, "success": True, "error": None, "steps": 1, "sum_reward": 0.0}
    usual |= {"max_reward": 0.0, "observation": f"{number}", "seconds": 0.0, "worker": 0, "attempt": 1}
    return Record(**{"task": "lift", "episode": number, **usual, **values})


def test_episodes_that_begin_alike_are_told():
    assert repeated_beginnings([record(number) for number in range(3)]) == []
    assert repeated_beginnings([record(number, init_state=number, observation="same") for number in range(3)]) == []
    stored = [record(number, init_state=number % 2) for number in range(3)]
    assert repeated_beginnings(stored) == ["lift: 3 episodes began from 2 stored initial states"]
    alike = [record(number, observation="same") for number in range(3)]
    assert repeated_beginnings(alike) == ["lift: 3 episodes began with 1 different observations"]
    assert repeated_beginnings([*alike[:1], record(1, observation="same", error="it died")]) == []


def test_simulators_fit_into_cores_and_memory(monkeypatch):
    monkeypatch.setattr(workers, "simulators", lambda requested, jobs: min(16, jobs))
    monkeypatch.setattr(workers, "available_memory", lambda: 10 * 10**9)
    assert workers.crew(0, 100, 10**8).count == 16
    assert workers.crew(0, 3, 10**8).count == 3
    small = workers.crew(0, 100, 2 * 10**9)
    assert (small.count, small.reason) == (
        4,
        "16 by cores and episodes, 4 by memory (2.50 GB for each, of 10.0 GB free)",
    )
    assert workers.crew(0, 100, 10**11).count == 1
    assert workers.crew(0, 100, None).count == 16
    assert workers.crew(32, 100, 10**11).count == 32
    assert workers.crew(32, 5, None).count == 5


def test_memory_of_this_machine():
    assert 10**7 < workers.available_memory() < 10**14


def test_a_simulator_tells_what_it_takes(venv_sandbox, tmp_path):
    result = evaluate(configured(tmp_path / "result", policy={"path": "zero"}, env={"episode_length": 2}))
    told = json.loads((result.output_dir / "evaluation.json").read_text())["simulators"]
    assert "by memory (0." in told
    with venv_sandbox.spawn({}) as worker:
        reply = worker.request({"op": "reset", "task": TASK, "seed": 1})
    assert 30 * 10**6 < reply["memory"] < 4 * 10**9

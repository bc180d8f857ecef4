"""Evaluating as a flow: benchmarks and shards side by side, with the records of an evaluation played at once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL

from flows.evaluate import EvaluateConfig, evaluate
from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate as evaluate_directly
from lerobot_ops.evaluation.records import FILE_NAME, read_records
from lerobot_ops.flags import parse
from lerobot_ops.tracking import TrackingConfig
from tasks.steps import Links
from tests.flows.checkpoints import checkpoint

ROOT = Path(__file__).parents[2]
UNTRACKED = Links(tracking=TrackingConfig(enable=False))
SMALL = ["--sandbox.type=venv", "--env.episode_length=60", "--clips.enable=false", "--eval.n_episodes=4"]
TASKS = ["--policy.path=random", "--env.task=reach-v3,push-v3"]


def config(*arguments: str) -> EvaluateConfig:
    return parse(EvaluateConfig, [*SMALL, *arguments])


def outcomes(folder: Path) -> list:
    return [record.outcome() for record in read_records(folder / FILE_NAME)]


def metrics(folder: Path) -> dict:
    found = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if name != "eval_s"}


def artifacts(key: str) -> list:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def played_at_once(folder: Path) -> Path:
    return evaluate_directly(parse(EvalConfig, [*SMALL, *TASKS, f"--output_dir={folder}"])).output_dir


def test_shards_and_merge_equal_one_run(workspace: Path) -> None:
    alone = played_at_once(workspace / "alone")
    (sharded,) = evaluate(config(*TASKS, "--shards=3"), UNTRACKED).values()
    assert outcomes(sharded.path) == outcomes(alone)
    assert len(outcomes(sharded.path)) == 8
    assert metrics(sharded.path) == metrics(alone)
    (again,) = evaluate(config(*TASKS, "--shards=3"), UNTRACKED).values()
    assert again == sharded


def test_a_policy_decides_the_same_in_threads_side_by_side(workspace: Path) -> None:
    policy = f"--policy.path={checkpoint(workspace / 'policy', action_std=0.5)}"
    task = ["--env.task=reach-v3", "--env.episode_length=25"]
    (alone,) = evaluate(config(policy, *task), UNTRACKED).values()
    (sharded,) = evaluate(config(policy, *task, "--shards=2"), UNTRACKED).values()
    assert outcomes(sharded.path) == outcomes(alone.path)
    assert sharded.facts["policy"] == alone.facts["policy"]


def test_several_benchmarks_each_have_their_result(workspace: Path) -> None:
    benchmarks = "--benchmarks={reach: {task: reach-v3, episode_length: 20}, push: {task: push-v3, episode_length: 20}}"
    found = evaluate(config("--policy.path=zero", benchmarks, "--eval.n_episodes=2"), UNTRACKED)
    assert list(found) == ["reach", "push"]
    assert [list(artifact.facts["per_task"]) for artifact in found.values()] == [["reach-v3"], ["push-v3"]]
    (table,) = artifacts("benchmark-reach")
    first = json.loads(table.data)[0]
    assert first["task"] == "all"
    assert re.fullmatch(r"\d+\.\d to \d+\.\d", first["95 % interval"])
    (progress,) = artifacts("progress-metaworld-reach-v3-zero")
    assert progress.data == 100.0
    assert "2 of 2 episodes" in progress.description


def test_a_benchmark_that_fails_does_not_keep_the_others(workspace: Path) -> None:
    benchmarks = "--benchmarks={good: {task: reach-v3}, bad: {task: reach-v3, options: {camera_name: ceiling}}}"
    with pytest.raises(
        SandboxError, match="1 of 2 benchmarks could not be measured\nbad: Meta-World has no such camera"
    ):
        evaluate(config("--policy.path=zero", benchmarks), UNTRACKED)
    (metrics,) = workspace.glob("outputs/eval/*/*/metrics.json")
    assert json.loads(metrics.read_text())["n_episodes"] == 4


def test_a_plain_evaluation_is_one_of_a_single_benchmark(workspace: Path) -> None:
    plain = parse(EvalConfig, [*SMALL, *TASKS])
    (name,) = EvaluateConfig.model_validate(plain).evaluations()
    assert name == "metaworld-reach-v3+push-v3"
    assert EvaluateConfig.model_validate(plain).evaluations()[name] == plain


def test_a_local_dask_cluster_gives_the_same(workspace: Path) -> None:
    pytest.importorskip("prefect_dask", reason="pip install 'lerobot-ops[dask]'")
    alone = played_at_once(workspace / "alone")
    (sharded,) = evaluate(config(*TASKS, "--shards=2", "--runner=dask"), UNTRACKED).values()
    assert outcomes(sharded.path) == outcomes(alone)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_finished_episodes_and_no_simulator(workspace: Path, stop: signal.Signals) -> None:
    arguments = [*SMALL[:1], "--policy.path=random", "--env.task=reach-v3", "--eval.n_episodes=500", "--shards=2"]
    command = [sys.executable, "-m", "flows.evaluate", *arguments, "--clips.enable=false"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    with open(workspace / "output.log", "w") as log:
        process = subprocess.Popen(command, cwd=workspace, env=environment, stdout=log, stderr=log)
    partial = "outputs/shards/*/.*.partial-*"
    deadline = time.monotonic() + 120
    while sum(file.stat().st_size > 0 for file in workspace.glob(f"{partial}/{FILE_NAME}")) < 2:
        assert process.poll() is None, (workspace / "output.log").read_text()
        assert time.monotonic() < deadline, (workspace / "output.log").read_text()
        time.sleep(0.05)
    simulators = psutil.Process(process.pid).children(recursive=True)
    assert len(simulators) == 2
    process.send_signal(stop)
    assert process.wait(timeout=30) != 0
    assert not [simulator for simulator in simulators if simulator.is_running()]
    kept = [read_records(path / FILE_NAME) for path in workspace.glob(partial)]
    assert all(0 < len(records) < 250 for records in kept)

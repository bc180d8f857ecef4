"""Training as a flow: it survives kills, failures and signals, and is seen while it works."""

import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
import torch
import torch.nn.functional as F
import yaml
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.train import train
from lerobot_ops.evaluation.in_training import EvaluatedTrainConfig, TrainCommand
from lerobot_ops.flags import build
from lerobot_ops.tracking import TrackingConfig
from lerobot_ops.tracking.store import open_client
from tasks.cores import training_limit_name, training_on
from tasks.steps import Links
from tests.training.conftest import TINY
from tests.training.lessons import record

ROOT = Path(__file__).parents[2]
UNTRACKED = Links(tracking=TrackingConfig(enable=False))
SHORT = {"policy": {**TINY, "device": "cpu"}, "dataset": {"root": "lessons"}, "num_threads": 1, "batch_size": 4}
SHORT |= {"steps": 12, "log_freq": 4, "save_freq": 5}
ENDLESS = SHORT | {"steps": 1_000_000, "log_freq": 20, "save_freq": 100}


@pytest.fixture
def lessons(workspace: Path) -> Path:
    """A small dataset in the workspace, and a device that no killed training holds any more."""
    free_device()
    return record(workspace / "lessons")


def free_device() -> None:
    """What a server does a minute after a kill: the tests' own one lets no lease expire."""
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        client.delete_global_concurrency_limit_by_name(training_limit_name("cpu"))


def config(**values: object) -> EvaluatedTrainConfig:
    return build(EvaluatedTrainConfig, SHORT | values, source="the test")


def run_directory() -> Path:
    (found,) = Path("outputs/train").glob("*/*")
    return found


def logged_steps(root: Path) -> list[int]:
    lines = (root / "log.csv").read_text().splitlines()[1:] if (root / "log.csv").exists() else []
    return [int(line.split(",")[0]) for line in lines]


@contextlib.contextmanager
def in_a_terminal(workspace: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m flows.train` with an endless training, known to the tests' server."""
    (workspace / "endless.yaml").write_text(yaml.safe_dump(ENDLESS))
    command = [sys.executable, "-m", "flows.train", "--config_path=endless.yaml", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    with open(workspace / "output.log", "w") as log:
        process = subprocess.Popen(command, cwd=workspace, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_trained(process: subprocess.Popen[bytes], workspace: Path, steps: int) -> None:
    """Until so many steps are logged."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, (workspace / "output.log").read_text()
        if list(workspace.glob("outputs/train/*/*")) and (logged_steps(run_directory()) or [0])[-1] >= steps:
            return
        time.sleep(0.02)
    raise AssertionError((workspace / "output.log").read_text())


def last_checkpoint(root: Path) -> int:
    return int(os.readlink(root / "checkpoints/last"))


def told_by_run() -> dict[str, str]:
    """The ids of the runs, beside the checkpoints."""
    content: dict[str, str] = json.loads((run_directory() / "run.json").read_text())
    return content


def state_of(flow_run_id: str) -> str | None:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(flow_run_id)).state_name


def test_killed_or_told_to_end_the_next_run_goes_on_in_the_same_mlflow_run(lessons: Path, workspace: Path) -> None:
    with in_a_terminal(workspace) as process:
        wait_until_trained(process, workspace, 120)  # and killed
    first = told_by_run()
    free_device()
    killed_after = logged_steps(run_directory())[-1]

    with in_a_terminal(workspace, "--save_freq=1000000") as process:  # with other intervals, and the same training
        wait_until_trained(process, workspace, killed_after + 60)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0
        assert time.monotonic() - told < 10
    assert last_checkpoint(run_directory()) >= killed_after + 60
    second = told_by_run()
    assert state_of(second["flow_run_id"]) == "Crashed"
    assert second["flow_run_id"] != first["flow_run_id"]
    assert second["run_id"] == first["run_id"]
    steps = logged_steps(run_directory())
    assert steps == list(range(20, steps[-1] + 1, 20))  # each once
    history = open_client(TrackingConfig()).get_metric_history(first["run_id"], "loss")
    assert [metric.step for metric in history] == steps


def test_a_failing_device_costs_an_attempt_and_not_the_training(lessons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, count = F.l1_loss, itertools.count()

    def failing(*arguments: torch.Tensor, **options: str) -> torch.Tensor:
        if next(count) == 7:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return compute(*arguments, **options)

    monkeypatch.setattr(F, "l1_loss", failing)
    trained = train(config(), UNTRACKED)
    assert next(count) == 7 + 1 + 7  # seven steps, one that failed, and those after the checkpoint of step 5
    assert trained.facts["steps"] == 12


def test_what_the_user_mends_is_not_tried_again(lessons: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        state = train(config(policy={**TINY, "device": "cpu", "optimizer_lr": 1e30}), UNTRACKED, return_state=True)
    assert "diverged" in state.message
    assert not [entry for entry in caplog.records if "Retry" in entry.getMessage()]


def test_other_intervals_are_the_same_training(lessons: Path) -> None:
    first = train(config(), UNTRACKED)
    changed = (run_at := first.path.parent / "training.json").stat().st_mtime_ns
    second = train(config(log_freq=3, save_freq=4, num_workers=2), UNTRACKED)
    assert (second.path, second.digest) == (first.path, first.digest)
    assert run_at.stat().st_mtime_ns == changed
    assert train(config(seed=7), UNTRACKED).path != first.path


def test_progress_and_warnings_are_in_prefect(
    lessons: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = torch.from_numpy

    def slow(array: object) -> torch.Tensor:
        time.sleep(0.01)
        return numbers(array)

    monkeypatch.setattr(torch, "from_numpy", slow)  # a disk that is slow
    with caplog.at_level(logging.INFO):
        train(config(), UNTRACKED)
    said = [entry.getMessage() for entry in caplog.records if entry.name.startswith("prefect.task_runs")]
    assert any("of the time is spent waiting for data: raise num_workers" in line for line in said)
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["progress-train-act-lessons"]))
        newest = max(client.read_artifacts(artifact_filter=key), key=lambda artifact: artifact.updated)
    assert newest.data == 100
    assert newest.description.startswith("train act-lessons: step 12 of 12, loss ")
    assert "waiting for data" in newest.description


def test_the_machines_load_is_tracked_beside_the_loss(lessons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")
    checkpoint = train(config(steps=60), Links(tracking=TrackingConfig(system_metrics=True)))
    run = open_client(TrackingConfig()).get_run(told_by_run()["run_id"])
    assert checkpoint.facts["mlflow_run"] == run.info.run_id
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert run.data.tags["prefect.flow_run_id"] == told_by_run()["flow_run_id"]


def test_one_training_at_a_time_on_a_device(lessons: Path) -> None:
    began: list[float] = []
    with ThreadPoolExecutor(2) as pool:
        inside = [pool.submit(hold, began, 1.0) for _ in range(2)]
        for future in inside:
            future.result()
    assert abs(began[1] - began[0]) >= 1.0
    train(config(), UNTRACKED)
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(training_limit_name("cpu"))
    assert (limit.limit, limit.active_slots) == (1, 0)
    assert training_limit_name("cuda:1").endswith("-cuda-1")


def hold(began: list[float], seconds: float) -> None:
    with training_on("cpu"):
        began.append(time.monotonic())
        time.sleep(seconds)


def test_all_doors_take_the_same_configuration() -> None:
    command, flow = TrainCommand.model_fields, EvaluatedTrainConfig.model_fields
    assert set(command) - set(flow) == {"tracking", "dry_run"}
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "--resume=auto" in stages["train"]["cmd"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]
    assert build(TrainCommand, params, source="params.yaml") == TrainCommand(
        **{name: getattr(build(EvaluatedTrainConfig, params, source="params.yaml"), name) for name in flow}
    )

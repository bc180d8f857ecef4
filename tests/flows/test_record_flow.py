"""Recording as a flow on simulated arms: versioned, tracked, asked for through forms, one run at a robot at a time."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.concurrency.sync import concurrency
from prefect.exceptions import PrefectHTTPStatusError

from flows.record import RecordFlowConfig, record
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.errors import ArtifactError
from lerobot_ops.flags import build
from lerobot_ops.tracking import TrackingConfig
from lerobot_ops.tracking.store import open_client
from lerobot_ops.versioning.digest import digest
from tasks.cores import ensure_limit
from tasks.steps import Artifact
from tests.recording.arms import Arms, simulated_arms

ROOT = Path(__file__).parents[2]
WAVE = "Wave the arm"


@pytest.fixture
def arms(workspace: Path) -> Iterator[Arms]:
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    subprocess.run(["git", "init", "-q"], check=True)
    with simulated_arms(workspace / "arms") as arms:
        yield arms


def config(arms: Arms, through: str = "nobody", dataset: dict[str, Any] | None = None, **more: Any) -> RecordFlowConfig:
    short = {"episode_time_s": 0.3, "root": "outputs/datasets/local/wave", "repo_id": "local/wave", "num_episodes": 2}
    values = arms.values(dataset={**short, "single_task": WAVE, **(dataset or {})}, resume=True)
    asked = {"through": through, "timeout_s": 60, "robot_patience_s": 2}
    return build(RecordFlowConfig, {**values, "ask": asked, **more}, source="a test")


def test_what_is_recorded_is_validated_versioned_tracked_and_curated(arms: Arms) -> None:
    once = config(arms, dataset={"total_episodes": 2}, curate={"repo_id": "local/training", "clean": None})
    artifacts = record(once)
    recording = artifacts["recording"]
    assert (recording.name, recording.facts["episodes"]) == ("local/wave", 2)
    assert recording.digest == digest(recording.path) == artifacts["train"].digest
    assert Path(f"{recording.path}.dvc").exists()
    assert arms.limp

    client = open_client(TrackingConfig())
    (experiment,) = [found.experiment_id for found in client.search_experiments() if found.name != "Default"]
    (run,) = client.search_runs([experiment])
    assert run.data.metrics["episodes"] == 2
    assert run.data.metrics["rate_hz"] > 0
    (used,) = run.inputs.dataset_inputs
    assert recording.digest.startswith(used.dataset.digest)
    assert len(client.get_metric_history(run.info.run_id, "jitter_ms_p99")) == 2

    arms.follower.unplug()  # everything is recorded: nobody needs the robot
    assert record(once)["recording"].digest == recording.digest


def test_an_operator_answers_forms(arms: Arms) -> None:
    asked: list[str] = []
    answers = [
        {"action": "record", "task": WAVE, "episodes": 3},
        {"action": "redo", "task": "Wave it again", "episodes": 3},
        {"action": "record", "task": "Wave more", "episodes": 3},
        {"action": "stop", "task": "Wave more", "episodes": 3},
    ]
    found: list[Artifact] = []
    flow = threading.Thread(target=lambda: found.append(record(config(arms, through="form"))["recording"]))
    flow.start()
    for answer in answers:
        asked.append(fill_in(answer))
    flow.join(60)
    (recording,) = found
    tasks = LeRobotDataset(recording.path).batch([0, 8, 9, 17])["task"]
    assert list(tasks) == ["Wave it again", "Wave it again", "Wave more", "Wave more"]
    assert "Episode 1 of 2" in asked[0]
    assert "saved as episode 0" in asked[1]
    assert "saved as episode 1" in asked[3]


def test_a_robot_that_another_run_has_is_left_alone(arms: Arms) -> None:
    ensure_limit("robot-so101-follower-follower", 1)
    with (
        concurrency("robot-so101-follower-follower", strict=True),
        pytest.raises(ArtifactError, match="another run has the robot"),
    ):
        record(config(arms))
    assert not Path("outputs/datasets").exists()


def paused() -> tuple[FlowRun, str]:
    """The run that waits for its form, and what the form says; Prefect pauses a run first and then writes the form."""
    deadline = time.monotonic() + 60
    waiting = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            for run in client.read_flow_runs(flow_run_filter=waiting):
                assert run.state is not None
                assert run.state.state_details.run_input_keyset is not None
                with suppress(PrefectHTTPStatusError):
                    key = run.state.state_details.run_input_keyset["description"]
                    return run, str(client.read_flow_run_input(run.id, key))
            time.sleep(0.1)
    raise AssertionError("no run waits for a form")


def fill_in(answer: dict[str, Any]) -> str:
    """Send the form of the run that waits; returns what it said."""
    run, said = paused()
    with get_client(sync_client=True) as client:
        client.resume_flow_run(run.id, run_input=answer)
        while client.read_flow_run(run.id).state == run.state:
            time.sleep(0.1)
    return said

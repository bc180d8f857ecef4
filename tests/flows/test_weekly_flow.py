"""The weekly benchmarks: a worse champion ends as Regressed, and a broken benchmark fails alone."""

import json
from pathlib import Path

import yaml
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.states import State

from flows.evaluate import EvaluateConfig, evaluate
from flows.weekly_benchmarks import WeeklyConfig, weekly_benchmarks
from lerobot_ops.evaluation.history import past_evaluations
from lerobot_ops.flags import build
from lerobot_ops.tracking import TrackingConfig, open_run, promote, register_checkpoint
from tests.flows.checkpoints import checkpoint

MODEL = "drawer"
CLOSES, STANDS_STILL = (0.0, 1.0, -1.0, 1.0), (0.0, 0.0, 0.0, 0.0)
DRAWER = {
    "env": {"task": "drawer-close-v3", "episode_length": 30},
    "eval": {"n_episodes": 8},
    "clips": {"enable": False},
    "sandbox": {"type": "venv"},
    "smoke": None,
    "sanity": {"policies": ["zero"]},
}


def crown(action: tuple[float, ...]) -> None:
    """Make a policy that always does the same the champion."""
    folder = checkpoint(Path("policies", "_".join(map(str, action))), action)
    with open_run(TrackingConfig(), name="train") as run:
        version = register_checkpoint(run, folder, name=MODEL)
    promote(TrackingConfig(), version, pc_success=100, n_episodes=8, benchmark="metaworld-drawer-close-v3")


def weekly(**benchmarks: dict) -> State:
    config = build(WeeklyConfig, {"model": MODEL, "benchmarks": benchmarks}, source="a test")
    return weekly_benchmarks(config, return_state=True)


def newest_artifact(key: str) -> str:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return max(found, key=lambda artifact: artifact.created).data


def test_a_worse_champion_ends_as_regressed(workspace: Path) -> None:
    crown(CLOSES)
    first = weekly(drawer=DRAWER)
    assert first.name == "Completed"
    (week,) = first.result()
    assert week.evaluation.facts["pc_success"] == 100
    assert week.change is None

    again = weekly(drawer=DRAWER)
    assert again.name == "Completed"  # nothing changed: inconclusive does not fail
    (same,) = again.result()
    assert same.evaluation.path != week.evaluation.path  # measured anew
    assert same.change.comparison.verdict == "inconclusive"

    crown(STANDS_STILL)
    worse = weekly(drawer=DRAWER)
    assert (worse.name, worse.is_failed()) == ("Regressed", True)
    assert "drawer" in worse.message
    rows = json.loads(newest_artifact("weekly-drawer"))
    assert rows[0]["the week before"] == "100.0 %"
    assert rows[0]["change"].startswith("-100.0 (")
    assert rows[0]["verdict"] == "regressed"
    history = past_evaluations(TrackingConfig(), {"schedule": "weekly", "weekly.policy": "champion"}, most=10)
    assert [past.metrics["pc_success"] for past in history] == [0, 100, 100]
    assert history[0].tags["comparison.verdict"] == "regressed"

    alone = {name: DRAWER[name] for name in ("env", "eval", "clips", "sandbox")}
    policy = {"path": "policies/0.0_1.0_-1.0_1.0"}
    evaluate(build(EvaluateConfig, {**alone, "policy": policy, "champion": MODEL}, source="a test"))
    rows = json.loads(newest_artifact("benchmark-metaworld-drawer-close-v3"))
    assert rows[0]["champion drawer v2"] == "0.0 %"
    assert rows[0]["verdict"] == "improved"
    assert "drawer" in Path("outputs/health/index.html").read_text()


def test_a_broken_benchmark_fails_alone(workspace: Path) -> None:
    crown(CLOSES)
    checked = DRAWER | {"champion": False, "smoke": {"episode_length": 12}}
    hopeless = DRAWER | {"env": {"task": "drawer-close-v3", "episode_length": 3}, "sanity": {"policies": ["expert"]}}
    state = weekly(broken=hopeless, checked=checked, whole=DRAWER)
    assert state.name == "Failed"
    assert "broken could not be measured" in state.message
    assert "the policy expert" in state.message
    assert "whole" not in state.message
    page = newest_artifact("weekly-benchmarks")
    assert "| whole | 100.0 % |" in page
    assert "| checked | only checked |" in page
    assert len(past_evaluations(TrackingConfig(), {"weekly.policy": "champion"}, most=10)) == 1


def test_what_the_schedule_measures_is_what_the_form_shows() -> None:
    deployments = yaml.safe_load((Path(__file__).parents[2] / "pipelines.yaml").read_text())["deployments"]
    (entry,) = [found for found in deployments if found["name"] == "weekly"]
    assert build(WeeklyConfig, entry["parameters"]["config"], source="pipelines.yaml") == WeeklyConfig()

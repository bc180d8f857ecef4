"""A small policy trained on what was recorded leads the arm, and an operator takes over from it."""

from pathlib import Path

import numpy as np
import pytest

from lerobot_ops.config import merged
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.errors import ConfigError
from lerobot_ops.flags import build
from lerobot_ops.recording.operator import Event, Schedule, Take
from lerobot_ops.recording.provenance import Provenance
from lerobot_ops.recording.record import record
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.recording.arms import CAMERA, Arms, simulated_arms
from tests.recording.test_record import flawless, lengths
from tests.training.conftest import TINY


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ACT, trained for a moment on two episodes of the waving leader."""
    with simulated_arms(tmp_path_factory.mktemp("lessons")) as arms:
        recorded = record(arms.config(dataset={"num_episodes": 2}))
    asked = {"dataset": {"root": recorded.root}, "policy": TINY, "output_dir": arms.folder / "run"}
    result = train(build(TrainConfig, {**asked, "steps": 4, "batch_size": 4, "num_threads": 1}, source="a test"))
    return Path(result.checkpoint)


def rollout(arms: Arms, checkpoint: Path, **more: object) -> dict[str, object]:
    """A recording in which the policy leads."""
    policy = {"policy": {"path": str(checkpoint), "device": "cpu"}, "dataset": {"root": str(arms.folder / "rollout")}}
    return merged(policy, more)


def test_a_policy_leads_and_an_operator_takes_over(arms: Arms, checkpoint: Path) -> None:
    held: list[bool] = []

    class Watching(Schedule):
        """Sees whether the leader is held by its motors, to mirror the follower, when its hands change."""

        def event(self) -> Event | None:
            event = super().event()
            if event is Event.TAKEOVER:
                held.append(any(arms.leader.torques.values()))
            return event

    schedule = Watching([Take(24, takeovers=(10, 18)), Take(8)])
    asked = rollout(arms, checkpoint, dataset={"num_episodes": 2, "episode_time_s": 30})
    result = record(arms.config(**asked), schedule)
    assert lengths(result.root)[1] == 8
    dataset = LeRobotDataset(result.root)
    begin, end = (int(bound[0]) for bound in dataset.episode_bounds)
    led = dataset.column("intervention").reshape(-1)
    operator = np.flatnonzero(led[begin:end])
    assert operator.tolist() == list(range(operator[0], operator[0] + 8))
    assert not led[end:].any()
    assert [report.interventions for report in result.reports] == [1, 0]
    assert held == [True, False]
    policy = Provenance.load(result.root).sessions[0].policy
    assert policy is not None
    assert policy["digest"]
    assert flawless(result.root)
    assert arms.limp
    assert not any(arms.leader.torques.values())


def test_a_policy_leads_alone(arms: Arms, checkpoint: Path) -> None:
    result = record(arms.config(**rollout(arms, checkpoint, teleop=None, dataset={"num_episodes": 1})))
    assert lengths(result.root) == [15]
    assert not LeRobotDataset(result.root).column("intervention").any()


def test_a_policy_that_looks_through_another_camera_is_refused(arms: Arms, checkpoint: Path) -> None:
    asked = rollout(arms, checkpoint, robot=arms.robot(cameras={"top": CAMERA}))
    with pytest.raises(ConfigError, match=r"observation\.images\.front"):
        record(arms.config(**asked))
    assert arms.limp

"""Episodes of a simulated arm: recorded, redone, taken back, killed, resumed, refused, and what is stored of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.validation.command import CheckConfig, check
from lerobot_ops.errors import ArtifactError, ConfigError, DatasetError
from lerobot_ops.flags import build
from lerobot_ops.motors.calibration import MotorCalibration, save_calibration
from lerobot_ops.recording.config import ReplayConfig, TeleoperateConfig
from lerobot_ops.recording.hardware import check_hardware
from lerobot_ops.recording.operator import Decision, Event, Schedule, Take
from lerobot_ops.recording.provenance import Provenance
from lerobot_ops.recording.record import record
from lerobot_ops.recording.replay import replay
from lerobot_ops.recording.teleoperate import teleoperate
from tests.recording.arms import CAMERA, Arms

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]


def lengths(root: Path) -> list[int]:
    begin, end = LeRobotDataset(root).episode_bounds
    return [int(each) for each in end - begin]


def flawless(root: Path) -> bool:
    report = check(CheckConfig(root=str(root)))
    return not [finding for finding in report.findings if finding.severity == "error"]


def test_the_whole_story(arms: Arms) -> None:
    """Teleoperate, record five with one redo, a kill in the sixth, resume, validate, replay."""
    values = {"robot": arms.robot(cameras={}), "teleop": arms.teleop(), "teleop_time_s": 0.4, "fps": 50}
    timing = teleoperate(build(TeleoperateConfig, values, source="a test"))
    assert timing.ticks == 20
    assert arms.limp

    takes = [[12, "next"], [7, "redo"], [12, "next"], [13, "next"], [14, "next"], [15, "next"], [None, "next"]]
    root = arms.folder / "wave"
    sixth = {"config": arms.values(dataset={"episode_time_s": 60, "total_episodes": 7}), "takes": takes}
    told = killed_in(arms, sixth, "episode 4 is safe")
    assert any("episode 1 is not kept" in line for line in told)
    assert lengths(root) == [12, 12, 13, 14, 15]

    again = record(arms.config(resume=True, dataset={"total_episodes": 7}), Schedule([Take(10), Take(11)]))
    assert (again.episodes, [report.episode for report in again.reports]) == (7, [5, 6])
    assert lengths(root) == [12, 12, 13, 14, 15, 10, 11]
    assert flawless(root)
    assert not any(load_info(root).features[name].dtype == "video" for name in ("timing.captured", "timing.age"))
    provenance = Provenance.load(root)
    assert [report.session for report in provenance.episodes] == [0] * 5 + [1] * 2
    assert [report.frames for report in provenance.episodes] == lengths(root)
    assert provenance.sessions[0].robot == provenance.sessions[1].robot
    assert record(arms.config(resume=True, dataset={"total_episodes": 7})).digest == again.digest

    report = replay(build(ReplayConfig, {"robot": arms.robot(), "dataset": {"root": root, "episode": 4}}, source=""))
    assert set(report.commanded) == {f"{name}.pos" for name in JOINTS}
    assert report.timing.ticks == 15
    assert max(error.rms for error in report.recorded.values()) < 15
    assert "shoulder_pan.pos" in str(report)
    assert arms.limp


def killed_in(arms: Arms, asked: dict, line: str) -> list[str]:
    """What a recording said until it was killed some frames after the phase that follows `line`."""
    (arms.folder / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, str(Path(__file__).with_name("sessions.py")), str(arms.folder / "asked.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        told: list[str] = []
        for text in process.stdout:
            told.append(text.strip())
            if line in text:
                break
        while not arms.limp and process.poll() is None and len(told) < 100 and told[-1] != "phase recording":
            told.append(process.stdout.readline().strip())
        os.kill(process.pid, signal.SIGKILL)
    assert told[-1] == "phase recording", told
    wait_until_limp(arms)
    return told


def wait_until_limp(arms: Arms) -> None:
    import time

    until = time.monotonic() + 20
    while not arms.limp:
        assert time.monotonic() < until, "the arm kept its torque"
        time.sleep(0.005)


def test_what_is_stored_is_what_was_sent_and_when(arms: Arms) -> None:
    robot = arms.robot(max_relative_target=5.0, cameras={"front": CAMERA, "side": {**CAMERA, "seed": 1}})
    result = record(arms.config(robot=robot, record_status=True, operator="ada", dataset={"num_episodes": 1}))
    assert result.frames == 15
    dataset = LeRobotDataset(result.root)
    names = dataset.features["action"].names
    assert names == [f"{name}.pos" for name in JOINTS]
    far = np.abs(dataset.column("action") - dataset.column("observation.state"))
    assert far.max() <= 5.01
    captured, age = dataset.column("timing.captured"), dataset.column("timing.age")
    assert dataset.features["timing.captured"].names == ["state", "front", "side"]
    assert (np.diff(captured[:, 0]) > 0).all()
    assert (np.diff(captured[:, 1:], axis=0) >= 0).all()
    assert (age > 0).all()
    assert (dataset.column("timing.loop") >= 0).all()
    status = dict(zip(dataset.features["status"].names, dataset.column("status")[0], strict=True))
    assert status["gripper.voltage"] == pytest.approx(7.4, abs=1)
    assert "observation.status" not in dataset.features
    session = Provenance.load(result.root).sessions[0]
    assert (session.operator, session.robot["id"]) == ("ada", "follower")
    assert session.robot["cameras"]["front"]["width"] == 64
    assert len(session.robot["calibration"]) == 64


def test_the_last_episode_can_be_taken_back_while_things_are_put_back(arms: Arms) -> None:
    schedule = Schedule([Take(8), Take(2), Take(9), Take(3, Event.REDO), Take(10), Take(2, Event.STOP)])
    told: list[int] = []
    result = record(
        arms.config(dataset={"reset_time_s": 5}), schedule, on_episode=lambda report: told.append(report.episode)
    )
    assert lengths(result.root) == [8, 10]
    assert [report.frames for report in result.reports] == [8, 10]
    assert told == [0, 1, 1]
    assert flawless(result.root)
    assert [report.frames for report in Provenance.load(result.root).episodes] == [8, 10]


def test_an_operator_changes_task_and_number_and_redoes_before_an_episode(arms: Arms) -> None:
    decisions = [Decision(task="wave slowly"), Decision(action="redo", task="wave fast"), Decision(wanted=2)]
    schedule = Schedule([Take(6), Take(7), Take(8)], decisions)
    result = record(arms.config(), schedule)
    assert lengths(result.root) == [7, 8]
    assert [report.task for report in result.reports] == ["wave fast", "wave fast"]
    assert [(plan.episode, plan.number, plan.wanted) for plan in schedule.asked] == [(0, 1, 3), (1, 2, 3), (1, 2, 3)]


def test_a_session_that_is_stopped_before_its_first_episode_leaves_nothing(arms: Arms) -> None:
    result = record(arms.config(), Schedule(decisions=[Decision(action="stop")]))
    assert (result.episodes, result.digest) == (0, "")
    assert not result.root.exists()


def test_a_dataset_is_only_continued_when_asked_and_with_the_same_robot(arms: Arms) -> None:
    root = record(arms.config(dataset={"num_episodes": 1})).root
    before = (root / "meta/info.json").read_bytes()
    with pytest.raises(ArtifactError, match="--resume=true"):
        record(arms.config())
    with pytest.raises(DatasetError, match="rate: 30 fps in the dataset, 20 fps now"):
        record(arms.config(resume=True, dataset={"fps": 20}))
    with pytest.raises(DatasetError, match=r"observation\.images\.side: none in the dataset, video"):
        record(arms.config(resume=True, robot=arms.robot(cameras={"front": CAMERA, "side": CAMERA})))
    gripper = arms.follower.calibration["gripper"]
    changed = MotorCalibration(gripper.id, gripper.drive_mode, gripper.homing_offset, gripper.range_min + 50, 3000)
    save_calibration(arms.folder / "follower.json", {**arms.follower.calibration, "gripper": changed})
    arms.follower.servo("gripper").set("Min_Position_Limit", changed.range_min, save=True)
    arms.follower.servo("gripper").set("Max_Position_Limit", changed.range_max, save=True)
    with pytest.raises(DatasetError, match="robot calibration"):
        record(arms.config(resume=True))
    assert (root / "meta/info.json").read_bytes() == before
    assert arms.limp
    more = record(arms.config(resume=True, allow_other_calibration=True, dataset={"num_episodes": 1}))
    assert more.episodes == 2


def test_hardware_is_checked_without_moving_it(arms: Arms) -> None:
    facts = check_hardware(arms.config())
    assert facts.episodes_wanted == 3
    assert facts.status["elbow_flex.temperature"] < 60
    assert set(facts.ages_ms) == {"front"}
    assert "6 joints" in str(facts)
    assert arms.limp


def test_settings_that_cannot_work_are_refused(arms: Arms) -> None:
    with pytest.raises(ConfigError, match="somebody leads"):
        arms.config(teleop=None)
    with pytest.raises(ConfigError, match="publish it when it is validated"):
        arms.config(dataset={"push_to_hub": True})
    with pytest.raises(ConfigError, match="a sentence"):
        arms.config(dataset={"single_task": " "})
    with pytest.raises(ConfigError, match="does not say everything that the robot needs"):
        record(arms.config(teleop={"type": "scripted", "waves": {"gripper.pos": {}}}))
    assert arms.limp

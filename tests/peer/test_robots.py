"""LeRobot 0.6.1's own SO arms and ours: the same features, and on the same simulated arms the same observations."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_round_trip import HERE, peer

from lerobot_ops.flags import parse
from lerobot_ops.hardware import SetUpConfig
from lerobot_ops.motors.calibration import save_calibration
from lerobot_ops.motors.simulator import SimulatedArm, simulate
from lerobot_ops.robots.registry import make_robot
from lerobot_ops.teleoperators.registry import make_teleoperator

__all__ = ["peer"]  # a fixture
POSE = {"shoulder_pan": 21.0, "elbow_flex": -33.0, "wrist_roll": 140.0, "gripper": 12.0}


class Bench:
    """Two simulated arms in a pose, their calibrations, and what LeRobot says of them."""

    def __init__(self, peer: str, folder: Path, follower: SimulatedArm, leader: SimulatedArm) -> None:
        self.folder, self.follower, self.leader = folder, follower, leader
        for name in ("mine", "mine_left", "mine_right"):
            save_calibration(folder / f"{name}.json", follower.calibration)
        command = [peer, str(HERE / "peer_robots.py"), str(folder), follower.port, leader.port]
        offline = os.environ | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=offline, timeout=250)
        assert done.returncode == 0, done.stderr[-2000:]
        self.theirs = json.loads(done.stdout.splitlines()[-1])

    def robot(self, *flags: str) -> Any:
        """Ours, from the flags that LeRobot takes."""
        config = parse(SetUpConfig, [*flags, "--robot.id=mine", f"--robot.calibration_dir={self.folder}"])
        return make_robot(config.robot)

    def teleoperator(self, *flags: str) -> Any:
        config = parse(SetUpConfig, [*flags, "--teleop.id=mine", f"--teleop.calibration_dir={self.folder}"])
        return make_teleoperator(config.teleop)


@pytest.fixture(scope="module")
def bench(peer: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    with simulate("so101", timing=False) as follower, simulate("so101", timing=False) as leader:
        leader.pose(POSE)
        follower.pose(POSE)
        yield Bench(peer, folder, follower, leader)


def camera(name: str, width: int) -> str:
    return f"{name}: {{type: opencv, index_or_path: 0, width: {width}, height: 48, fps: 30}}"


def plain(entries: dict[str, Any]) -> list[Any]:
    return [[key, "float" if kind is float else list(kind)] for key, kind in entries.items()]


def test_features_of_robots_are_equal_and_in_the_same_order(bench: Bench) -> None:
    cameras = f"{{{camera('front', 64)}, {camera('side', 80)}}}"
    single = bench.robot("--robot.type=so101_follower", "--robot.port=x", f"--robot.cameras={cameras}")
    pair = bench.robot(
        "--robot.type=bi_so_follower",
        "--robot.left_arm_config.port=left",
        f"--robot.left_arm_config.cameras={{{camera('wrist', 64)}}}",
        "--robot.right_arm_config.port=right",
        f"--robot.right_arm_config.cameras={{{camera('wrist', 72)}}}",
        f"--robot.cameras={{{camera('top', 80)}}}",
    )
    for kind, robot in (("so101_follower", single), ("bi_so_follower", pair)):
        theirs = bench.theirs["features"][kind]
        assert robot.name == theirs["name"]
        assert plain(robot.observation_features) == theirs["observation"]
        assert plain(robot.action_features) == theirs["action"]


def test_features_of_leaders_are_equal(bench: Bench) -> None:
    arms = ["--teleop.left_arm_config.port=left", "--teleop.right_arm_config.port=right"]
    made = {
        "so101_leader": bench.teleoperator("--teleop.type=so101_leader", "--teleop.port=x"),
        "bi_so_leader": bench.teleoperator("--teleop.type=bi_so_leader", *arms),
    }
    for kind, teleop in made.items():
        theirs = bench.theirs["features"][kind]
        assert teleop.name == theirs["name"]
        assert plain(teleop.action_features) == theirs["action"]


@pytest.mark.parametrize("degrees", [True, False])
def test_the_same_arm_is_observed_and_configured_in_the_same_way(bench: Bench, degrees: bool) -> None:
    theirs = bench.theirs["observed"][f"follower {degrees}"]
    assert theirs["calibrated"]
    with simulate("so101", timing=False) as equal:  # one that LeRobot has not configured
        equal.pose(POSE)
        flags = ["--robot.type=so101_follower", f"--robot.port={equal.port}", f"--robot.use_degrees={degrees}"]
        robot = bench.robot(*flags, "--robot.num_read_retries=20")
        robot.connect(calibrate=False)
        assert robot.is_calibrated
        ours = robot.get_observation()
        assert list(ours) == list(theirs["observation"])
        registers = {name: robot.bus.sync_read(name, normalize=False) for name in theirs["registers"]}
        robot.disconnect()
    assert registers == theirs["registers"]
    # LeRobot's arm had held its pose for a moment, and hangs a little; the wrist's roll was on its way.
    for key in set(ours) - {"wrist_roll.pos"}:
        assert ours[key] == pytest.approx(theirs["observation"][key], abs=2.5), key


@pytest.mark.parametrize("degrees", [True, False])
def test_a_leader_that_nobody_holds_is_read_to_the_last_digit(bench: Bench, degrees: bool) -> None:
    flags = ["--teleop.type=so101_leader", f"--teleop.port={bench.leader.port}", f"--teleop.use_degrees={degrees}"]
    with bench.teleoperator(*flags, "--teleop.num_read_retries=20") as teleop:
        assert teleop.get_action() == bench.theirs["observed"][f"leader {degrees}"]["action"]

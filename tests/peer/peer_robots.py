"""LeRobot's own SO arms: `peer_robots.py FOLDER FOLLOWER_PORT LEADER_PORT`, which prints what they saw as JSON.

FOLDER holds the calibrations `mine.json`, `mine_left.json` and `mine_right.json`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lerobot.cameras.opencv import OpenCVCameraConfig
from lerobot.robots.bi_so_follower import BiSOFollower, BiSOFollowerConfig
from lerobot.robots.so_follower import SOFollower, SOFollowerConfig, SOFollowerRobotConfig
from lerobot.teleoperators.bi_so_leader import BiSOLeader, BiSOLeaderConfig
from lerobot.teleoperators.so_leader import SOLeader, SOLeaderConfig, SOLeaderTeleopConfig


def camera(width: int) -> OpenCVCameraConfig:
    return OpenCVCameraConfig(index_or_path=0, fps=30, width=width, height=48)


def features(folder: Path) -> dict[str, Any]:
    """Of robots and teleoperators that are not connected."""
    place: dict[str, Any] = {"id": "mine", "calibration_dir": folder}
    pair = {
        side: SOFollowerConfig(port=side, cameras={"wrist": camera(width)})
        for side, width in (("left", 64), ("right", 72))
    }
    robots = {
        "so101_follower": SOFollower(
            SOFollowerRobotConfig(port="x", cameras={"front": camera(64), "side": camera(80)}, **place)
        ),
        "bi_so_follower": BiSOFollower(
            BiSOFollowerConfig(
                left_arm_config=pair["left"], right_arm_config=pair["right"], cameras={"top": camera(80)}, **place
            )
        ),
    }
    arms = {side: SOLeaderConfig(port=side) for side in ("left", "right")}
    teleops = {
        "so101_leader": SOLeader(SOLeaderTeleopConfig(port="x", **place)),
        "bi_so_leader": BiSOLeader(
            BiSOLeaderConfig(left_arm_config=arms["left"], right_arm_config=arms["right"], **place)
        ),
    }
    told: dict[str, Any] = {}
    for kind, robot in robots.items():
        told[kind] = {"name": robot.name, "observation": plain(robot.observation_features)}
        told[kind]["action"] = plain(robot.action_features)
    for kind, teleop in teleops.items():
        told[kind] = {"name": teleop.name, "action": plain(teleop.action_features)}
    return told


def plain(entries: dict[str, Any]) -> list[Any]:
    return [[key, "float" if kind is float else list(kind)] for key, kind in entries.items()]


def observed(folder: Path, follower: str, leader: str) -> dict[str, Any]:
    """What connected arms see, and what the motors hold once they are configured."""
    seen: dict[str, Any] = {}
    for degrees in (True, False):
        robot = SOFollower(SOFollowerRobotConfig(port=follower, id="mine", calibration_dir=folder, use_degrees=degrees))
        robot.connect(calibrate=False)
        sent = robot.send_action({"wrist_roll.pos": 5.0})
        seen[f"follower {degrees}"] = {
            "calibrated": robot.is_calibrated,
            "observation": robot.get_observation(),
            "sent": sent,
            "registers": registers(robot.bus),
        }
        robot.disconnect()
        teleop = SOLeader(SOLeaderTeleopConfig(port=leader, id="mine", calibration_dir=folder, use_degrees=degrees))
        teleop.connect(calibrate=False)
        seen[f"leader {degrees}"] = {"action": teleop.get_action()}
        teleop.disconnect()
    return seen


def registers(bus: Any) -> dict[str, dict[str, int]]:
    names = ["Operating_Mode", "P_Coefficient", "I_Coefficient", "D_Coefficient", "Return_Delay_Time", "Acceleration"]
    names += ["Maximum_Acceleration", "Max_Torque_Limit", "Protection_Current", "Overload_Torque", "Phase"]
    return {name: bus.sync_read(name, normalize=False) for name in names}


if __name__ == "__main__":
    here, follower, leader = sys.argv[1:]
    print(json.dumps({"features": features(Path(here)), "observed": observed(Path(here), follower, leader)}))

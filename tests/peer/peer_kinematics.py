"""LeRobot's kinematics of an arm: `peer_kinematics.py URDF CASES`, which prints what it makes of the cases as JSON.

CASES is a file of JSON: a list of [joints, goal], both in degrees. It needs `pip install placo`.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
from lerobot.model.kinematics import RobotKinematics

SHAPES = re.compile(r"<(visual|collision)>.*?</\1>", re.DOTALL)
JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"]


def main(urdf: Path, cases: Path) -> None:
    bare = cases.with_suffix(".urdf")  # it would look for the meshes
    bare.write_text(SHAPES.sub("", urdf.read_text()))
    arm = RobotKinematics(str(bare), "gripper_frame_link", JOINTS)
    found = []
    for joints, goal in json.loads(cases.read_text()):
        pose = arm.forward_kinematics(np.array(goal))
        solved = arm.inverse_kinematics(np.array(joints), pose)
        found.append({"forward": pose.tolist(), "inverse": solved.tolist()})
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

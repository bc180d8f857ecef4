"""LeRobot in its own environment: `peer_process.py write SCENE ROOT`, or `peer_process.py read SCENE ROOT`.

`write` records a scene, in two parts with a resume between them; `read` prints what its reader returns, plain and with
windows, as JSON on the last line.
"""

import json
import sys
from pathlib import Path

import peer_scenes as scenes
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def write(name: str, root: Path) -> None:
    has_video = any(feature["dtype"] == "video" for feature in scenes.SCENES[name].values())
    made = LeRobotDataset.create(
        "peer/made", fps=scenes.FPS, features=scenes.features(name), root=root, robot_type="arm", use_videos=has_video
    )
    add(made, name, range(scenes.EPISODES // 2))
    made.finalize()
    made = LeRobotDataset.resume("peer/made", root=root)
    add(made, name, range(scenes.EPISODES // 2, scenes.EPISODES))
    made.finalize()


def add(made: LeRobotDataset, name: str, episodes: range) -> None:
    for episode in episodes:
        for frame in scenes.frames(name, episode):
            made.add_frame(frame)
        made.save_episode()


def read(name: str, root: Path) -> None:
    plain = LeRobotDataset("peer/made", root=root)
    windows = LeRobotDataset("peer/made", root=root, delta_timestamps=scenes.deltas(name))
    rows = range(plain.num_frames)
    found = {kind: scenes.fingerprints(items, rows) for kind, items in (("plain", plain), ("windows", windows))}
    print(json.dumps(found | {"episodes": plain.num_episodes}))


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))

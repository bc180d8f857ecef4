"""LeRobot's own edits, in its own environment: `peer_edits.py EDIT ROOT JSON`; prints a line of JSON at the end."""

import json
import sys
from pathlib import Path

from lerobot.datasets.compute_stats import compute_relative_action_stats
from lerobot.datasets.dataset_tools import convert_image_to_video_dataset, modify_tasks
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def tasks(root: Path, options: dict) -> list[str]:
    """Changes tasks in place; returns the task of every frame."""
    options["episode_tasks"] = {int(number): text for number, text in options.get("episode_tasks", {}).items()}
    changed = modify_tasks(LeRobotDataset("peer/made", root=root), **options)
    again = LeRobotDataset("peer/made", root=changed.root)
    return [again[row]["task"] for row in range(len(again))]


def relative(root: Path, options: dict) -> dict:
    """The statistics of relative actions."""
    made = LeRobotDataset("peer/made", root=root)
    stats = compute_relative_action_stats(made.hf_dataset, made.meta.features, **options)
    return {name: value.tolist() for name, value in stats.items()}


def convert(root: Path, options: dict) -> dict:
    """Makes videos of images, into `options["to"]`; returns the feature's info."""
    made = convert_image_to_video_dataset(LeRobotDataset("peer/made", root=root), Path(options["to"]), "peer/video")
    return {name: feature["info"] for name, feature in made.meta.features.items() if feature["dtype"] == "video"}


if __name__ == "__main__":
    edit = {"tasks": tasks, "relative": relative, "convert": convert}[sys.argv[1]]
    print(json.dumps(edit(Path(sys.argv[2]), json.loads(sys.argv[3]))))

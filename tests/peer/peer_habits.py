"""Datasets as LeRobot's tools leave them: `peer_habits.py VIDEOS IMAGES OUT` edits both and records into OUT."""

import sys
from pathlib import Path

import numpy as np
from lerobot.datasets import dataset_tools as tools
from lerobot.datasets.lerobot_dataset import LeRobotDataset

STATE = {"dtype": "float32", "shape": (3,), "names": None}
CAMERA = {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]}
EXTRA = {"dtype": "float32", "shape": (2,), "names": None}


def picture(episode: int, frame: int) -> np.ndarray:
    """A bright square that moves over a gradient."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 1] = 2 * np.arange(96)
    image[16:40, 3 * frame % 72 : 3 * frame % 72 + 24] = 200 - 20 * episode
    return image


def record(dataset: LeRobotDataset, episodes: int) -> None:
    rng = np.random.default_rng(episodes)
    for episode in range(episodes):
        for frame in range(30):
            state, action = rng.normal(size=(2, 3)).astype(np.float32)
            values = {"observation.state": state, "action": action, "observation.images.top": picture(episode, frame)}
            dataset.add_frame(values | {"task": f"task {episode}"})
        dataset.save_episode()
    dataset.finalize()


def main(videos: Path, images: Path, out: Path) -> None:
    made, stills = LeRobotDataset("peer/videos", root=videos), LeRobotDataset("peer/images", root=images)
    tools.delete_episodes(made, [1, 5], output_dir=out / "deleted", repo_id="peer/deleted")
    tools.split_dataset(made, {"first": 0.5, "second": 0.5}, output_dir=out / "split")
    tools.merge_datasets([made, made], output_repo_id="peer/merged", output_dir=out / "merged")
    camera = next(name for name in made.features if name.startswith("observation.images"))
    tools.remove_feature(made, [camera], output_dir=out / "blind", repo_id="peer/blind")
    extra = np.random.default_rng(0).random((made.num_frames, 2), np.float32)
    tools.add_features(made, {"observation.extra": (extra, EXTRA)}, output_dir=out / "added", repo_id="peer/added")
    tools.convert_image_to_video_dataset(stills, output_dir=out / "converted", repo_id="peer/converted")
    tools.modify_tasks(made, new_task="do it")  # in place
    features = {"observation.state": STATE, "action": STATE, "observation.images.top": CAMERA}
    root = out / "streamed"
    record(LeRobotDataset.create("peer/streamed", 10, features, root=root, streaming_encoding=True), 3)
    record(LeRobotDataset.resume("peer/streamed", root=root), 2)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

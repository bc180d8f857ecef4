"""Small datasets to train on, written by our own writer."""

from pathlib import Path

import numpy as np

from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.writing.writer import DatasetWriter

VECTORS = {"observation.state": 4, "observation.environment_state": 6, "action": 4}
CAMERA = "observation.images.front"


def record(root: Path, lengths: tuple[int, ...] = (13, 9, 17, 11), *, camera: str = "") -> Path:
    """Episodes of a point that moves towards a target; the action is a linear function of the observation.

    `camera` is `video`, `image` or nothing.
    """
    features = {name: {"dtype": "float32", "shape": [size], "names": None} for name, size in VECTORS.items()}
    if camera:
        names = ["height", "width", "channels"]
        features[CAMERA] = {"dtype": camera, "shape": [64, 64, 3], "names": names}
    generator = np.random.default_rng(0)
    with DatasetWriter.create(root, fps=20, features=features, video=VideoEncoding(vcodec="h264")) as writer:
        for number, length in enumerate(lengths):
            target = generator.normal(size=6).astype(np.float32)
            state = generator.normal(size=4).astype(np.float32)
            with writer.episode(number) as episode:
                for step in range(length):
                    action = (0.1 * (target[:4] - state)).astype(np.float32)
                    frame = {"observation.state": state, "observation.environment_state": target, "action": action}
                    if camera:
                        frame[CAMERA] = np.full((64, 64, 3), 10 * step, np.uint8)
                    episode.add_frame({**frame, "task": "reach the target"})
                    state = state + action
    return root

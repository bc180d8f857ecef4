"""The frames that the benchmarks record, the same on both sides: needs numpy alone."""

from collections.abc import Iterator

import numpy as np

CHUNK = 100
"""Actions in a window, as ACT trains on."""
CHANNELS = ["height", "width", "channels"]


def camera(size: int, dtype: str = "video") -> dict:
    return {"dtype": dtype, "shape": (size, size, 3), "names": CHANNELS}


def joints(names: int = 6) -> dict:
    return {"dtype": "float32", "shape": (names,), "names": [f"j{number}.pos" for number in range(names)]}


DATASETS: dict[str, dict] = {
    "two_cameras": {
        "episodes": 50,
        "frames": 200,
        "fps": 30,
        "cameras": {"observation.images.front": camera(256), "observation.images.wrist": camera(256)},
    },
    "one_camera": {"episodes": 20, "frames": 72, "fps": 80, "cameras": {"observation.image": camera(480)}},
    "small_camera": {"episodes": 40, "frames": 100, "fps": 30, "cameras": {"observation.image": camera(96)}},
    "small_images": {"episodes": 20, "frames": 100, "fps": 30, "cameras": {"observation.image": camera(96, "image")}},
    "images": {"episodes": 10, "frames": 100, "fps": 30, "cameras": {"observation.images.front": camera(256, "image")}},
    "table": {"episodes": 2000, "frames": 10, "fps": 30, "cameras": {}},
}
"""What the benchmarks are measured on; all but `images` have AV1 videos with the defaults of both sides."""


def features(name: str) -> dict:
    return {"observation.state": joints(), "action": joints(), **DATASETS[name]["cameras"]}


def frames(name: str, episode: int) -> Iterator[dict]:
    """An episode's frames, `task` included."""
    scene = DATASETS[name]
    for frame in range(scene["frames"]):
        at = np.arange(6) + episode
        values = {
            "observation.state": np.sin(at + frame * 0.05).astype(np.float32),
            "action": np.sin(at + (frame + 1) * 0.05).astype(np.float32),
        }
        pictures = {
            key: picture(feature["shape"][0], episode, frame, number)
            for number, (key, feature) in enumerate(scene["cameras"].items())
        }
        yield {**values, **pictures, "task": "push the red block"}


def picture(size: int, episode: int, frame: int, camera: int) -> np.ndarray:
    """uint8 [size, size, 3]: a gradient that drifts, blocks of noise as a sensor has, and a red square that moves."""
    drift = episode * 17 + frame * 3 + camera * 61
    down, right = np.mgrid[0:size, 0:size]
    image = np.stack([right + drift, down + 2 * drift, (right + down) // 2 + drift], -1) % 256
    noise = np.random.default_rng([episode, frame, camera]).integers(0, 24, (size // 4, size // 4, 1))
    image = np.clip(image + np.kron(noise, np.ones((4, 4, 1), np.int64)), 0, 255).astype(np.uint8)
    x = (frame * 5 + episode * 11) % (size - 24)
    image[size // 3 : size // 3 + 24, x : x + 24] = (255, 0, 0)
    return image

"""Small recordings that both LeRobot and we write, and what of an item is compared: needs numpy and torch alone."""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Frame = dict[str, Any]


def vector(size: int, dtype: str = "float32") -> dict:
    return {"dtype": dtype, "shape": (size,), "names": [f"j{number}.pos" for number in range(size)]}


def camera(dtype: str, depth: bool = False) -> dict:
    entry = {"dtype": dtype, "shape": (48, 64, 1 if depth else 3), "names": ["height", "width", "channels"]}
    return entry | ({"info": {"is_depth_map": True}} if depth else {})


def plain(dtype: str, *shape: int) -> dict:
    return {"dtype": dtype, "shape": shape, "names": None}


SCENES: dict[str, dict] = {
    "cameras": {"observation.images.front": camera("video"), "observation.images.wrist": camera("video")},
    "images": {"observation.images.front": camera("image")},
    "depth": {"observation.images.front": camera("video"), "observation.images.depth": camera("video", depth=True)},
    "shapes": {
        "next.reward": plain("float32", 1),
        "next.done": plain("bool", 1),
        "count": plain("int64", 3),
        "precise": plain("float64", 2),
        "grid": plain("float32", 2, 3),
        "note": plain("string", 1),
    },
}
FPS = 15
TASKS = ["push the block", "pull the lever"]
EPISODES = 4


def features(name: str) -> dict:
    return {"observation.state": vector(4), "action": vector(3), **SCENES[name]}


def frames(name: str, episode: int) -> Iterator[Frame]:
    """The frames of an episode, `task` included; the second episode changes its task half-way."""
    rng = np.random.default_rng([episode, len(name)])
    length = 7 + 3 * episode
    for number in range(length):
        values = {key: VALUES[kind_of(feature)](rng, number, feature) for key, feature in features(name).items()}
        yield values | {"task": TASKS[(episode + (episode == 1 and number > length // 2)) % 2]}


def kind_of(feature: dict) -> str:
    if feature["dtype"] in ("video", "image"):
        return "depth" if feature["shape"][2] == 1 else "camera"
    return feature["dtype"]


def picture(rng: np.random.Generator, number: int, feature: dict) -> np.ndarray:
    height, width, _ = feature["shape"]
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width) * 3, np.arange(height)[:, None] * 5
    image[8:24, 3 * number : 3 * number + 16] = rng.integers(0, 255, 3)
    return image


def distances(_: np.random.Generator, number: int, feature: dict) -> np.ndarray:
    height, width, _ = feature["shape"]
    far = np.linspace(300, 4000, height * width).reshape(height, width, 1)
    return (far + 20 * number).astype(np.uint16)


VALUES: dict[str, Callable[[np.random.Generator, int, dict], Any]] = {
    "camera": picture,
    "depth": distances,
    "float32": lambda rng, _, feature: rng.normal(size=feature["shape"]).astype(np.float32),
    "float64": lambda rng, _, feature: rng.normal(size=feature["shape"]),
    "int64": lambda rng, _, feature: rng.integers(-9, 9, feature["shape"]),
    "bool": lambda rng, _, feature: rng.integers(0, 2, feature["shape"]).astype(bool),
    "string": lambda _, number, __: f"frame {number}",
}


def deltas(name: str) -> dict[str, list[float]]:
    """Windows over the past and the future that reach beyond an episode's ends."""
    wanted = {"observation.state": [-1 / FPS, 0.0], "action": [step / FPS for step in range(-1, 4)]}
    return wanted | {key: [-2 / FPS, 0.0] for key in SCENES[name] if "image" in key}


def fingerprints(items: Any, rows: range) -> dict[str, str]:
    """What the items of `rows` are: per key dtype, shape and a digest of the content of all."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in items[row].items():
            found.setdefault(key, []).append(value.numpy() if hasattr(value, "numpy") else value)
    return {key: fingerprint(values) for key, values in sorted(found.items())}


def fingerprint(values: list[Any]) -> str:
    if isinstance(values[0], str):
        return "text " + hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
    stacked = np.stack(values)
    return f"{stacked.dtype}{list(stacked.shape)} {hashlib.sha256(stacked.tobytes()).hexdigest()[:16]}"

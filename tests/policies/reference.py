"""A checkpoint that LeRobot 0.6.1 saved, with the inputs that it was given and what it computed.

The large tensors are not stored: `filled.json` names them with their shapes, and each is drawn from its own name.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

ACT = Path(__file__).parents[1] / "data" / "act_reference"


def rebuild(reference: Path, target: Path) -> Path:
    """The checkpoint folder as LeRobot saved it, with all of `model.safetensors`."""
    target.mkdir(parents=True)
    for file in reference.iterdir():
        if file.name not in ("filled.json", "io.json", "io.npz", "model.small.safetensors"):
            shutil.copy(file, target / file.name)
    tensors = load_file(reference / "model.small.safetensors")
    for name, shape in json.loads((reference / "filled.json").read_text()).items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape))
        tensors[name] = (draw / np.sqrt(fan_in)).astype(np.float32)
    save_file(tensors, target / "model.safetensors")
    return target

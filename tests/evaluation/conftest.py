"""A benchmark of a third party that misbehaves on request, and the sandboxes of the real one."""

from pathlib import Path

import pytest

from lerobot_ops.errors import OpsError
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox

BENCHMARK = """
import ctypes, os, sys, time
import numpy as np
from lerobot_ops.envs import Benchmark, Step

class Env:
    fps, action_dim, max_steps = 10, 2, 20
    features = {
        "observation.state": {"dtype": "float32", "shape": [1], "names": None},
        "observation.image": {"dtype": "video", "shape": [1, 2, 3], "names": None},
    }
    renders = 0

    def __init__(self, greeting="hello"):
        print(greeting, "from a library")
        os.write(1, b"straight to the file descriptor\\n")
        ctypes.CDLL(None).puts(b"from C")
        ctypes.CDLL(None).fflush(None)

    def reset(self, task, seed, number=0):
        self.count, self.goal = 0, seed
        if task == "hang":
            time.sleep(1000)
        if task == "spin":
            while True:
                pass
        if task == "crash":
            os.abort()
        if task == "leave":
            print("I have had enough", file=sys.stderr)
            os._exit(7)
        if task == "raise":
            raise ValueError("the layout is impossible")
        if task == "ask":
            input("Do you agree? ")
        if task == "flood":
            for _ in range(20000):
                print("words, words, words, words, words, words, words, words", file=sys.stderr)

    def step(self, action):
        self.count += 1
        success = self.count == self.goal
        return Step(float(action.sum()), success, success, self.count == self.max_steps and not success)

    def observe(self, cameras):
        observation = {"observation.state": np.array([self.count], dtype=np.float32)}
        for key in cameras:
            self.renders += 1
            observation[key] = np.array([[[self.count] * 3, [self.renders] * 3]], dtype=np.uint8)
        return observation

    def expert_action(self):
        return np.full(2, 0.5, dtype=np.float32)

    def render(self, size):
        return np.full((size, size, 3), self.count, dtype=np.uint8)

    def close(self):
        print("goodbye")

tasks = "play hang spin crash leave raise ask flood".split()
BENCHMARK = Benchmark("noisy", {task: f"Do {task}" for task in tasks}, Env)
"""


@pytest.fixture(scope="session")
def noisy_path(tmp_path_factory) -> str:
    """What Python must search to find the package of a third party's benchmark, and ours."""
    folder = tmp_path_factory.mktemp("third-party")
    (folder / "noisy_benchmark.py").write_text(BENCHMARK)
    info = folder / "noisy_benchmark-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy-benchmark\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lerobot_ops.envs]\nnoisy = noisy_benchmark:BENCHMARK\n")
    return f"{folder}:{Path(__file__).parents[2]}"


@pytest.fixture(scope="session")
def venv_sandbox():
    return open_sandbox("metaworld", SandboxConfig(type="venv"))


@pytest.fixture(scope="session")
def docker_sandbox():
    try:
        return open_sandbox("metaworld", SandboxConfig(type="docker"))
    except OpsError as error:
        pytest.skip(f"containers cannot run here: {error}")

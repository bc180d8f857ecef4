"""PushT as LeRobot shows it: push a T onto its goal; 2 state numbers, 16 of the T's corners, a picture, 10 Hz.

The tables can be read without gym-pusht; the environment imports it when it is made, in a sandbox. It draws with pygame
and OpenCV, so it needs no OpenGL.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.envs.interface import Benchmark, Step
from lerobot_ops.errors import ConfigError, did_you_mean

TASK = "PushT-v0"
IMAGE = "observation.image"
INSTRUCTIONS = {TASK: "Push the T-shaped block onto the T-shaped target."}
MAX_STEPS = 300
# Smaller pictures have no room for the mark of the last action.
_LEAST_MARKED = 96


class PushTEnv:
    """One PushT environment; positions are pixels of a board of 512 by 512.

    Source: gym-pusht 0.1.8 `envs/pusht.py`, LeRobot 0.6 `PushtEnv` for what is shown. A seed's episode is LeRobot's.
    Pictures are 96x96 as in `lerobot/pusht`: LeRobot announces 384x384, but never asks gym-pusht for them.
    """

    fps = 10
    action_dim = 2
    action_low, action_high = 0.0, 512.0
    """An action is the position that the agent goes to."""
    max_steps = MAX_STEPS

    def __init__(self, observation_width: int = 96, observation_height: int = 96) -> None:
        for name, side in (("observation_width", observation_width), ("observation_height", observation_height)):
            if not 16 <= side <= 2048:
                raise ConfigError("no such image", field=name, found=side, expected="16 to 2048 pixels")
        os.environ.update(PYGAME_HIDE_SUPPORT_PROMPT="1", SDL_VIDEODRIVER="dummy")
        from gym_pusht.envs.pusht import PushTEnv as Simulator

        self._width, self._height = observation_width, observation_height
        self._env = Simulator(obs_type="environment_state_agent_pos", render_mode="rgb_array")
        self._seen: dict[str, NDArray[Any]] = {}
        self._steps = 0

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """LeRobot feature entries of every observation and of the action."""
        image = {"shape": [self._height, self._width, 3], "names": ["height", "width", "channel"]}
        return {
            IMAGE: {"dtype": "video", **image},
            "observation.state": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
            "observation.environment_state": {"dtype": "float32", "shape": [16], "names": None},
            "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        }

    def reset(self, task: str, seed: int, number: int = 0) -> int | None:
        """Begin an episode: the seed alone decides where the agent and the T are."""
        if task != TASK:
            raise ConfigError("PushT has no such task", found=task, fix=did_you_mean(task, INSTRUCTIONS))
        self._see(self._env.reset(seed=seed)[0])
        self._env._last_action = None
        self._steps = 0
        return None

    def step(self, action: NDArray[np.float32]) -> Step:
        """Send the agent to a position (x, y); an episode ends when the T covers 95% of its goal."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (self.action_dim,) or not np.isfinite(action).all():
            raise ValueError(f"an action of {self.action_dim} finite numbers is expected, not {action.tolist()}")
        seen, reward, _, _, info = self._env.step(action)
        self._see(seen)
        self._steps += 1
        success = bool(info["is_success"])
        return Step(float(reward), success, terminated=success, truncated=self._steps >= MAX_STEPS and not success)

    def observe(self, cameras: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The present observation; `cameras` may hold "observation.image", which costs a drawing."""
        observation = dict(self._seen)
        for key in cameras:
            if key != IMAGE:
                raise ConfigError("PushT has no such camera", field="cameras", found=key, expected=IMAGE)
            observation[key] = self._picture(self._width, self._height)
        return observation

    def expert_action(self) -> NDArray[np.float32]:
        """PushT has no scripted policy: raises ConfigError."""
        raise ConfigError("PushT has no scripted expert", field="policy.path", found="expert", fix="zero or random")

    def render(self, size: int) -> NDArray[np.uint8]:
        """The board with a mark where the agent was sent, uint8 (size, size, 3)."""
        return self._picture(size, size, marked=size >= _LEAST_MARKED)

    def close(self) -> None:
        """Let go of the simulator."""
        self._env.close()

    def _see(self, seen: dict[str, NDArray[np.float64]]) -> None:
        self._seen = {
            "observation.state": seen["agent_pos"].astype(np.float32),
            "observation.environment_state": seen["environment_state"].astype(np.float32),
        }

    def _picture(self, width: int, height: int, marked: bool = False) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = self._env._get_img(self._env._draw(), width, height, render_action=marked)
        return np.ascontiguousarray(picture)


BENCHMARK = Benchmark(
    name="pusht",
    instructions=INSTRUCTIONS,
    make=PushTEnv,
    groups={"pusht": (TASK,)},
    limits={TASK: MAX_STEPS},
    options=("observation_width", "observation_height"),
    distributions=("gym-pusht", "pymunk", "numpy"),
)

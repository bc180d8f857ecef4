"""Meta-World 3 as LeRobot shows it: 4 state numbers, a 480x480 picture from `corner2`, 4 action numbers, 80 Hz.

The tables can be read without Meta-World; the environment imports it when it is made, in a sandbox.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.envs.interface import Benchmark, Step
from lerobot_ops.envs.memory import cache_no_meshes, release_sources
from lerobot_ops.envs.metaworld_tasks import GROUPS, INSTRUCTIONS
from lerobot_ops.envs.rendering import Renderer, prepare
from lerobot_ops.errors import ConfigError, did_you_mean

IMAGE = "observation.image"
CAMERAS = ("corner2", "corner", "corner3", "topview", "behindGripper", "gripperPOV")
# LeRobot moves this camera closer to the table, after https://arxiv.org/abs/2206.14244.
_CORNER2_POSITION = (0.75, 0.075, 0.7)
_STATE_SIZE = 39


class MetaWorldEnv:
    """One Meta-World environment. Its simulator is built once for a task and used again for the task's next episode.

    Source: LeRobot 0.6 `envs/metaworld.py` for what is shown, Meta-World 3.0.0 `sawyer_xyz_env.py` for the rest. An
    equal seed gives the episode that LeRobot gives, to the bit.

    That includes a fault of Meta-World's: it draws a layout twice at each reset, and in about half the tasks the first
    observation still shows some objects or goals where the first draw had them, by up to 20 cm, because poses are not
    computed again. With `settled_start` it shows them where they are. `one_hot_task` appends to the environment's
    state which of Meta-World's fifty tasks is played, in the order of its own MT50.
    """

    fps = 80
    action_dim = 4
    max_steps = 500

    def __init__(
        self,
        image_size: int = 480,
        camera_name: str = "corner2",
        settled_start: bool = False,
        one_hot_task: bool = False,
    ) -> None:
        if camera_name not in CAMERAS:
            fix = did_you_mean(camera_name, CAMERAS)
            raise ConfigError("Meta-World has no such camera", field="camera_name", found=camera_name, fix=fix)
        if not 16 <= image_size <= 2048:
            raise ConfigError("no such image", field="image_size", found=image_size, expected="16 to 2048 pixels")
        self.image_size = image_size
        self.camera_name = camera_name
        self.settled_start = settled_start
        self.one_hot_task = one_hot_task
        self._task: str | None = None
        self._env: Any = None
        self._expert: Any = None
        self._renderer: Renderer | None = None
        self._observation: NDArray[np.float64] = np.zeros(_STATE_SIZE)
        self._one_hot: NDArray[np.float64] = np.zeros(0)
        self._frames: dict[int, NDArray[np.uint8]] = {}

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """LeRobot feature entries of every observation and of the action."""
        state_size = _STATE_SIZE + (len(INSTRUCTIONS) if self.one_hot_task else 0)
        image = {"shape": [self.image_size, self.image_size, 3], "names": ["height", "width", "channel"]}
        return {
            IMAGE: {"dtype": "video", **image},
            "observation.state": {"dtype": "float32", "shape": [4], "names": ["x", "y", "z", "gripper"]},
            "observation.environment_state": {"dtype": "float32", "shape": [state_size], "names": None},
            "action": {"dtype": "float32", "shape": [4], "names": ["dx", "dy", "dz", "gripper"]},
        }

    def reset(self, task: str, seed: int, number: int = 0) -> None:
        """Begin an episode: the seed alone decides the layout, whatever the episode's number."""
        if task not in INSTRUCTIONS:
            raise ConfigError("Meta-World has no such task", found=task, fix=did_you_mean(task, INSTRUCTIONS))
        if task != self._task:
            self._build(task)
        from metaworld.policies import ENV_POLICY_MAP

        self._expert = ENV_POLICY_MAP[task]()
        # `reset(seed=...)` ignores its seed; `seed` and the flag set in `_build` are what make it count.
        self._env.seed(seed)
        self._observation, _ = self._env.reset()
        if self.settled_start:
            self._observation = self._settled_observation()
        self._frames.clear()

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply one action (dx, dy, dz in [-1, 1], gripper in [-1, 1]); the first success ends the episode."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (self.action_dim,) or not np.isfinite(action).all():
            raise ValueError(f"an action of {self.action_dim} finite numbers is expected, not {action.tolist()}")
        self._observation, reward, _, truncated, info = self._env.step(action)
        self._frames.clear()
        success = bool(info["success"])
        return Step(float(reward), success, terminated=success, truncated=bool(truncated) and not success)

    def observe(self, cameras: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The present observation; `cameras` may hold "observation.image", which costs a rendering."""
        observation: dict[str, NDArray[Any]] = {
            "observation.state": self._observation[:4].astype(np.float32),
            "observation.environment_state": np.concatenate([self._observation, self._one_hot]).astype(np.float32),
        }
        for key in cameras:
            if key != IMAGE:
                raise ConfigError("Meta-World has no such camera", field="cameras", found=key, expected=IMAGE)
            observation[key] = self.render(self.image_size)
        return observation

    def expert_action(self) -> NDArray[np.float32]:
        """What Meta-World's scripted policy for this task does now, float32 (4,) in [-1, 1]."""
        return np.clip(np.asarray(self._expert.get_action(self._observation), dtype=np.float32), -1, 1)

    def render(self, size: int) -> NDArray[np.uint8]:
        """The camera's picture, uint8 (size, size, 3), rendered once for a state and size."""
        if size not in self._frames:
            if self._renderer is None:
                self._renderer = Renderer(self._env.model, self.camera_name)
            frame = self._renderer.frame(self._env.data, size)
            # Meta-World mounts `corner2` upside down.
            self._frames[size] = np.ascontiguousarray(frame[::-1, ::-1]) if self.camera_name == "corner2" else frame
        return self._frames[size]

    def close(self) -> None:
        """Let go of the simulator and the renderer."""
        if self._renderer is not None:
            self._renderer.close()
        self._env, self._renderer, self._task = None, None, None

    def _build(self, task: str) -> None:
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT50_V3

        # The experts say this of themselves at every step; their actions are clipped anyway.
        warnings.filterwarnings("ignore", message="Constant\\(s\\) may be too high")
        self.close()
        cache_no_meshes()
        env = ALL_V3_ENVIRONMENTS[task]()
        release_sources()
        env._set_task_called = True
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        # The goal is a part of the observation. The space that clips observations was cached without it.
        env._partially_observable = False
        env.__dict__.pop("sawyer_observation_space", None)
        if self.camera_name == "corner2":
            camera = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA, "corner2")
            env.model.cam_pos[camera] = _CORNER2_POSITION
        self._env, self._task = env, task
        if self.one_hot_task:
            self._one_hot = np.array([task == other for other in MT50_V3], dtype=np.float64)

    def _settled_observation(self) -> NDArray[np.float64]:
        """The first observation, with every pose computed from the layout that was drawn."""
        import mujoco

        mujoco.mj_kinematics(self._env.model, self._env.data)
        present = self._env._get_curr_obs_combined_no_goal()
        self._env._prev_obs = present
        observation: NDArray[np.float64] = self._env._get_obs()
        return observation


BENCHMARK = Benchmark(
    name="metaworld",
    instructions=INSTRUCTIONS,
    make=MetaWorldEnv,
    groups=GROUPS,
    default_task="button-press-topdown-v3",
    limits=dict.fromkeys(INSTRUCTIONS, MetaWorldEnv.max_steps),
    has_expert=True,
    options=("image_size", "camera_name", "settled_start", "one_hot_task"),
    prepare_rendering=prepare,
    distributions=("metaworld", "mujoco", "gymnasium", "numpy", "scipy"),
)

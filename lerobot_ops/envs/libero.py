"""LIBERO as LeRobot shows it: 8 state numbers, two cameras turned by 180 degrees, 7 action numbers, 20 Hz.

The tables can be read without LIBERO; the environment imports it when it is made, in a sandbox.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.envs.interface import Benchmark, Step
from lerobot_ops.envs.libero_simulation import CONTROL_HZ, Simulation
from lerobot_ops.envs.libero_tasks import INSTRUCTIONS, LIMITS, SUITE_OF, SUITES
from lerobot_ops.envs.rendering import Renderer, prepare
from lerobot_ops.errors import ConfigError, did_you_mean

CAMERAS = {"agentview_image": "image", "robot0_eye_in_hand_image": "image2"}
"""LIBERO's name of each camera, and the name after "observation.images." unless `camera_name_mapping` says another."""

_STATE = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_1", "finger_2")
_ACTION = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "gripper")
# robosuite's group of collision shapes, which its cameras do not show.
_HIDDEN_GROUPS = (0,)


class LiberoEnv:
    """One LIBERO environment. Its simulator is built once for a task and used again for the task's next episode.

    Source: LeRobot 0.6 `envs/libero.py`, and `processor/env_processor.py` for how its policies see it. An episode is
    LeRobot's first of an environment with the same seed and initial state, to the last bit of the state.
    """

    fps = CONTROL_HZ
    action_dim = 7
    max_steps = max(LIMITS.values())

    def __init__(
        self,
        observation_height: int = 360,
        observation_width: int = 360,
        camera_name_mapping: Mapping[str, str] | None = None,
        control_mode: str = "relative",
    ) -> None:
        """`control_mode` "relative" takes changes of the hand's pose, "absolute" poses in metres and radians."""
        for name, size in (("observation_height", observation_height), ("observation_width", observation_width)):
            if not 16 <= size <= 2048:
                raise ConfigError("no such image", field=name, found=size, expected="16 to 2048 pixels")
        if control_mode not in {"relative", "absolute"}:
            raise ConfigError(
                "no such way to control", field="control_mode", found=control_mode, expected="relative or absolute"
            )
        self._height, self._width = observation_height, observation_width
        self._relative = control_mode == "relative"
        self._cameras = _camera_keys(camera_name_mapping or {})
        self._task: str | None = None
        self._simulation: Simulation | None = None
        self._renderer: Renderer | None = None
        self._frames: dict[tuple[str, int, int], NDArray[np.uint8]] = {}
        self._steps = 0

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """LeRobot feature entries of every observation and of the action."""
        image = {"shape": [self._height, self._width, 3], "names": ["height", "width", "channel"]}
        return {
            **{key: {"dtype": "video", **image} for key in self._cameras},
            "observation.state": {"dtype": "float32", "shape": [8], "names": list(_STATE)},
            "action": {"dtype": "float32", "shape": [7], "names": list(_ACTION)},
        }

    def reset(self, task: str, seed: int, number: int = 0) -> int:
        """Begin an episode with initial state `number` modulo their count, which is returned.

        The seed places what the stored states leave out: fixtures such as cabinets and stoves, within centimetres.
        """
        if task not in SUITE_OF:
            raise ConfigError("LIBERO has no such task", found=task, fix=did_you_mean(task, SUITE_OF))
        if task != self._task or self._simulation is None:
            self.close()
            self._simulation, self._task = Simulation(SUITE_OF[task], task), task
            self.max_steps = LIMITS[task]
        index = number % len(self._simulation.states)
        self._simulation.reset(seed, self._simulation.states[index], self._relative)
        self._steps = 0
        self._frames.clear()
        return index

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply one action (position, axis-angle, gripper: negative opens); the first success ends the episode."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (self.action_dim,) or not np.isfinite(action).all():
            raise ValueError(f"an action of {self.action_dim} finite numbers is expected, not {action.tolist()}")
        reward, success = self._playing().step(action)
        self._steps += 1
        self._frames.clear()
        return Step(reward, success, terminated=success, truncated=self._steps >= self.max_steps and not success)

    def observe(self, cameras: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The present observation; each key in `cameras` costs a rendering."""
        observation: dict[str, NDArray[Any]] = {"observation.state": _state(*self._playing().proprioception)}
        for key in cameras:
            if key not in self._cameras:
                expected = " or ".join(self._cameras)
                raise ConfigError("LIBERO has no such camera", field="cameras", found=key, expected=expected)
            observation[key] = self._frame(self._cameras[key], self._height, self._width)
        return observation

    def expert_action(self) -> NDArray[np.float32]:
        """LIBERO has no scripted policy."""
        raise ConfigError("LIBERO has no expert", fix="play stored actions: --policy.path=replay")

    def render(self, size: int) -> NDArray[np.uint8]:
        """What the camera in front of the robot sees, uint8 (size, size, 3), as policies see it."""
        return self._frame("agentview", size, size)

    def close(self) -> None:
        """Let go of the simulator and the renderer."""
        if self._renderer is not None:
            self._renderer.close()
        if self._simulation is not None:
            self._simulation.close()
        self._simulation, self._renderer, self._task = None, None, None

    def _playing(self) -> Simulation:
        if self._simulation is None:
            raise ValueError("no episode is being played: reset first")
        return self._simulation

    def _frame(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """A camera's picture, rendered once for a step and size."""
        if (camera, height, width) not in self._frames:
            simulation = self._playing()
            if self._renderer is None:
                self._renderer = Renderer(simulation.model, camera, _HIDDEN_GROUPS)
            present = simulation.model.site_rgba.copy()
            simulation.model.site_rgba[:] = simulation.marks
            frame = self._renderer.frame(simulation.moment, (height, width), camera)
            simulation.model.site_rgba[:] = present
            # LIBERO's data sets and LeRobot's policies have every picture upright and mirrored.
            self._frames[camera, height, width] = np.ascontiguousarray(frame[:, ::-1])
        return self._frames[camera, height, width]


def _camera_keys(mapping: Mapping[str, str]) -> dict[str, str]:
    """The name of LIBERO's camera by the key of its observation."""
    for name in mapping:
        if name not in CAMERAS:
            fix = did_you_mean(name, CAMERAS)
            raise ConfigError("LIBERO has no such camera", field="camera_name_mapping", found=name, fix=fix)
    names = {**CAMERAS, **mapping}
    keys = {f"observation.images.{shown}": name.removesuffix("_image") for name, shown in names.items()}
    if len(keys) != len(CAMERAS):
        raise ConfigError("two cameras cannot have one name", field="camera_name_mapping", found=dict(mapping))
    return keys


def _state(
    position: NDArray[np.float64], quaternion: NDArray[np.float64], fingers: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Position, axis times angle and fingers, float32 (8,), with the roundings of LeRobot's `libero_processor`."""
    turned = quaternion.astype(np.float32)
    cosine = np.clip(turned[3], np.float32(-1), np.float32(1))
    sine = np.sqrt(np.maximum(np.float32(1) - cosine * cosine, np.float32(0)))
    axis_angle = np.zeros(3, dtype=np.float32)
    if sine > 1e-10:
        # Rounded once: torch's arc cosine is within a bit of that, numpy's in float32 is not.
        angle = np.float32(2) * np.float32(np.arccos(np.float64(cosine)))
        axis_angle = turned[:3] / sine * angle
    return np.concatenate([position, axis_angle, fingers]).astype(np.float32)


BENCHMARK = Benchmark(
    name="libero",
    instructions=INSTRUCTIONS,
    make=LiberoEnv,
    groups=SUITES,
    default_task="libero_10",
    limits=LIMITS,
    options=("observation_height", "observation_width", "camera_name_mapping", "control_mode"),
    prepare_rendering=prepare,
    distributions=("hf-libero", "robosuite", "bddl", "mujoco", "gymnasium", "numpy"),
)

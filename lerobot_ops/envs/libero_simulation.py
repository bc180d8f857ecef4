"""LIBERO's physics without its renderer: built once for a task, begun again exactly, seen when robosuite looks.

Sources: hf-libero 0.1.4 `envs/env_wrapper.py` and `envs/bddl_base_domain.py`, robosuite 1.4.0 `environments/base.py`
and `utils/observables.py`, LeRobot 0.6 `envs/libero.py` for the order of things at a reset.

LeRobot parses, compiles and uploads the whole scene anew for every episode. Here all that an episode changes is put
back instead, with the same states to the last bit, at a tenth of the cost.
"""

import gc
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.errors import PrerequisiteError

CONTROL_HZ = 20
_STAY = [0, 0, 0, 0, 0, 0, -1]
_SETTLING_STEPS = 10
_PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
# What an episode changes in the compiled scene: where fixtures stand, and which marks are shown.
_CHANGED = ("body_pos", "body_quat", "site_rgba", "geom_rgba")
# LeRobot has loaded the scene three times before the first episode begins, and LIBERO's list of what to open and close
# at random grows each time. The length decides what is drawn for the fixtures, so it is kept at LeRobot's first.
_LOADED_BEFORE = 3


class Simulation:
    """One task: a robot, its scene, and the moment of the present control step at which robosuite observes.

    robosuite 1.4 does not observe at the end of a control step but after the 24th of its 25 physics steps. `model` and
    `moment` hold what is needed to render what was seen then, at any time before the next step.
    """

    def __init__(self, suite: str, task: str) -> None:
        package = _prepared_package()
        self.states: NDArray[np.float64] = np.load(
            package.parent / "prepared" / "init_states" / suite / f"{task}.npy", allow_pickle=False
        )
        """Initial states, (n, 1 + positions + velocities)."""
        self._env = _make(package / "bddl_files" / suite / f"{task}.bddl")
        import mujoco

        # MuJoCo keeps up to 500 MB of decoded textures for a scene that is loaded again, which this one is not.
        mujoco.mj_clearCache(mujoco.mj_getCache())
        self.model: Any = self._env.sim.model._model
        self.moment: Any = mujoco.MjData(self.model)
        self.marks: NDArray[np.float32] = self.model.site_rgba.copy()
        """Colours of the model's sites at the moment, (sites, 4): a stove that is on glows."""
        self._changed = {name: getattr(self.model, name).copy() for name in _CHANGED}
        self._random_joints = list(self._env.object_property_initializers)
        self._observe_only_what_is_read()
        self._seen: dict[str, NDArray[np.float64]] = {}
        self._halfway = False

    def reset(self, seed: int, state: NDArray[np.float64], relative: bool) -> None:
        """Begin an episode: fixtures where `seed` puts them, the rest as `state` says, ten steps to settle."""
        from robosuite.utils.errors import RandomizationError

        np.random.seed(seed)
        attempts = 0
        while True:
            self._restore(_LOADED_BEFORE + attempts)
            try:
                self._env.reset()
                break
            except RandomizationError:
                attempts += 1
        self._env.sim.set_state_from_flattened(state)
        self._env.sim.forward()
        self._env._post_process()
        self._env._update_observables(force=True)
        for _ in range(_SETTLING_STEPS):
            self.step(_STAY)
        self._env.robots[0].controller.use_delta = relative

    def step(self, action: NDArray[np.float32] | list[int]) -> tuple[float, bool]:
        """One control step of 50 ms: the reward, and whether the task is solved."""
        sim = self._env.sim
        sim.forward, sim.step = self._first_half, self._second_half
        try:
            self._seen, reward, solved, _ = self._env.step(action)
        finally:
            del sim.forward, sim.step
        return float(reward), bool(solved)

    @property
    def proprioception(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Where the hand was at the moment (3), how it was turned (quaternion x, y, z, w), and both fingers (2)."""
        position, quaternion, fingers = (self._seen[name] for name in _PROPRIOCEPTION)
        return position, quaternion, fingers

    def close(self) -> None:
        """Let go of the scene: robosuite's objects hold one another."""
        self._env.close()
        self._env = self.model = self.moment = None
        gc.collect()

    # robosuite computes all of a physics step three times: before its controller, in it, and to integrate. As the
    # controller reads positions and velocities alone, MuJoCo's two halves of a step give the same bits, 30 % sooner.
    def _first_half(self) -> None:
        import mujoco

        if not self._halfway:
            mujoco.mj_step1(self.model, self._env.sim.data._data)
        self._halfway = True

    def _second_half(self, with_udd: bool = True) -> None:
        import mujoco

        mujoco.mj_step2(self.model, self._env.sim.data._data)
        self._halfway = False

    def _restore(self, loaded: int) -> None:
        for name, values in self._changed.items():
            getattr(self.model, name)[:] = values
        gripper = self._env.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)
        self._env.object_property_initializers = self._random_joints * loaded

    def _observe_only_what_is_read(self) -> None:
        import mujoco
        from robosuite.utils.observables import Observable, sensor

        @sensor(modality="moment")
        def moment(_: dict[str, Any]) -> NDArray[np.float64]:
            mujoco.mj_copyData(self.moment, self.model, self._env.sim.data._data)
            self.marks = self.model.site_rgba.copy()
            return np.zeros(1)

        for name in self._env.observation_names.difference(_PROPRIOCEPTION):
            self._env.modify_observable(name, "enabled", False)
        self._env.add_observable(Observable("moment", moment, sampling_rate=CONTROL_HZ))


def _make(problem: Path) -> Any:
    """LIBERO's environment of a problem file, as LeRobot makes it but without cameras."""
    robosuite = _robosuite()
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_utils import get_problem_info

    return TASK_MAPPING[get_problem_info(str(problem))["problem_name"]](
        str(problem),
        robots=["Panda"],
        controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
        initialization_noise=None,
        use_camera_obs=False,
        has_offscreen_renderer=False,
        control_freq=CONTROL_HZ,
        hard_reset=False,
    )


def _robosuite() -> Any:
    """robosuite, told before it is imported to leave OpenGL, Numba and a log file alone.

    It would compile six small functions with Numba in every new process, for seconds; plain numpy gives the same bits.
    """
    if "robosuite" not in sys.modules:
        plain = types.ModuleType("robosuite.utils.numba")
        plain.jit_decorator = lambda function: function  # type: ignore[attr-defined]
        sys.modules[plain.__name__] = plain
        macros = importlib.util.spec_from_file_location("robosuite.macros", _folder("robosuite") / "macros.py")
        assert macros is not None
        assert macros.loader is not None
        settings = importlib.util.module_from_spec(macros)
        macros.loader.exec_module(settings)
        settings.MUJOCO_GPU_RENDERING = False  # type: ignore[attr-defined]
        settings.FILE_LOGGING_LEVEL, settings.CONSOLE_LOGGING_LEVEL = None, "ERROR"  # type: ignore[attr-defined]
        sys.modules[macros.name] = settings
    import robosuite

    return robosuite


def _prepared_package() -> Path:
    """The folder of LIBERO's data and code; raises PrerequisiteError unless docker/libero/prepare.py has run."""
    package = _folder("libero") / "libero"
    prepared = package.parent / "prepared"
    if not (prepared / "config.yaml").is_file():
        raise PrerequisiteError(
            "LIBERO is installed, but not prepared: it has neither assets nor initial states that can be read",
            file=prepared,
            fix="run docker/libero/prepare.py with this Python, or use --sandbox.type=venv",
        )
    os.environ["LIBERO_CONFIG_PATH"] = str(prepared)
    return package


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise PrerequisiteError(f"{package} is not installed", fix="--sandbox.type=venv, or docker")
    return Path(next(iter(found.submodule_search_locations)))

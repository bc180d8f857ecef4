"""Environments from the Hub: the `env.py` of somebody's repository, shown as LeRobot shows it.

Only in its sandbox is anything of the repository run, and only there is known which tasks it has. Its files lie in the
folder `hub_repository` beside this package, described by `hub_repository.json`: {"file": path of env.py}.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lerobot_ops
from lerobot_ops.envs.hub_observations import as_lerobot, picture
from lerobot_ops.envs.interface import Benchmark, Step
from lerobot_ops.errors import ConfigError, did_you_mean

FIRST = "env"
"""The task that is the repository's first environment, whatever its name."""
_GUEST = Path(lerobot_ops.__file__).parent.parent
# Where its image holds the packages that the repository asks for.
_PACKAGES = "/opt/repository"
# For an environment that does not say how long its episodes or its steps are.
_MAX_STEPS, _FPS = 1000, 30


class HubEnv:
    """One environment of `make_env(n_envs, use_async_envs[, cfg])`, which returns an Env, a VectorEnv or a dictionary.

    Source: LeRobot 0.6 `envs/factory.py` and `envs/utils.py` for what env.py must offer, `lerobot_eval.py` for success.
    """

    def __init__(self, repo: str = "", cfg: Mapping[str, Any] | None = None) -> None:
        """`cfg` is passed to `make_env` as an object with these attributes, where it is given."""
        described = json.loads((_GUEST / "hub_repository.json").read_text())
        module = _imported(_GUEST / "hub_repository" / described["file"])
        if not hasattr(module, "make_env"):
            raise ConfigError("it has no make_env", file=described["file"], field="env.options.repo")
        extra = {} if cfg is None else {"cfg": SimpleNamespace(**cfg)}
        self._envs = _by_task(module.make_env(n_envs=1, use_async_envs=False, **extra))
        self._env = next(iter(self._envs.values()))
        self._succeeded = False
        self.instruction = ""
        space = self._env.single_action_space
        if len(getattr(space, "shape", None) or ()) != 1 or not hasattr(space, "low"):
            raise ConfigError("its actions are no row of numbers", field="env.options.repo", found=space)
        self.action_dim = int(space.shape[0])
        self.action_low = np.where(np.isfinite(space.low), space.low, -1.0).astype(np.float64)
        self.action_high = np.where(np.isfinite(space.high), space.high, 1.0).astype(np.float64)
        self.fps = round(float((getattr(self._env, "metadata", None) or {}).get("render_fps") or _FPS))
        self._observation = as_lerobot(self._env.reset(seed=0)[0])
        self.max_steps = _limit(self._env)

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """LeRobot feature entries of every observation and of the action."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in self._observation.items():
            names = ["height", "width", "channel"] if value.dtype == np.uint8 else None
            dtype = "video" if value.dtype == np.uint8 else "float32"
            found[key] = {"dtype": dtype, "shape": list(value.shape), "names": names}
        return {**found, "action": {"dtype": "float32", "shape": [self.action_dim], "names": None}}

    def reset(self, task: str, seed: int, number: int = 0) -> int | None:
        """Begin an episode: the repository decides what the seed does."""
        if task != FIRST and task not in self._envs:
            fix = did_you_mean(task, list(self._envs))
            raise ConfigError("the repository has no such environment", field="env.task", found=task, fix=fix)
        self._env = next(iter(self._envs.values())) if task == FIRST else self._envs[task]
        self._observation = as_lerobot(self._env.reset(seed=seed)[0])
        self._succeeded, self.max_steps = False, _limit(self._env)
        self.instruction = str(_asked(self._env, "task_description") or _asked(self._env, "task") or "")
        return None

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply one action; an episode that succeeded once has succeeded."""
        seen, reward, terminated, truncated, info = self._env.step(np.asarray(action, np.float32)[None])
        self._observation = as_lerobot(seen)
        self._succeeded |= _success(info)
        ended = bool(terminated[0])
        return Step(float(reward[0]), self._succeeded, terminated=ended, truncated=bool(truncated[0]) and not ended)

    def observe(self, cameras: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The present observation; pictures are there anyway, since the repository draws them at every step."""
        return {key: value for key, value in self._observation.items() if value.dtype != np.uint8 or key in cameras}

    def expert_action(self) -> NDArray[np.float32]:
        """There is none: raises ConfigError."""
        raise ConfigError("it has no scripted expert", field="policy.path", found="expert", fix="zero or random")

    def render(self, size: int) -> NDArray[np.uint8]:
        """What the repository renders, or else its first camera, uint8 (size, size, 3)."""
        drawn = _asked(self._env, "render")
        shown = [value for value in self._observation.values() if value.dtype == np.uint8]
        if not isinstance(drawn, np.ndarray) and not shown:
            raise RuntimeError("it has no camera and renders nothing: give its environment render_mode='rgb_array'")
        return picture(drawn if isinstance(drawn, np.ndarray) else shown[0], size)

    def close(self) -> None:
        """Let go of every environment."""
        for env in self._envs.values():
            env.close()


class TasksOfRepository(dict[str, str]):
    """Any name may be a task: which ones are is known in the sandbox alone."""

    def __contains__(self, task: object) -> bool:
        return isinstance(task, str) and re.fullmatch(r"[\w.-]+", task) is not None

    def __missing__(self, task: str) -> str:
        return ""


def _imported(file: Path) -> ModuleType:
    # Its own modules first, then ours, then what it asked for.
    sys.path.insert(0, str(file.parent))
    sys.path.append(_PACKAGES)
    spec = importlib.util.spec_from_file_location("hub_env", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hub_env"] = module
    spec.loader.exec_module(module)
    return module


def _by_task(made: Any) -> dict[str, Any]:
    """Vectors of one environment by task: SUITE_ID, or "env" where there is but one."""
    import gymnasium

    if isinstance(made, Mapping):
        members = {suite: entry if isinstance(entry, Mapping) else {0: entry} for suite, entry in made.items()}
        found = {_named(suite, number): env for suite, entry in members.items() for number, env in entry.items()}
    else:
        found = {FIRST: made}
    if not found or not all(isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv) for env in found.values()):
        expected = "a gymnasium Env, a VectorEnv, or a dictionary of suites of them"
        raise ConfigError("make_env made no environment", field="env.options.repo", found=type(made), expected=expected)
    return {task: _vector(env) if isinstance(env, gymnasium.Env) else env for task, env in found.items()}


def _named(suite: object, number: object) -> str:
    """Names become those of files."""
    return re.sub(r"[^\w.-]", "_", f"{suite}_{number}")


def _vector(env: Any) -> Any:
    from gymnasium.vector import SyncVectorEnv

    return SyncVectorEnv([lambda: env])


def _asked(env: Any, name: str) -> Any:
    """An attribute, or what a method answers, of the one environment in a vector; None where it has none."""
    try:
        return env.call(name)[0]
    except (AttributeError, NotImplementedError):
        return None


def _limit(env: Any) -> int:
    """Steps of an episode, as a time limit around the environment says."""
    registered = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    return int(_asked(env, "_max_episode_steps") or registered or _MAX_STEPS)


def _success(info: Mapping[str, Any]) -> bool:
    """What a step's info says of the one environment: in `final_info` when it ended and was begun again at once."""
    final = info.get("final_info")
    if final is not None:
        info = final if isinstance(final, Mapping) else (final[0] or {})
    return bool(np.ravel(info.get("is_success", False))[0])


BENCHMARK = Benchmark(
    name="hub",
    instructions=TasksOfRepository(),
    make=HubEnv,
    default_task=FIRST,
    options=("repo", "cfg"),
    untrusted=True,
    distributions=("gymnasium", "numpy"),
)

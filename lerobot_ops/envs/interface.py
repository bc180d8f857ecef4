"""What a benchmark is to the rest of the system, and what a simulated environment can do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Step(NamedTuple):
    """What one action led to."""

    reward: float
    success: bool
    terminated: bool
    """The episode ended by itself; here, because the task was solved."""
    truncated: bool
    """The episode ended because its time ran out."""


class Env(Protocol):
    """One environment that plays one episode at a time. Observations are rendered only when they are asked for.

    One whose actions are not within [-1, 1] says so in `action_low` and `action_high`, numbers or arrays (action_dim,).
    """

    fps: int
    action_dim: int
    max_steps: int
    """Steps after which an episode of the task that was reset last ends; before the first reset, of any task."""

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """LeRobot feature entries (dtype, shape, names) of every observation and of the action.

        Entries whose dtype is "video" are the cameras. They are known once the environment is made.
        """

    def reset(self, task: str, seed: int, number: int = 0) -> int | None:
        """Begin an episode: equal arguments, equal episodes, whatever was played before.

        `number` is the episode's number within its task. A benchmark with n stored initial states begins with number
        `number % n` of them and returns that index; others return None.
        """

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply one action of shape (action_dim,)."""

    def observe(self, cameras: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The present observation: every low-dimensional key, and the images that `cameras` names by their key."""

    def expert_action(self) -> NDArray[np.float32]:
        """What the benchmark's own scripted policy would do now, within the bounds of the action."""

    def render(self, size: int) -> NDArray[np.uint8]:
        """A picture for people, uint8 (size, size, 3)."""

    def close(self) -> None:
        """Let go of the simulator and the renderer."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's tables, which can be read without its simulator, and the way to make its environment."""

    name: str
    instructions: dict[str, str]
    """What to do in natural language, by task."""
    make: Callable[..., Env]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Tasks by the name of a group, in the order that gives them their `task_id`."""
    default_task: str = ""
    """The task, or group, that is played when none is named; by default the first group, or the first task."""
    limits: dict[str, int] = field(default_factory=dict)
    """Steps of an episode, by task; the environment's `max_steps` for those that are not named."""
    has_expert: bool = False
    """Whether `Env.expert_action` works."""
    options: tuple[str, ...] = ()
    """Names of the options that `make` takes; `--env.NAME=…` sets them."""
    prepare_rendering: Callable[[bool], dict[str, Any] | None] = lambda rendered: None
    """Called once before the environment is made, with whether anything will be rendered; says how it will be.
    Raises PrerequisiteError when it cannot be."""
    distributions: tuple[str, ...] = ()
    """Python packages whose versions a record of an evaluation should hold."""
    untrusted: bool = False
    """Its code is whatever a repository holds, so it runs in containers alone."""
    recipe: str = ""
    """For a third party's package: the folder in it that says what its sandbox is made of: `requirements.txt` and,
    where needed, `Dockerfile`, `prepare.py` and files that they read."""

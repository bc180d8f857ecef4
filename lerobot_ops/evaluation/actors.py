"""What is measured: a trained policy, or one without training, which tells a benchmark's faults from a policy's.

An actor answers a query with the actions that are executed before the next one. It is called from one thread, and an
answer depends on the query alone: not on other episodes, nor on how many of them run at once.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.errors import CheckpointError, did_you_mean
from lerobot_ops.evaluation.config import SANITY_POLICIES, PolicySource

if TYPE_CHECKING:
    from lerobot_ops.policies.inference import PolicyRunner

OPEN_LOOP_STEPS = 50
"""Actions that a policy without observations gives at once."""


@dataclass(frozen=True)
class Query:
    """What an actor knows when it decides."""

    observation: dict[str, NDArray[Any]]
    """Low-dimensional keys, and the images among the actor's `cameras`; unbatched, and (last, ...) when `last` > 1."""
    instruction: str
    """The task in natural language."""
    number: int
    """Of the episode within its task."""
    seed: int
    """Of the episode."""
    step: int
    """Steps of the episode that are over."""
    action_dim: int


Act = Callable[[Query], NDArray[np.float32]]
"""Decides: actions (k, action_dim), k at least 1, that are executed open loop."""


class Actor(Protocol):
    """What can be measured."""

    observation_keys: list[str]
    """Keys that it reads."""
    cameras: list[str]
    """Those of them that must be rendered."""
    last: int
    """How many of the latest observations a query shows."""
    facts: dict[str, Any]
    """What a record of the evaluation holds about it."""

    def episode(self) -> Act:
        """How it decides in one new episode; what it remembers of that one is its own."""

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Entered around every use."""


class OpenLoopActor:
    """Decides without looking."""

    def __init__(self, kind: str, act: Act) -> None:
        self.observation_keys: list[str] = []
        self.cameras: list[str] = []
        self.last = 1
        self.facts: dict[str, Any] = {"type": kind}
        self._act = act

    def episode(self) -> Act:
        return self._act

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class CheckpointActor:
    """A trained policy."""

    def __init__(self, runner: "PolicyRunner") -> None:
        self._runner = runner
        self.observation_keys = runner.observation_keys
        self.cameras = runner.cameras
        self.last = 1
        self.facts: dict[str, Any] = {"type": runner.type, "n_action_steps": runner.n_action_steps}

    def episode(self) -> Act:
        runner = self._runner.episode()
        return lambda query: runner.act(query.observation, query.instruction)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Compute on one thread: sums, and so successes, then do not depend on the machine's number of cores."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def load_actor(source: PolicySource) -> Actor | None:
    """The actor that `source` names; None for the scripted expert, which plays inside the simulator.

    Raises CheckpointError when there is neither a checkpoint nor a policy of that name.
    """
    if source.path == "expert":
        return None
    if source.path == "zero":
        return OpenLoopActor("zero", zero)
    if source.path == "random":
        return OpenLoopActor("random", random)
    path = Path(source.path)
    if not path.is_dir():
        raise CheckpointError(
            "there is no such checkpoint",
            field="policy.path",
            found=source.path,
            expected=f"a folder `…/pretrained_model`, or one of {', '.join(SANITY_POLICIES)}",
            fix=did_you_mean(source.path, SANITY_POLICIES) if path.name == source.path else "check the path",
        )
    from lerobot_ops.policies.inference import PolicyRunner

    return CheckpointActor(PolicyRunner.from_checkpoint(path, device=source.device))


def zero(query: Query) -> NDArray[np.float32]:
    """Nothing: its success rate is what a task gives away."""
    return np.zeros((OPEN_LOOP_STEPS, query.action_dim), np.float32)


def random(query: Query) -> NDArray[np.float32]:
    """Uniform in [-1, 1], decided by the episode's seed and the step."""
    generator = np.random.default_rng([query.seed, query.step])
    return generator.uniform(-1, 1, (OPEN_LOOP_STEPS, query.action_dim)).astype(np.float32)


def script(actions: NDArray[np.float32]) -> Act:
    """Actions (steps, action_dim) that are given for the whole episode."""
    return lambda query: actions[query.step : query.step + OPEN_LOOP_STEPS]

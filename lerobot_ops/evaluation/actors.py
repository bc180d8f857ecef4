"""What is measured: a trained policy, or one without training, which tells a benchmark's faults from a policy's.

An actor answers a query with the actions that are executed before the next one. An answer depends on the query and its
episode alone: not on other episodes, nor on how many of them run at once.
"""

import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.envs.memory import trim_heap
from lerobot_ops.errors import CheckpointError, ConfigError, did_you_mean
from lerobot_ops.evaluation.config import SANITY_POLICIES, PolicySource, simulators
from lerobot_ops.evaluation.pool import Desk
from lerobot_ops.hub.checkpoints import checkpoint_folder

if TYPE_CHECKING:
    from lerobot_ops.policies.inference import PolicyRunner

logger = logging.getLogger(__name__)
OPEN_LOOP_STEPS = 50
"""Actions that a policy without observations gives at once."""
ROWS_ON_ACCELERATORS = 8
"""Queries that a policy answers at once by default where a batch costs hardly more than one."""


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
    action_bounds: NDArray[np.float64]
    """The least and the greatest of every number of an action, (2, action_dim)."""


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
    together: int
    """How many queries `decide` takes at most."""
    apart: bool
    """Whether several threads may call `decide` at once."""
    facts: dict[str, Any]
    """What a record of the evaluation holds about it."""

    def steps(self, instruction: str, number: int) -> int | None:
        """The steps that it has for an episode of a task, if they are limited; raises when it cannot play it."""

    def episode(self) -> Any:
        """What it remembers of one new episode."""

    def decide(self, asked: Sequence[tuple[Any, Query]]) -> list[NDArray[np.float32]]:
        """The answer to each query, given what it remembers of that query's episode."""

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Entered around every use."""


class Queries:
    """The queries of several worker threads.

    An actor that can is asked by every thread for itself, as many at once as there are cores. The others decide in the
    pool's thread, as many queries at once as the actor takes; no query waits for others to come: whatever is there when
    the actor is free is decided together.
    """

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._waiting: deque[_Ticket] = deque()
        self._cores = threading.BoundedSemaphore(simulators(0, sys.maxsize))

    def act(self, desk: Desk) -> Act:
        """How a new episode's thread asks."""
        memory = desk.ask(self._actor.episode)

        def act(query: Query) -> NDArray[np.float32]:
            ticket = _Ticket(memory, query)
            self._waiting.append(ticket)
            return desk.ask(self._answer, ticket)

        def act_apart(query: Query) -> NDArray[np.float32]:
            with self._cores:
                return self._actor.decide([(memory, query)])[0]

        return act_apart if self._actor.apart else act

    def _answer(self, ticket: "_Ticket") -> NDArray[np.float32]:
        """The answer to one ticket, and to those beside it on the way."""
        while ticket.actions is None:
            count = min(self._actor.together, len(self._waiting))
            tickets = [self._waiting.popleft() for _ in range(count)]
            decided = self._actor.decide([(other.memory, other.query) for other in tickets])
            for other, actions in zip(tickets, decided, strict=True):
                other.actions = actions
        return ticket.actions


@dataclass(eq=False)
class _Ticket:
    memory: Any
    query: Query
    actions: NDArray[np.float32] | None = None


class OpenLoopActor:
    """Decides without looking."""

    last = together = 1
    apart = False

    def __init__(self, kind: str, act: Act) -> None:
        self.observation_keys: list[str] = []
        self.cameras: list[str] = []
        self.facts: dict[str, Any] = {"type": kind}
        self._act = act

    def steps(self, instruction: str, number: int) -> int | None:
        return None

    def episode(self) -> Any:
        return None

    def decide(self, asked: Sequence[tuple[Any, Query]]) -> list[NDArray[np.float32]]:
        return [self._act(query) for _, query in asked]

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class CheckpointActor:
    """A trained policy, whose batches always have `together` rows."""

    def __init__(self, runner: "PolicyRunner", together: int = 1) -> None:
        self._runner = runner
        self.observation_keys = runner.observation_keys
        self.cameras = runner.cameras
        self.last = runner.last
        self.together = 1 if runner.alone else together
        self.apart = False
        self.facts: dict[str, Any] = {
            "type": runner.type,
            "n_action_steps": runner.n_action_steps,
            "policy_batch": self.together,
        }

    def steps(self, instruction: str, number: int) -> int | None:
        return None

    def episode(self) -> "PolicyRunner":
        return self._runner.episode()

    def decide(self, asked: Sequence[tuple[Any, Query]]) -> list[NDArray[np.float32]]:
        from lerobot_ops.policies.inference import Moment, act_together

        rows = [
            (runner, Moment(query.observation, query.instruction, (query.seed, query.step))) for runner, query in asked
        ]
        return act_together(rows, self.together)

    def part(self) -> None:
        """Let threads decide at once, unless the policy draws from the random numbers that they share."""
        from lerobot_ops.policies.inference import draws_from_torch

        with self.at_work():
            self.apart = not draws_from_torch(self._runner)
        trim_heap()  # the threads have heaps of their own

    def mixes(self) -> bool:
        """Whether an answer depends on its place in a batch, or on the queries beside it."""
        from lerobot_ops.policies.inference import places_matter

        with self.at_work():
            return places_matter(self._runner, self.together)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Compute on one thread: sums, and so successes, then do not depend on the machine's number of cores."""
        import torch

        threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
        torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = True
        try:
            with torch.random.fork_rng():
                yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cudnn.deterministic = deterministic


def located(source: PolicySource) -> PolicySource:
    """`source` with the folder of its checkpoint; raises CheckpointError when there is none of that name."""
    if source.is_sanity:
        return source
    if not Path(source.path).is_dir() and "/" not in source.path:
        raise CheckpointError(
            "there is no such checkpoint",
            field="policy.path",
            found=source.path,
            expected="a folder `…/pretrained_model`, OWNER/NAME on the Hub, or one of " + ", ".join(SANITY_POLICIES),
            fix=did_you_mean(source.path, SANITY_POLICIES),
        )
    return source.model_copy(update={"path": str(checkpoint_folder(source.path))})


def load_actor(
    source: PolicySource, policy_batch: int = 0, rename_map: Mapping[str, str] | None = None
) -> Actor | None:
    """The actor that `source` names; None for the scripted expert, which plays inside the simulator.

    `rename_map` (an observation's name here -> the policy's) takes the place of the checkpoint's own. `policy_batch` is
    how many queries a policy answers at once; 0 is 1 on the CPU, and more on accelerators where that changes no bit of
    an answer. Raises CheckpointError when there is neither a checkpoint nor a policy of that name,
    DatasetError when there is nothing to replay, and ConfigError for a batch that makes episodes depend on each other.
    """
    if source.path == "expert":
        return None
    if source.path == "zero":
        return OpenLoopActor("zero", zero)
    if source.path == "random":
        return OpenLoopActor("random", random)
    if source.dataset is not None:
        from lerobot_ops.evaluation.replay import ReplayActor

        return ReplayActor(source.dataset)
    from lerobot_ops.policies.inference import PolicyRunner

    runner = PolicyRunner.from_checkpoint(source.path, source.device, rename_map)
    wanted = policy_batch or (1 if source.device == "cpu" else ROWS_ON_ACCELERATORS)
    actor = CheckpointActor(runner, wanted)
    if source.device == "cpu" and actor.together == 1:
        actor.part()
    if actor.together == 1 or not actor.mixes():
        return actor
    if not policy_batch:
        logger.info("queries are not batched: this policy's answers would depend on their place in a batch")
        return CheckpointActor(runner)
    raise ConfigError(
        "this policy's answers would depend on their place in a batch",
        field="eval.policy_batch",
        found=policy_batch,
        expected="a size that the device's libraries compute alike for every row",
        fix="--eval.policy_batch=1",
    )


def zero(query: Query) -> NDArray[np.float32]:
    """Nothing: its success rate is what a task gives away."""
    return np.zeros((OPEN_LOOP_STEPS, query.action_dim), np.float32)


def random(query: Query) -> NDArray[np.float32]:
    """Uniform within the bounds of an action, decided by the episode's seed and the step."""
    generator = np.random.default_rng([query.seed, query.step])
    low, high = query.action_bounds
    return generator.uniform(low, high, (OPEN_LOOP_STEPS, query.action_dim)).astype(np.float32)


def script(actions: NDArray[np.float32]) -> Act:
    """Actions (steps, action_dim) that are given for the whole episode."""
    return lambda query: actions[query.step : query.step + OPEN_LOOP_STEPS]

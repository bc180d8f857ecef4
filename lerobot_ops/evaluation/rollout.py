"""One episode on one worker: what is asked of the simulator, and the record that comes of it."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.errors import CheckpointError, SandboxError
from lerobot_ops.evaluation.actors import OPEN_LOOP_STEPS, Act, Query
from lerobot_ops.evaluation.pool import FIRST_TURN, Turn
from lerobot_ops.evaluation.records import Record
from lerobot_ops.evaluation.sandbox import Worker

Show = Callable[[NDArray[np.uint8]], None]


@dataclass(frozen=True)
class Episode:
    """An episode to play."""

    task: str
    number: int
    """Within the task, from 0."""
    seed: int
    limit: int
    """Steps after which it ends without success."""

    @property
    def key(self) -> tuple[str, int]:
        """What names it within an evaluation."""
        return self.task, self.number


@dataclass
class Progress:
    """What has happened in an episode so far."""

    episode: Episode
    turn: Turn = FIRST_TURN
    init_state: int | None = None
    observation: str = ""
    rewards: list[float] = field(default_factory=list)
    success: bool = False
    done: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> int:
        """Steps that may still be played."""
        return 0 if self.done else self.episode.limit - len(self.rewards)

    def add(self, rewards: list[float], success: bool, done: bool) -> None:
        """Count some steps; raises SandboxError for a reward that is no number."""
        if not rewards or not all(map(math.isfinite, rewards)):
            raise SandboxError("the simulator gave no usable reward", found=f"{self.episode.task}: {rewards}")
        self.rewards += rewards
        self.success, self.done = self.success or success, done or success

    def record(self, error: str | None = None) -> Record:
        """The episode's record."""
        return Record(
            task=self.episode.task,
            episode=self.episode.number,
            seed=self.episode.seed,
            init_state=self.init_state,
            success=self.success,
            error=error,
            steps=len(self.rewards),
            sum_reward=math.fsum(self.rewards),
            max_reward=max(self.rewards, default=0.0),
            observation=self.observation,
            seconds=round(time.perf_counter() - self.started, 4),
            worker=self.turn.slot,
            attempt=self.turn.attempt,
        )


def play(
    worker: Worker,
    episode: Episode,
    act: Act,
    *,
    cameras: list[str],
    last: int = 1,
    turn: Turn = FIRST_TURN,
    video: dict[str, int] | None = None,
    show: Show | None = None,
) -> Record:
    """Play an episode in which `act` decides.

    The worker gets every action that is executed before the next query, and renders `cameras` only for that query,
    which sees the observations after the `last` steps. With `video` ({"every": steps, "size": pixels}) it renders
    frames too, uint8 (n, size, size, 3), which `show` takes.
    """
    progress = Progress(episode, turn)
    reply = begin(worker, progress, cameras, last, video)
    instruction, action_dim, bounds = reply["instruction"], worker.info["action_dim"], worker.info["action_bounds"]
    while True:
        if show is not None and reply["frames"] is not None:
            show(reply["frames"])
        if not progress.left:
            return progress.record()
        step = len(progress.rewards)
        query = Query(reply["observation"], instruction, episode.number, episode.seed, step, action_dim, bounds)
        actions = act(query)[: progress.left]
        _check_actions(actions, action_dim)
        observe = cameras if len(actions) < progress.left else []  # nobody looks at the last observation
        reply = worker.request({"op": "step", "actions": actions, "observe": observe, "last": last, "video": video})
        progress.add(reply["rewards"], reply["success"], reply["done"])


def play_expert(worker: Worker, episode: Episode, turn: Turn = FIRST_TURN) -> tuple[Record, NDArray[np.float32]]:
    """Play an episode in which the benchmark's scripted expert decides: the record, the actions (steps, A)."""
    progress = Progress(episode, turn)
    begin(worker, progress)
    actions = []
    while progress.left:
        part = expert_steps(worker, progress, OPEN_LOOP_STEPS)
        actions.append(part["actions"])
    return progress.record(), np.concatenate(actions)


def begin(
    worker: Worker,
    progress: Progress,
    cameras: list[str] | None = None,
    last: int = 1,
    video: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Reset to the episode's first observation; the worker's answer."""
    episode, observe = progress.episode, cameras or []
    names = {"task": episode.task, "seed": episode.seed, "number": episode.number}
    reply = worker.request({"op": "reset", **names, "observe": observe, "last": last, "video": video})
    progress.init_state = reply["init_state"]
    progress.observation = _state_digest(reply["observation"], observe, last)
    return reply


def expert_steps(
    worker: Worker, progress: Progress, most: int, *, cameras: list[str] | None = None, noise: float = 0.0
) -> dict[str, Any]:
    """Let the expert play on for at most `most` steps; the worker's answer."""
    steps = min(most, progress.left)
    part = worker.request({"op": "expert", "steps": steps, "cameras": cameras or [], "noise": noise})
    progress.add(part["rewards"], any(part["successes"]), part["done"])
    return part


def _check_actions(actions: NDArray[np.float32], action_dim: int) -> None:
    """Refuse what no simulator can execute: the policy's fault, which a second attempt would not mend."""
    if not len(actions) or actions.shape[1:] != (action_dim,):
        raise CheckpointError(
            "the policy's actions do not fit the benchmark", found=actions.shape, expected=f"(1 or more, {action_dim})"
        )
    if not np.isfinite(actions).all():
        raise CheckpointError("the policy gave an action that is not finite", found=actions.tolist())


def _state_digest(observation: dict[str, NDArray[Any]], images: list[str], last: int) -> str:
    digest = hashlib.sha256()
    for key in sorted(set(observation) - set(images)):
        first = observation[key][0] if last > 1 else observation[key]
        digest.update(key.encode() + np.ascontiguousarray(first).tobytes())
    return digest.hexdigest()[:16]

"""A policy leads the robot."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np

from lerobot_ops.errors import ConfigError
from lerobot_ops.recording.frames import Layout
from lerobot_ops.recording.sources import Source
from lerobot_ops.robots.robot import Action, Observation

if TYPE_CHECKING:
    from lerobot_ops.policies.inference import PolicyRunner

_PATIENCE = 0.01
"""Seconds between two signs of life while a policy computes."""
_LATELY = 8
"""Answers of a policy by whose longest it is seen how long the next one takes, """
_MARGIN = 1.25
"""and so much more."""


class PolicyLeads(Source):
    """A policy's actions, a chunk at a time; it computes in a thread.

    The next chunk is asked for while the last one is carried out, as many ticks before its end as answers took lately,
    and the actions of it that are over by then are left out: the robot does not halt between chunks. A policy that
    answers at once, or that takes longer than half a chunk lasts, is asked at a chunk's end; the loop waits for it and
    shows that it is alive, while the robot holds its goal.
    """

    leader = "policy"

    def __init__(self, runner: "PolicyRunner", layout: Layout, fps: int, beat: Callable[[], None]) -> None:
        self._runner, self._layout, self._fps, self._beat = runner, layout, fps, beat
        self.task = ""
        self._episode = runner.episode()
        self._queue: deque[np.ndarray] = deque()
        self._window: deque[Mapping[str, np.ndarray]] = deque(maxlen=runner.last)
        self._thread = ThreadPoolExecutor(1, "policy")
        self._asked: Future[tuple[np.ndarray, float]] | None = None
        self._before = 0
        """Actions that were left when it was asked."""
        self._took: deque[float] = deque(maxlen=_LATELY)
        """Seconds of the last answers."""
        _check_inputs(runner, layout)

    def begin(self, observation: Observation) -> None:
        self._episode, self._asked = self._runner.episode(), None
        self._queue.clear()
        self._window.clear()

    def action(self, observation: Observation) -> Action:
        frame = self._layout.observation(observation)
        self._window.append({key: frame[key] for key in self._runner.observation_keys})
        if self._asked is None and len(self._queue) <= self._ahead():
            self._before = len(self._queue)
            self._asked = self._thread.submit(self._act, self._episode, list(self._window), self.task)
        if not self._queue:
            assert self._asked is not None
            answer, seconds = self._wait_for(self._asked)
            self._asked = None
            self._took.append(seconds)
            self._queue.extend(answer[self._before :])
        return self._layout.action(self._queue.popleft())

    def warm_up(self, observation: Observation) -> None:
        """Be asked twice for nothing: a first answer takes longer than the others, a second one shows how long."""
        for _ in range(2):
            self._took.clear()
            self.begin(observation)
            self.action(observation)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ahead(self) -> int:
        """Ticks before the end of a chunk at which the next one is asked for."""
        ticks = _MARGIN * max(self._took, default=0.0) * self._fps
        return math.ceil(ticks) if 0.5 < ticks <= self._runner.n_action_steps // 2 else 0

    def _act(
        self, episode: "PolicyRunner", window: list[Mapping[str, np.ndarray]], task: str
    ) -> tuple[np.ndarray, float]:
        """The actions, and the seconds that they took; runs in the thread."""
        began = time.perf_counter()
        seen = window[-1]
        if self._runner.last > 1:
            window = [window[0]] * (self._runner.last - len(window)) + window
            seen = {key: np.stack([moment[key] for moment in window]) for key in seen}
        answer = episode.act(seen, task)
        return answer, time.perf_counter() - began

    def _wait_for(self, future: Future[tuple[np.ndarray, float]]) -> tuple[np.ndarray, float]:
        while not wait([future], _PATIENCE).done:
            self._beat()
        return future.result()


def _check_inputs(runner: "PolicyRunner", layout: Layout) -> None:
    for key in runner.observation_keys:
        if key not in layout.features:
            raise ConfigError(
                "the policy reads what this robot does not see",
                field="policy.path",
                found=key,
                expected=", ".join(key for key in layout.features if key.startswith("observation")),
                fix="name the cameras as in the dataset that the policy was trained on",
            )

"""A sanity policy: the actions of a LeRobotDataset, played again.

Where recorded successes fail when they are replayed from the same beginnings, the benchmark is broken or not the one
that was recorded; no policy is to blame.
"""

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.tables import column_array, load_data, load_tasks
from lerobot_ops.errors import DatasetError, did_you_mean
from lerobot_ops.evaluation.actors import OPEN_LOOP_STEPS, Query
from lerobot_ops.processors.features import ACTION


class ReplayActor:
    """Episode i of a task plays the actions of the dataset's i-th episode with that instruction, then it is over."""

    last = together = 1
    apart = False

    def __init__(self, root: Path) -> None:
        self.observation_keys: list[str] = []
        self.cameras: list[str] = []
        self.facts: dict[str, Any] = {"type": "replay"}
        self._root = root
        self._stored = _actions_by_task(root)

    def steps(self, instruction: str, number: int) -> int | None:
        """How many actions are stored for an episode; raises DatasetError when there is none."""
        return len(self._actions(instruction, number))

    def episode(self) -> Any:
        return None

    def decide(self, asked: Sequence[tuple[Any, Query]]) -> list[NDArray[np.float32]]:
        return [
            self._actions(query.instruction, query.number)[query.step : query.step + OPEN_LOOP_STEPS]
            for _, query in asked
        ]

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _actions(self, instruction: str, number: int) -> NDArray[np.float32]:
        stored = self._stored.get(instruction)
        if stored is None:
            raise DatasetError(
                "the dataset has no episode of this task",
                file=self._root,
                field="task",
                found=instruction,
                fix=did_you_mean(instruction, self._stored),
            )
        if number >= len(stored):
            raise DatasetError(
                "the dataset has too few episodes of this task",
                file=self._root,
                field=instruction,
                found=len(stored),
                expected=f"{number + 1} or more",
                fix=f"--eval.n_episodes={len(stored)}",
            )
        return stored[number]


def _actions_by_task(root: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Instruction -> the actions (steps, A) of its episodes, in their order."""
    info, tasks = load_info(root), load_tasks(root)
    table = load_data(root, ["episode_index", "task_index", ACTION])
    actions = column_array(table[ACTION], info.features[ACTION]).astype(np.float32)
    episodes, task_indices = table["episode_index"].to_numpy(), table["task_index"].to_numpy()
    found: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    starts = np.flatnonzero(np.diff(episodes, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(episodes)], strict=True):
        found[tasks[task_indices[start]]].append(actions[start:stop])
    return dict(found)

"""What to evaluate, under LeRobot's flag names where it has them: `--env.task --policy.path --eval.n_episodes`."""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from lerobot_ops import envs
from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.sandbox import SandboxConfig

SANITY_POLICIES = ("expert", "zero", "random", "replay")


class EnvConfig(Config):
    """A benchmark and some of its tasks."""

    type: str = "metaworld"
    """Name of the benchmark."""
    task: str = ""
    """A task, a group of tasks (such as `easy`), or a comma-separated list of both; by default the benchmark's own."""
    task_ids: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Of every group only these tasks, by their position in it."""
    episode_length: int | None = Field(default=None, ge=1)
    """Steps after which an episode ends without success; by default the benchmark's own limit."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further options of the benchmark's environment; `--env.NAME` is short for `--env.options.NAME`."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        """The benchmark's default task, and its own options moved to where they belong."""
        if not isinstance(values, dict):
            return values
        name = str(values.get("type", "metaworld"))
        try:
            known = envs.benchmark(name)
        except ConfigError as error:
            raise ValueError(f"{error.problem}: {error.found}; {error.fix}") from error
        own = {name: values[name] for name in known.options if name in values and name not in cls.model_fields}
        rest = {name: value for name, value in values.items() if name not in own}
        rest["task"] = rest.get("task") or envs.default_task(name)
        return {**rest, "options": {**(rest.get("options") or {}), **own}}

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            self.groups()
        except ConfigError as error:  # as a ValueError it is reported together with what else is wrong
            raise ValueError(f"{error.problem}: {error.found}; {error.fix or error.expected}") from error
        return self

    def groups(self) -> dict[str, list[str]]:
        """The tasks that each part of `task` stands for, in the benchmark's order; only those of `task_ids`."""
        groups = envs.task_groups(self.type, self.task)
        if self.task_ids is None:
            return groups
        for group, members in groups.items():
            if (last := max(self.task_ids)) >= len(members):
                expected = f"0 to {len(members) - 1}"
                raise ConfigError(f"{group} has no task {last}", field="env.task_ids", found=last, expected=expected)
        return {
            group: [members[number] for number in dict.fromkeys(self.task_ids)] for group, members in groups.items()
        }

    def task_id(self, group: str, task: str) -> int:
        """The position of a task in its group, whichever others are selected; LeRobot's `task_id`."""
        return envs.task_groups(self.type, self.task)[group].index(task)

    def tasks(self) -> list[str]:
        """Every task once, in order."""
        return list(dict.fromkeys(task for members in self.groups().values() for task in members))

    def limit(self, task: str, max_steps: int) -> int:
        """Steps of an episode of `task`; `max_steps` is the limit that the benchmark's environment has for any task."""
        own = envs.benchmark(self.type).limits.get(task, max_steps)
        return min(own, self.episode_length or own)


class PolicySource(Config):
    """Where the policy comes from."""

    path: str = "expert"
    """A checkpoint folder (`…/pretrained_model`), a training's directory, or OWNER/NAME[@REVISION] on the Hub; or one
    that checks the benchmark itself: `expert`, `zero`, `random`, or `replay`, which plays the actions of `dataset`."""
    dataset: Path | None = None
    """A LeRobotDataset, for `replay`: its i-th episode with a task's instruction is played in the task's episode i."""
    device: str = "cpu"
    """Where the policy computes: cpu, cuda, cuda:1, mps."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path == "replay" and self.dataset is None:
            raise ValueError("replay plays the actions of a dataset; add --policy.dataset=FOLDER")
        if self.path != "replay" and self.dataset is not None:
            raise ValueError("a dataset is replayed with --policy.path=replay only")
        return self

    @property
    def is_sanity(self) -> bool:
        """Whether it is one of the policies that need no checkpoint."""
        return self.path in SANITY_POLICIES


class StopConfig(Config):
    """When an evaluation may stop before it has played all episodes; see `evaluation.sequential`."""

    bar: float | None = Field(default=None, gt=0, lt=100)
    """Stop as soon as `pc_success` is shown to be above, or below, this percentage."""
    baseline: Path | None = None
    """Stop as soon as the policy is shown to be better, or worse, than in this evaluation (its folder, or its
    records.jsonl) on the same episodes."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """How often the answer may be wrong."""

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.bar is not None and self.baseline is not None:
            raise ValueError("an evaluation stops at a bar or against a baseline, not for both")
        return self

    @property
    def is_set(self) -> bool:
        """Whether it may stop at all."""
        return self.bar is not None or self.baseline is not None


class EpisodesConfig(Config):
    """How many episodes, and how many at once."""

    n_episodes: int = Field(default=50, ge=1)
    """Episodes of each task."""
    batch_size: int = Field(default=0, ge=0)
    """Simulators that run at once; 0 for as many as cores and memory allow. The results do not depend on it."""
    policy_batch: int = Field(default=0, ge=0)
    """Rows of every batch of the policy, empty ones included, so that an action's bits do not depend on how many
    episodes ask at once; they do depend on this number. 0 is 1 on the CPU and 8 elsewhere."""
    stop: StopConfig = StopConfig()
    """When fewer episodes are enough."""


class ClipsConfig(Config):
    """Videos of the first failures and successes of each task, made by replaying them."""

    enable: bool = True
    """Make clips; they need a benchmark that can render."""
    per_outcome: int = Field(default=1, ge=1)
    """Clips of failures, and as many of successes, for each task."""
    max_tasks: int = Field(default=10, ge=1)
    """Failures of so many tasks, the first that have any, and successes of so many."""
    fps: int = Field(default=20, ge=1)
    """About how many frames per second; rendered frames are what a clip costs. It takes as long as the simulated time,
    so the rate is one that divides the simulation's."""
    size: int = Field(default=320, ge=64, multiple_of=2)
    """Width and height in pixels."""


class EvalConfig(Config):
    """A measurement of one policy on one benchmark."""

    env: EnvConfig = EnvConfig()
    policy: PolicySource = PolicySource()
    """What is measured."""
    rename_map: dict[str, str] | None = None
    """Names of the benchmark's observations, each with the policy's name; none takes those of the checkpoint."""
    eval: EpisodesConfig = EpisodesConfig()
    seed: int = Field(default=1000, ge=0)
    """Episode i of every task is reset with seed + i."""
    shard: str | None = Field(default=None, pattern=r"^[1-9][0-9]*/[1-9][0-9]*$")
    """Play only the i-th of n parts of the episodes, as "i/n", from 1/n to n/n; see `evaluation.shards`."""
    output_dir: Path | None = None
    """Where the results go; by default a folder of `outputs/eval` that is named by the evaluation's content."""
    clips: ClipsConfig = ClipsConfig()
    sandbox: SandboxConfig = SandboxConfig()

    @model_validator(mode="after")
    def _a_part(self) -> Self:
        if self.shard is not None:
            if self.eval.stop.is_set:
                raise ValueError(
                    "a shard does not see the others' episodes, so it cannot stop; drop shard or eval.stop"
                )
            part, parts = map(int, self.shard.split("/"))
            count = len(self.env.tasks()) * self.eval.n_episodes
            if not part <= parts <= count:
                raise ValueError(
                    f"shard {self.shard} is none: {count} episodes make 1 to {count} shards, from 1/n to n/n"
                )
        return self

    def episodes(self) -> list[tuple[str, int]]:
        """(task, number within it) of every episode to play: all, or those of the shard."""
        every = [(task, number) for task in self.env.tasks() for number in range(self.eval.n_episodes)]
        if self.shard is None:
            return every
        part, parts = map(int, self.shard.split("/"))
        return every[(part - 1) * len(every) // parts : part * len(every) // parts]


def simulators(requested: int, jobs: int) -> int:
    """How many workers to run: `requested`, or one per core that this process may use, and never more than `jobs`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(requested or cores, jobs))

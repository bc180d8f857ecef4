"""What to evaluate, under LeRobot's flag names where it has them: `--env.task --policy.path --eval.n_episodes`."""

import os
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from lerobot_ops import envs
from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.sandbox import SandboxConfig

SANITY_POLICIES = ("expert", "zero", "random")


class EnvConfig(Config):
    """A benchmark and some of its tasks."""

    type: str = "metaworld"
    """Name of the benchmark."""
    task: str = "button-press-topdown-v3"
    """A task, a group of tasks (such as `easy`), or a comma-separated list of both."""
    episode_length: int | None = Field(default=None, ge=1)
    """Steps after which an episode ends without success; by default the benchmark's own limit."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further options of the benchmark's environment."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            self.groups()
        except ConfigError as error:  # as a ValueError it is reported together with what else is wrong
            raise ValueError(f"{error.problem}: {error.found}; {error.fix or error.expected}") from error
        return self

    def groups(self) -> dict[str, list[str]]:
        """The tasks that each part of `task` stands for, in the benchmark's order."""
        return envs.task_groups(self.type, self.task)

    def tasks(self) -> list[str]:
        """Every task once, in order."""
        return list(dict.fromkeys(task for members in self.groups().values() for task in members))

    def limit(self, max_steps: int) -> int:
        """Steps of an episode, for a benchmark whose own limit is `max_steps`."""
        return min(max_steps, self.episode_length or max_steps)


class PolicySource(Config):
    """Where the policy comes from."""

    path: str = "expert"
    """A checkpoint folder (`…/pretrained_model`); or `expert`, `zero` or `random`, which check the benchmark itself."""
    device: str = "cpu"
    """Where the policy computes: cpu, cuda, cuda:1, mps."""

    @property
    def is_sanity(self) -> bool:
        """Whether it is one of the policies that need no checkpoint."""
        return self.path in SANITY_POLICIES


class EpisodesConfig(Config):
    """How many episodes, and how many at once."""

    n_episodes: int = Field(default=50, ge=1)
    """Episodes of each task."""
    batch_size: int = Field(default=0, ge=0)
    """Simulators that run at once; 0 for one per processor core. The results do not depend on it."""


class ClipsConfig(Config):
    """Videos of the first successes and failures of each task, made by replaying them."""

    enable: bool = True
    """Make clips; they need a benchmark that can render."""
    per_outcome: int = Field(default=1, ge=1)
    """Clips of successes, and as many of failures, for each task."""
    max_tasks: int = Field(default=10, ge=1)
    """Only the first tasks get clips."""
    fps: int = Field(default=20, ge=1)
    """Frames per second, in real time; rendered frames are what a clip costs."""
    size: int = Field(default=320, ge=64, multiple_of=2)
    """Width and height in pixels."""


class EvalConfig(Config):
    """A measurement of one policy on one benchmark."""

    env: EnvConfig = EnvConfig()
    policy: PolicySource = PolicySource()
    """What is measured."""
    eval: EpisodesConfig = EpisodesConfig()
    seed: int = Field(default=1000, ge=0)
    """Episode i of every task is reset with seed + i."""
    output_dir: Path | None = None
    """Where the results go; by default a folder of `outputs/eval` that is named by the evaluation's content."""
    clips: ClipsConfig = ClipsConfig()
    sandbox: SandboxConfig = SandboxConfig()


def simulators(requested: int, jobs: int) -> int:
    """How many workers to run: `requested`, or one per core that this process may use, and never more than `jobs`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(requested or cores, jobs))

"""What every step of a pipeline shares: its key, its place in the workspace, and the artifact that it leaves.

A step's key is made of its task's name and version, its configuration and the digests of its inputs. The key names the
output directory, so a crashed run finds what it had begun, and it is the key of Prefect's result cache, so a run with
nothing changed does no work. Paths, run ids and clocks are no part of it.
"""

import contextlib
import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from prefect import Task, runtime
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.states import State
from prefect.task_runners import TaskRunner
from pydantic import BaseModel

from lerobot_ops.config import Config, content_key
from lerobot_ops.errors import OpsError, SandboxError
from lerobot_ops.tracking import TrackingConfig
from lerobot_ops.versioning.digest import digest

OURS = ("lerobot_ops", "tasks")
"""The loggers of our modules."""
WORKSPACE = Path("outputs")
"""Where flows leave what they make, below the directory that they run in."""


class Artifact(Config):
    """A finished output: where it is, which version it is, and the step that made it."""

    kind: Literal["dataset", "checkpoint", "evaluation", "report", "file"]
    name: str
    path: Path
    """Relative to the directory that the flow runs in."""
    digest: str
    """The version: DVC's digest of the content."""
    key: str = ""
    """The key of the step that made it; empty for what was brought from elsewhere."""
    files: int
    size: int
    """Bytes in all files."""
    facts: dict[str, Any] = {}
    """A few numbers for tables and reports."""

    @classmethod
    def at(
        cls, path: Path, kind: Any, name: str = "", key: str = "", facts: dict[str, Any] | None = None
    ) -> "Artifact":
        """The artifact that lies at `path`; reads all of it to name its version."""
        files, size = _extent(path)
        return cls(
            kind=kind,
            name=name or path.name,
            path=path,
            digest=digest(path),
            key=key,
            files=files,
            size=size,
            facts=facts or {},
        )

    @property
    def intact(self) -> bool:
        """Whether all its files are still there, by count and size."""
        return self.path.exists() and _extent(self.path) == (self.files, self.size)

    @property
    def version(self) -> str:
        """The digest as people read it: its first 8 digits."""
        return self.digest[:8]

    @property
    def about(self) -> dict[str, Any]:
        """What a page about it shows."""
        return {"version": self.digest, "path": self.path, "size": f"{self.size / 1e6:.1f} MB", **self.facts}

    def __str__(self) -> str:
        return f"{self.kind} {self.name}, version {self.version}, {self.path}"


class Product(Protocol):
    """What a step returns: it can say whether it still stands, and what it is."""

    @property
    def intact(self) -> bool:
        """Whether what the step made is still as it was left."""
        ...


R = TypeVar("R", bound=Product)


class Links(Config):
    """Where a step's run is recorded; no part of its key."""

    tracking: TrackingConfig = TrackingConfig()
    parent_run: str | None = None
    """The MLflow run that the step's own run belongs to."""
    model: str | None = None
    """The registered model that a trained checkpoint becomes a version of."""
    tags: dict[str, str] = {}


class Share(Config):
    """What a step may use of its machine; no part of its key, since no result depends on it."""

    simulators: int = 0
    """That run at once; 0 for what the step's own configuration says."""


UNKEYED = (Links, Share)
"""Parameters that are no part of a step's key."""


def provenance() -> dict[str, str]:
    """Tags that lead from a run in MLflow back to the flow run and the code."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"prefect.flow_run_id": str(runtime.flow_run.id or ""), "git.commit": commit or "not in a git repository"}


def step_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """The cache key of a task call; Prefect calls it before it runs the task."""
    inputs = {name: _identity(value) for name, value in parameters.items() if not isinstance(value, UNKEYED)}
    return content_key(context.task.name, context.task.version, inputs)


CACHED: dict[str, Any] = {"cache_key_fn": step_key, "persist_result": True, "result_serializer": "json"}
"""The options of a task whose result is kept across runs; JSON, since a pickle would run code when it is read."""


def may_pass(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether a failure can go away by itself: a device's, a simulator's or the engine's can, the user's cannot."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, SandboxError) or not isinstance(error, OpsError)


def current_key() -> str:
    """The key of the task that is running."""
    context = TaskRunContext.get()
    if context is None:
        raise RuntimeError("a step's key exists only while its task runs")
    return step_key(context, context.parameters)


def place(room: str, name: str, key: str) -> Path:
    """Where the output of the step with this key belongs."""
    return WORKSPACE / room / name / key[:12]


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """While a task works, have what our modules warn of in the task run's log, and on the terminal once."""
    handler = _ToRun(get_run_logger())
    before = {logger: logger.propagate for logger in map(logging.getLogger, OURS)}
    for logger in before:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in before.items():
            logger.removeHandler(handler)
            logger.propagate = propagate


class _ToRun(logging.Handler):
    """Passes records on to the logger of a run."""

    def __init__(self, run: "logging.Logger | logging.LoggerAdapter[Any]") -> None:
        super().__init__(logging.WARNING)
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        self._run.log(record.levelno, record.getMessage())


def run_step(task: Task[..., R], *, label: str | None = None, **inputs: Any) -> R:
    """Run a step, or say that it is up to date; a result whose files are gone or changed is made again."""
    label = label or task.name
    state = task.with_options(task_run_name=label)(**inputs, return_state=True)
    return _settled(task, state, label, inputs)


def submit_step(
    runner: "TaskRunner[Any]", task: Task[..., R], *, label: str | None = None, **inputs: Any
) -> Callable[[], R]:
    """Run a step beside others; what comes back waits for it and gives its result, or raises what it raised."""
    label = label or task.name
    future = runner.submit(task.with_options(task_run_name=label), inputs)

    def settle() -> R:
        future.wait()
        if not future.state.is_final():
            future.result()  # the runner lost it, and says why
        return _settled(task, future.state, label, inputs)

    return settle


def _settled(task: Task[..., R], state: State[Any], label: str, inputs: dict[str, Any]) -> R:
    logger = get_run_logger()
    result: R = state.result()
    cached = state.name == "Cached"
    if cached and not result.intact:
        logger.warning("%s: %s is not as it was left; making it again", label, result)
        if isinstance(result, Artifact):
            shutil.rmtree(result.path, ignore_errors=True)
        result = task.with_options(task_run_name=label, refresh_cache=True)(**inputs)
        cached = False
    logger.info("%s: %s (%s)", label, "up to date" if cached else "done", result)
    return result


def slug(name: str) -> str:
    """`name` as Prefect takes it for the key of a page: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _identity(value: Any) -> Any:
    """What a parameter contributes to a key: content, never a place."""
    if isinstance(value, Artifact):
        return value.digest
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_identity(item) for item in value]
    return value


def _extent(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return len(files), sum(file.stat().st_size for file in files)

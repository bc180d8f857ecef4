"""Sandboxes: where a benchmark's workers run. `open_sandbox` prepares one, `spawn` starts a worker in it."""

from collections.abc import Mapping
from typing import Any, Protocol

from lerobot_ops import envs
from lerobot_ops.errors import ConfigError, PrerequisiteError, SandboxError
from lerobot_ops.evaluation.sandbox.config import SandboxConfig
from lerobot_ops.evaluation.sandbox.worker import Worker, WorkerDied, WorkerFailed, WorkerTimeout

__all__ = ["Sandbox", "SandboxConfig", "Worker", "WorkerDied", "WorkerFailed", "WorkerTimeout", "open_sandbox"]


class Sandbox(Protocol):
    """A place that is ready to run workers of one benchmark."""

    kind: str
    """"docker", "venv" or "process"."""
    identity: str
    """What it holds, exactly: an image's digest, or the digest of the requirements and the worker's sources."""
    recipe: str
    """What decides the results of its workers, equal on every machine: the digest of what it is made from."""
    image: str | None
    """The digest of the image that it runs, for the record: two builds of one recipe differ in it."""
    reason: str
    """Why it is this kind."""

    def spawn(self, hello: dict[str, Any]) -> Worker:
        """Start one worker: {"cameras": keys that will be asked for, "options": of the environment, "video": bool}."""


def open_sandbox(benchmark: str, config: SandboxConfig, options: Mapping[str, Any] | None = None) -> Sandbox:
    """Prepare the sandbox of a benchmark; the first time this builds it, after that it takes well under a second.

    `options` are those of the environment: for one from the Hub they say what the sandbox holds.
    """
    if envs.benchmark(benchmark).untrusted:
        return _contained(benchmark, config, options)
    if config.type == "process":
        from lerobot_ops.evaluation.sandbox.process import ProcessSandbox

        return ProcessSandbox(benchmark, config, "sandbox.type is process")
    if config.type == "venv":
        return _venv(benchmark, config, "sandbox.type is venv")
    from lerobot_ops.evaluation.sandbox.docker import DockerSandbox

    if config.type == "docker":
        return DockerSandbox(benchmark, config, "sandbox.type is docker")
    try:
        return DockerSandbox(benchmark, config, "a Docker engine answers")
    except (PrerequisiteError, SandboxError) as error:
        return _venv(
            benchmark, config, f"no container, because {error.problem}; a virtual environment does not isolate"
        )


def _contained(benchmark: str, config: SandboxConfig, options: Mapping[str, Any] | None) -> Sandbox:
    """A container, or an error: nothing else keeps code that nobody vouches for away from this machine."""
    from lerobot_ops.evaluation.sandbox.docker import DockerSandbox

    if config.type in ("process", "venv"):
        raise ConfigError(
            f"{benchmark} runs code from a repository, which runs in a container only",
            field="sandbox.type",
            found=config.type,
            expected="docker",
        )
    return DockerSandbox(benchmark, config, "code from a repository runs in a container only", options)


def _venv(benchmark: str, config: SandboxConfig, reason: str) -> Sandbox:
    from lerobot_ops.evaluation.sandbox.venv import VenvSandbox

    return VenvSandbox(benchmark, config, reason)

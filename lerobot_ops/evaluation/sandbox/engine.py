"""The Docker engine: how to reach it, and what to say when nobody answers."""

import os
from typing import TYPE_CHECKING

from lerobot_ops.errors import PrerequisiteError

if TYPE_CHECKING:
    import docker

LABEL = "lerobot-ops"
"""Every container and image of ours carries it; its value is the benchmark."""


def connect(timeout_s: int = 60) -> "docker.DockerClient":
    """A client of the engine that DOCKER_HOST names, else of the local one.

    Raises PrerequisiteError when none answers.
    """
    import docker
    import requests

    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        client = docker.DockerClient.from_env(timeout=timeout_s, max_pool_size=64)
        client.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise PrerequisiteError(
            "no Docker engine answers",
            field="DOCKER_HOST",
            found=f"{address}: {reason(error)}",
            fix="start one (sudo systemctl start docker, or sudo service docker start), or use --sandbox.type=venv",
        ) from error
    return client


def reason(error: Exception) -> str:
    """What an engine's error comes to, in a few words."""
    text = str(getattr(error, "explanation", None) or error)
    if "Permission denied" in text or "PermissionError" in text:
        return "permission denied (is this user in the group docker?)"
    if "FileNotFoundError" in text or "No such file" in text:
        return "no such socket"
    if "Connection refused" in text or "ConnectionRefusedError" in text:
        return "connection refused"
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= 300 else f"{line[:120]} … {line[-180:]}"  # what a runtime says last is why

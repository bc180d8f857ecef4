"""How isolated a benchmark runs, and what it may use."""

from typing import Literal

from pydantic import Field

from lerobot_ops.config import Config


class SandboxConfig(Config):
    """Where a benchmark's workers run."""

    type: Literal["auto", "docker", "venv", "process"] = "auto"
    """docker: a hardened container. venv: a virtual environment of its own, which keeps dependencies apart but does
    not isolate. process: this interpreter. auto: docker where an engine answers and the image can be had, else venv."""
    image: str | None = None
    """A container image to use instead of the one that is built here, best by digest: name@sha256:…"""
    memory_gb: float = Field(default=4.0, ge=0.05)
    """Memory of one worker; enforced in docker."""
    cpus: float = Field(default=1.0, gt=0)
    """Cores of one worker; enforced in docker."""
    max_hours: float = Field(default=24.0, gt=0)
    """The longest that a container may live, whatever becomes of the process that started it."""
    start_timeout_s: float = Field(default=120.0, gt=0)
    """How long a worker may take to start and render its first frame."""
    step_timeout_s: float = Field(default=120.0, gt=0)
    """How long a worker may take to answer one request, unless the request brings its own limit."""
    gl: Literal["auto", "egl", "osmesa"] = "auto"
    """The OpenGL library that renders cameras. auto: EGL (a GPU or llvmpipe), else OSMesa."""
    gpus: str = Field(default="auto", pattern=r"^(auto|none|all|\d+(,\d+)*)$")
    """The NVIDIA GPUs that render: none; all, of which each worker takes the first; or numbers such as 0,1, which take
    turns among workers. auto: all where the Docker engine has NVIDIA's runtime. Without one the CPU renders."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the containers, such as the run that they belong to."""

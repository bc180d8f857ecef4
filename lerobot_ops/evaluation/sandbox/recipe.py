"""What a sandbox is made of: exact requirements, the guest's own source files, and the recipe of its image."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lerobot_ops
from lerobot_ops import envs
from lerobot_ops.errors import ConfigError, SandboxError

_PACKAGE = Path(lerobot_ops.__file__).parent
_GUEST = (
    "__init__.py",
    "errors.py",
    "envs/*.py",
    "evaluation/__init__.py",
    "evaluation/protocol.py",
    "evaluation/worker.py",
)


@dataclass(frozen=True)
class Recipe:
    """What makes the sandbox of one benchmark; equal `digest`, equal sandbox."""

    benchmark: str
    requirements: bytes
    dockerfile: bytes
    guest: dict[str, bytes]
    """Source files of the worker by their path under the directory that Python searches."""

    @property
    def digest(self) -> str:
        """64 digits that name the requirements, the image's recipe and the guest's sources."""
        total = hashlib.sha256()
        for name, content in sorted(
            {"requirements": self.requirements, "image": self.dockerfile, **self.guest}.items()
        ):
            total.update(f"{name}\0{len(content)}\0".encode() + content)
        return total.hexdigest()


def recipe(benchmark: str) -> Recipe:
    """The recipe of a benchmark that has one; raises ConfigError for one that can only run in this interpreter."""
    envs.benchmark(benchmark)
    folder = docker_folder()
    requirements, dockerfile = folder / "requirements" / f"{benchmark}.txt", folder / f"{benchmark}.Dockerfile"
    if not requirements.is_file() or not dockerfile.is_file():
        raise ConfigError(
            f"{benchmark} has no sandbox of its own: it was installed by a third party",
            file=dockerfile,
            field="sandbox.type",
            fix="--sandbox.type=process",
        )
    files = sorted(path for pattern in _GUEST for path in _PACKAGE.glob(pattern))
    guest = {path.relative_to(_PACKAGE.parent).as_posix(): path.read_bytes() for path in files}
    return Recipe(benchmark, requirements.read_bytes(), dockerfile.read_bytes(), guest)


def docker_folder() -> Path:
    """Where Dockerfiles and requirements lie: in the package when it is installed, else in the repository."""
    installed = _PACKAGE / "_docker"
    return installed if installed.is_dir() else _PACKAGE.parent / "docker"


def cache_folder() -> Path:
    """Where sandboxes are kept between runs: $XDG_CACHE_HOME/lerobot-ops, by default ~/.cache/lerobot-ops."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "lerobot-ops"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SandboxError(
            f"the cache cannot be written: {error.strerror}", file=folder, fix="set XDG_CACHE_HOME to a folder of yours"
        ) from error
    return folder


@contextlib.contextmanager
def building(name: str) -> Iterator[None]:
    """Let one process at a time build what `name` names; the kernel lets go when the process dies."""
    with open(cache_folder() / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

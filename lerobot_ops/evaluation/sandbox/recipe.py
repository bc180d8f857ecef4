"""What a sandbox is made of: exact requirements, what prepares them, the guest's own source files, and its image."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lerobot_ops
from lerobot_ops import envs
from lerobot_ops.errors import ConfigError, SandboxError
from lerobot_ops.evaluation.sandbox import guest, hub_recipe

_PACKAGE = Path(lerobot_ops.__file__).parent


@dataclass(frozen=True)
class Recipe:
    """What makes the sandbox of one benchmark; equal `digest`, equal sandbox, on every machine."""

    benchmark: str
    requirements: bytes
    dockerfile: bytes
    guest: dict[str, bytes]
    """Source files of the worker by their path under the directory that Python searches."""
    extra: dict[str, bytes] = field(default_factory=dict)
    """Files beside the requirements by their name. `prepare.py` is run once by the sandbox's own Python, in the folder
    that holds them all, after the requirements were installed."""
    shared: dict[str, bytes] = field(default_factory=dict)
    """How every image begins and ends: Dockerfile.base, install.sh, Dockerfile.worker."""
    source: str = ""
    """The repository, commit and file that an environment of the Hub comes from."""
    prefix: str = ""
    """Where the Dockerfile finds `extra`: "docker/NAME/" for a benchmark of ours, which is built in the repository."""

    @property
    def digest(self) -> str:
        """64 digits that name all of it."""
        worker = {"worker": self.shared.get("Dockerfile.worker", b""), **_under("guest", self.guest)}
        return digest_of({"requirements": self.requirements_digest.encode(), **worker})

    @property
    def name(self) -> str:
        """What decides the results of its workers, for the record: the digest, and where it comes from."""
        return f"{self.source} {self.digest}".strip()

    @property
    def requirements_digest(self) -> str:
        """64 digits that name what the worker's own layer stands on."""
        own = {"requirements": self.requirements, "image": self.dockerfile, "base": self.base_digest.encode()}
        return digest_of({**own, "install": self.shared.get("install.sh", b""), **_under("extra", self.extra)})

    @property
    def environment_digest(self) -> str:
        """64 digits that name what a virtual environment is made from."""
        return digest_of({"requirements": self.requirements, **_under("extra", self.extra)})

    @property
    def base_digest(self) -> str:
        """64 digits that name the base, which benchmarks share."""
        return digest_of({"Dockerfile.base": self.shared.get("Dockerfile.base", b"")})


def recipe(benchmark: str, options: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a benchmark; `options` of its environment decide it for one from the Hub.

    Raises ConfigError for one that can only run in this interpreter.
    """
    known = envs.benchmark(benchmark)
    folder = docker_folder()
    shared = {name: (folder / name).read_bytes() for name in ("Dockerfile.base", "install.sh", "Dockerfile.worker")}
    sources = guest.sources(benchmark)
    if known.recipe:
        brought = guest.package_folder(benchmark) / known.recipe
        files = guest.files_of(brought)
        if "requirements.txt" not in files:
            raise _no_recipe(benchmark, brought / "requirements.txt")
        requirements = files.pop("requirements.txt")
        dockerfile = files.pop("Dockerfile", None) or (folder / "Dockerfile.requirements").read_bytes()
        return Recipe(benchmark, requirements, dockerfile, sources, files, shared)
    listed, image = folder / "requirements" / f"{benchmark}.txt", folder / f"Dockerfile.{benchmark}"
    if not listed.is_file() or not image.is_file():
        raise _no_recipe(benchmark, image)
    extra = guest.files_of(folder / benchmark)
    own = Recipe(
        benchmark, listed.read_bytes(), image.read_bytes(), sources, extra, shared, prefix=f"docker/{benchmark}/"
    )
    if not known.untrusted:
        return own
    source, files, asked = hub_recipe.repository_parts(options or {})
    return replace(own, source=source, guest={**own.guest, **files}, extra={**own.extra, "repository.txt": asked})


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


def digest_of(files: Mapping[str, bytes]) -> str:
    """64 digits that name files with their names."""
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def _under(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def _no_recipe(benchmark: str, file: Path) -> ConfigError:
    return ConfigError(
        f"{benchmark} has no sandbox of its own: its package brings no recipe",
        file=file,
        field="sandbox.type",
        fix="--sandbox.type=process, or a recipe (docs/adding-a-benchmark.md)",
    )

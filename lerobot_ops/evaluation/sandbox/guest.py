"""The files that run inside a sandbox: the worker, the benchmark's module and, for a third party's, its package."""

import importlib
import importlib.metadata
from pathlib import Path

import lerobot_ops
from lerobot_ops import envs
from lerobot_ops.errors import ConfigError

_PACKAGE = Path(lerobot_ops.__file__).parent
_OURS = (
    "__init__.py",
    "errors.py",
    "envs/*.py",
    "evaluation/__init__.py",
    "evaluation/protocol.py",
    "evaluation/worker.py",
)
_MOST_BYTES = 256 << 20


def sources(benchmark: str) -> dict[str, bytes]:
    """Every file by its path under the directory that Python searches; no module of another benchmark of ours."""
    others = set(envs.BUILT_IN) - {benchmark}
    found = [path for pattern in _OURS for path in sorted(_PACKAGE.glob(pattern))]
    ours = {
        path.relative_to(_PACKAGE.parent).as_posix(): path.read_bytes()
        for path in found
        if not (path.parent.name == "envs" and _belongs_to(path.stem, others))
    }
    return ours if benchmark in envs.BUILT_IN else {**ours, **_third_party(benchmark)}


def package_folder(benchmark: str) -> Path:
    """The folder of the package that brings a benchmark; raises ConfigError when it is a single module."""
    entry = _entry(benchmark)
    found = importlib.import_module(entry.module.partition(".")[0]).__file__
    path = Path(found or "")
    if path.name != "__init__.py":
        raise ConfigError(
            "a benchmark that brings a recipe must be a package: a folder with __init__.py",
            file=path,
            field=f"entry point {entry.name}",
            found=entry.value,
        )
    return path.parent


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its path in it, but for bytecode; none when the folder is not there."""
    found: dict[str, bytes] = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        total += path.stat().st_size
        if total > _MOST_BYTES:
            raise ConfigError(
                f"a sandbox's files are more than {_MOST_BYTES >> 20} MiB",
                file=folder,
                fix="install large files as a package of the recipe's requirements, or fetch them in its Dockerfile",
            )
        found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def _third_party(benchmark: str) -> dict[str, bytes]:
    """The package of a benchmark, and the entry point by which the worker finds it."""
    entry = _entry(benchmark)
    top = entry.module.partition(".")[0]
    module = Path(importlib.import_module(top).__file__ or "")
    if module.name == "__init__.py":
        files = {f"{top}/{name}": content for name, content in files_of(module.parent).items()}
    else:
        files = {module.name: module.read_bytes()}
    name, version = (entry.dist.name, entry.dist.version) if entry.dist else (top.replace("_", "-"), "0")
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{info}/entry_points.txt"] = f"[{envs.GROUP}]\n{entry.name} = {entry.value}\n".encode()
    return files


def _entry(benchmark: str) -> importlib.metadata.EntryPoint:
    return next(iter(importlib.metadata.entry_points(group=envs.GROUP, name=benchmark)))


def _belongs_to(module: str, benchmarks: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}_") for name in benchmarks)

"""Versions in DVC: a pointer file that git keeps, and the content in DVC's cache and remote.

DVC runs as its own program: its Python interface is undocumented and its import is heavy. A path that a stage of
`dvc.yaml` produces has its pointer in `dvc.lock`; any other path gets `<path>.dvc` beside it.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lerobot_ops.errors import ArtifactError, PrerequisiteError
from lerobot_ops.versioning.digest import digest


@dataclass(frozen=True)
class Version:
    """One version of a file or folder."""

    digest: str
    """DVC's digest: 32 hexadecimal digits, with `.dir` for a folder."""
    pointer: Path
    """The file to commit to git; with it `restore` brings the content back."""


def version(paths: Sequence[Path], *, push: bool = True) -> dict[Path, Version]:
    """Put finished files or folders under DVC and, with `push`, into the default remote.

    Raises PrerequisiteError outside a git repository with DVC or without a remote to push to, and ArtifactError when
    DVC refuses a path or gives it another digest than we do.
    """
    if not paths:
        return {}
    root = repository(paths[0])
    expected = {path: digest(path) for path in paths}
    versions = {path: _add(root, path, expected[path]) for path in paths}
    if push:
        if not _run(root, "remote", "list").strip():
            raise PrerequisiteError(
                "DVC has no remote to push to",
                file=root,
                fix="dvc remote add --default store ../dvc-store (any folder, s3://, gs:// or ssh:// address)",
            )
        _run(root, "push", *(_target(root, path, versions[path]) for path in paths))
    return versions


def restore(path: Path) -> Version:
    """Make `path` what its pointer says, from DVC's cache or else from the remote; local changes are lost.

    To go back in time, restore the pointer with git first: `git checkout COMMIT -- PATH.dvc`. Raises ArtifactError when
    neither holds the content.
    """
    root = repository(path)
    pointer = _pointer(root, path)
    recorded = _recorded(root, pointer, path)
    target = _target(root, path, Version(recorded, pointer))
    if _attempt(root, "checkout", "--force", target).returncode or not path.exists():
        _run(root, "pull", "--force", target)
    return _checked(path, recorded, pointer)


def repository(path: Path) -> Path:
    """The root of the git repository with DVC that holds `path`; PrerequisiteError, with the commands, if none does."""
    if importlib.util.find_spec("dvc") is None:
        raise PrerequisiteError("DVC is not installed", fix="pip install 'dvc>=3.67,<4'")
    path = Path(os.path.abspath(path))
    root = next((folder for folder in path.parents if (folder / ".dvc").is_dir()), None)
    if root is not None:
        return root
    git = next((folder for folder in path.parents if (folder / ".git").exists()), None)
    raise PrerequisiteError(
        "versions are kept in a git repository with DVC, and this path is in none",
        file=path,
        fix=f"cd {git or path.parent} && {'' if git else 'git init && '}dvc init",
    )


def _add(root: Path, path: Path, expected: str) -> Version:
    relative = _relative(root, path)
    added = _attempt(root, "add", relative)
    if added.returncode and "overlaps with an output of stage" in added.stderr:  # `dvc repro` makes this path as well
        _run(root, "commit", "--force", relative)
    elif added.returncode:
        raise _refused(path, added)
    pointer = _pointer(root, path)
    recorded = _recorded(root, pointer, path)
    if recorded != expected:
        raise ArtifactError(
            "DVC gave this path another digest",
            file=path,
            found=recorded,
            expected=expected,
            fix="check that nothing writes to it and that .dvcignore leaves out none of its files",
        )
    return Version(recorded, pointer)


def _checked(path: Path, recorded: str, pointer: Path) -> Version:
    found = digest(path)
    if found != recorded:
        raise ArtifactError("DVC restored something else", file=path, found=found, expected=recorded)
    return Version(found, pointer)


def _pointer(root: Path, path: Path) -> Path:
    pointer = Path(f"{os.path.abspath(path)}.dvc")
    return pointer if pointer.is_file() else root / "dvc.lock"


def _recorded(root: Path, pointer: Path, path: Path) -> str:
    """The digest of `path` in a `.dvc` file or in `dvc.lock`."""
    content = yaml.safe_load(pointer.read_text(encoding="utf-8")) if pointer.is_file() else {}
    stages = [content] if pointer.suffix == ".dvc" else (content.get("stages") or {}).values()
    relative = Path(os.path.abspath(path)).name if pointer.suffix == ".dvc" else _relative(root, path)
    for stage in stages:
        for output in stage.get("outs", []):
            if os.path.normpath(output["path"]) == relative and "md5" in output:
                return str(output["md5"])
    raise ArtifactError(
        "this path has no version yet",
        file=path,
        expected=f"an entry in {path}.dvc or dvc.lock",
        fix="version it first",
    )


def _target(root: Path, path: Path, version: Version) -> str:
    return _relative(root, version.pointer if version.pointer.suffix == ".dvc" else path)


def _relative(root: Path, path: Path) -> str:
    absolute = Path(os.path.abspath(path))
    if not absolute.is_relative_to(root):
        raise ArtifactError("paths of one call belong to one repository", file=path, expected=f"a path below {root}")
    return absolute.relative_to(root).as_posix()


def _run(root: Path, *arguments: str) -> str:
    done = _attempt(root, *arguments)
    if done.returncode:
        raise _refused(root, done)
    return done.stdout


def _attempt(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_CHECK_UPDATE": "0", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def _refused(file: Path, done: subprocess.CompletedProcess[str]) -> ArtifactError:
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    problem = next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")), "it gave no reason")
    command = " ".join(["dvc", *done.args[4:]])
    return ArtifactError(f"`{command}` failed: {problem}", file=file, fix=f"run `{command}` by hand to see all it says")

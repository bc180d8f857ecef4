"""The recipe of an environment from the Hub: a repository's files, fetched by commit, none of which runs here."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.sandbox import guest
from lerobot_ops.hub.fetch import fetch

_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<file>.+))?")
# A package by its name, extras, versions and condition. No address, no option of pip, no other file.
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*\s*(\[[\w\s,.-]*\])?\s*(([=<>!~]=|[<>]|===)[\w\s.*+!,=<>~-]+)?(;[^@#]*)?")


def repository_parts(options: Mapping[str, Any]) -> tuple[str, dict[str, bytes], bytes]:
    """What a repository adds to a sandbox: its name with its commit, files for the guest, and its requirements.

    `options["repo"]` is OWNER/NAME[@REVISION][:FILE] as in LeRobot, FILE by default env.py. Raises ConfigError for a
    reference, a file or a requirement that is none, PrerequisiteError when the Hub does not give the repository.
    """
    wanted = str(options.get("repo") or "")
    match = _REFERENCE.fullmatch(wanted)
    if match is None:
        raise ConfigError(
            "this names no repository of the Hub",
            field="env.options.repo",
            found=repr(wanted),
            expected="OWNER/NAME[@REVISION][:FILE]",
            fix="for example --env.repo=lerobot/cartpole-env@main",
        )
    repo, file = match["repo"], match["file"] or "env.py"
    folder = fetch(repo, match["revision"], repo_type="model")
    files = guest.files_of(folder)
    if file not in files:
        python = [name for name in files if name.endswith(".py")]
        found = ", ".join(sorted(python)) or "no Python file"
        raise ConfigError(f"{repo} has no {file}", field="env.options.repo", found=found, expected=file)
    source = f"{repo}@{folder.name}:{file}"
    described = json.dumps({"source": source, "file": file}).encode()
    sources = {f"hub_repository/{name}": content for name, content in files.items() if _is_plain(name)}
    asked = files.get("requirements.txt", b"")
    return source, {**sources, "hub_repository.json": described}, checked_requirements(source, asked)


def checked_requirements(source: str, content: bytes) -> bytes:
    """Requirements that pip may read: packages by their names alone.

    An option, an address or a path could make pip take a package from anywhere, or run one while it is installed.
    """
    lines = [line.split(" #")[0].strip() for line in content.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        if _REQUIREMENT.fullmatch(line) is None:
            raise ConfigError(
                "the repository asks for something that is no package by its name",
                file="requirements.txt",
                field=source,
                found=line[:200],
                expected="NAME==VERSION",
            )
    return "".join(f"{line}\n" for line in lines).encode()


def _is_plain(name: str) -> bool:
    """Not git's own files."""
    return not PurePosixPath(name).parts[0].startswith(".")

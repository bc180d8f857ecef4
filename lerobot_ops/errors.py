"""Errors that a user can act on: what is wrong, where, what was found, what was expected, and what to do."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class OpsError(Exception):
    """A problem that the user can mend; its text is complete without a traceback."""

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        field: str | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.file, self.field = problem, file, field
        self.found, self.expected, self.fix = found, expected, fix
        details = {"file": file, "field": field, "found": found, "expected": expected, "fix": fix}
        lines = [problem, *(f"  {name + ':':<10}{value}" for name, value in details.items() if value is not None)]
        super().__init__("\n".join(lines))


class ConfigError(OpsError):
    """A parameter is unknown, missing or out of range."""


class PrerequisiteError(OpsError):
    """Something that the machine should have is missing; `fix` is the command that installs it."""


class ArtifactError(OpsError):
    """An output cannot be written, already exists or is in use."""


class DatasetError(OpsError):
    """A dataset is not what its format says."""


class CheckpointError(OpsError):
    """A checkpoint cannot be loaded as it is."""


class SandboxError(OpsError):
    """A benchmark's sandbox could not be built or started, or its worker died."""


class DeviceError(OpsError):
    """A motor, camera or other device does not answer, is not the expected one, or may not be used as it is."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the close matches of `name` among `known`, or lists them all when they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(match) for match in close)}?"
    shown = ", ".join(names[:12])
    return f"choose one of {shown}" + (f" … ({len(names)} in all)" if len(names) > 12 else "")

"""Talking to the Hugging Face Hub: one error with a fix for whatever it refuses, and patience when it is busy.

Credentials come from the environment (`HF_TOKEN`) or from `hf auth login`; no message ever holds one.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from lerobot_ops.errors import ArtifactError, OpsError, PrerequisiteError

T = TypeVar("T")

DATASET_TAG = "v3.0"
"""LeRobot looks for a dataset under the tag of its format."""
_BUSY = {429, 500, 502, 503, 504}
_TRIES, _LONGEST_WAIT = 5, 60.0


@contextlib.contextmanager
def hub_errors(repo_id: str, doing: str, revision: str | None = None) -> Iterator[None]:
    """Raise one OpsError, which says what to do, for whatever goes wrong with the Hub inside of the block."""
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError, LocalTokenNotFoundError

    named = f"{repo_id}@{revision}" if revision else repo_id
    try:
        yield
    except HFValidationError as error:
        raise PrerequisiteError(
            "this is no name on the Hub", field="repo_id", found=named, expected="OWNER/NAME", fix=_first_line(error)
        ) from None
    except (HTTPError, LocalEntryNotFoundError, LocalTokenNotFoundError, ConnectionError) as error:
        raise _explained(error, named, doing) from error
    except ValueError as error:
        if not str(error).startswith("Invalid filename"):
            raise
        raise ArtifactError(
            f"cannot {doing}: one of its files would lie outside of the directory",
            field="repo_id",
            found=_first_line(error),
            fix="do not use this repository, or ask its owner to rename the file",
        ) from None
    except RuntimeError as error:  # the uploader's threads wrap what the Hub answered
        if not isinstance(error.__cause__, HTTPError):
            raise
        raise _explained(error.__cause__, named, doing) from error


def patiently(call: Callable[[], T]) -> T:
    """`call()`, again when the Hub says that it is busy, after the time that it asks for or 1, 2, 4, 8 seconds."""
    for attempt in range(_TRIES):
        try:
            return call()
        except Exception as error:
            response = _response_of(error)
            if response is None or response.status_code not in _BUSY or attempt == _TRIES - 1:
                raise
            wait = _seconds(response.headers.get("Retry-After"), 2.0**attempt)
            logging.getLogger(__name__).warning("the Hub answered %d; again in %g s", response.status_code, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def is_out_of_reach(error: BaseException) -> bool:
    """Whether nothing came back from the Hub that says anything about the repository: offline, no network, or down."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return True
    response = _response_of(error)
    return response.status_code in _BUSY if response is not None else isinstance(error, HTTPError)


def _explained(error: BaseException, named: str, doing: str) -> OpsError:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    problem, fix = f"cannot {doing}: ", "log in with `hf auth login`, or set HF_TOKEN to a token that may do this"
    causes = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    response = _response_of(error)
    status = response.status_code if response is not None else None
    if isinstance(error, GatedRepoError):
        problem += "its owner asks you to accept conditions first"
        fix = "accept them on its page on the Hub, then log in with `hf auth login` or set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        problem += "it has no such revision"
        fix = "name one of its tags, branches or commits: OWNER/NAME@REVISION"
    elif isinstance(error, RepositoryNotFoundError):
        problem += "the Hub has none of this name, or it is private"
        fix = "check the name; for a private one log in with `hf auth login`, or set HF_TOKEN"
    elif any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        problem += "HF_HUB_OFFLINE is set" + _lacking(error)
        fix = "run it once with HF_HUB_OFFLINE=0, or give a local directory"
    elif isinstance(error, LocalTokenNotFoundError) or status == 401:
        problem += "no valid token" if status == 401 else "not logged in"
    elif status == 403:
        problem += "the token may not do this"
    elif status in _BUSY:
        problem += f"the Hub is busy or down (it answered {status})"
        fix = "run it again later: what has arrived is kept"
    elif status is not None:
        return ArtifactError(f"{problem}the Hub refused", field="repo_id", found=_first_line(error), expected=named)
    else:
        problem += "the Hub cannot be reached" + _lacking(error)
        fix = "check the network and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only what is on this machine is used"
    return PrerequisiteError(problem, field="repo_id", found=named, fix=fix)


def _lacking(error: BaseException) -> str:
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    if isinstance(error, IncompleteSnapshotError):
        return ", and only a part of it is on this machine"
    return ", and it is not on this machine" if isinstance(error, LocalEntryNotFoundError) else ""


def _response_of(error: BaseException) -> Any:
    """The Hub's answer behind an error, if there was one."""
    for cause in (error, error.__cause__):
        response = getattr(cause, "response", None)
        if response is not None:
            return response
    return None


def _seconds(text: str | None, default: float) -> float:
    try:
        return min(float(text), _LONGEST_WAIT) if text is not None else default
    except ValueError:  # a date
        return default


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

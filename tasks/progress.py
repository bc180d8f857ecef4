"""How far an evaluation is, as a progress artifact of its task run: visible in Prefect while episodes end."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectHTTPStatusError

from lerobot_ops.evaluation.records import Record
from lerobot_ops.progress import counting
from tasks.steps import slug

logger = logging.getLogger(__name__)
EVERY_S = 2.0
"""Between two updates; an update is a request to the server."""


@contextlib.contextmanager
def showing(label: str, total: int) -> Iterator[Callable[[Record], None]]:
    """Yield a callback for each episode's record: it advances a bar on a terminal, and an artifact in Prefect."""
    shown = _Shown(label, total)
    with counting(label, total) as count:

        def on_record(record: Record) -> None:
            count()
            shown.add(record)

        yield on_record
    shown.send()


class _Shown:
    """The artifact of one evaluation at work."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, max(1, total)
        self._ended = self._successes = self._errors = 0
        self._sent = time.monotonic()
        self._artifact: Any = None  # its id
        with _unless_away():
            self._artifact = create_progress_artifact(0.0, f"progress-{slug(label)}", self._sentence())

    def add(self, record: Record) -> None:
        self._ended += 1
        self._successes += record.success
        self._errors += record.error is not None
        if time.monotonic() - self._sent >= EVERY_S:
            self.send()

    def send(self) -> None:
        self._sent = time.monotonic()
        if self._artifact is None:
            return
        share = min(100.0, 100 * self._ended / self._total)
        with _unless_away():
            update_progress_artifact(self._artifact, share, description=self._sentence())

    def _sentence(self) -> str:
        counted = self._ended - self._errors
        rate = f", {self._successes} of {counted} succeeded" if counted else ""
        errors = f", {self._errors} ended in an error" if self._errors else ""
        return f"{self._label}: {self._ended} of {self._total} episodes{rate}{errors}"


@contextlib.contextmanager
def _unless_away() -> Iterator[None]:
    """A server that does not answer costs the display, never the evaluation."""
    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, OSError) as error:
        logger.warning("progress is not shown: %s", error)

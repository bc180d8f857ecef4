"""How far an evaluation or a training is, as a progress artifact of its task run, visible in Prefect while it works."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
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
SAID_EVERY_S = 30.0
"""Between two lines of a training in its flow run's log."""


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


class TrainingShown:
    """A training's progress: called with each line of its log, it advances the artifact, and now and then says so."""

    def __init__(self, label: str, steps: int, say: Callable[[str], object]) -> None:
        self._label, self._steps, self._say = label, steps, say
        self._known: dict[str, float] = {}
        self._said = -SAID_EVERY_S
        self._artifact = _Artifact(label, f"{label}: step 0 of {steps}")

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._known |= metrics
        sentence = self._sentence(step)
        self._artifact.update(step / self._steps, sentence, at_once=step == self._steps)
        if "loss" in metrics and (step == self._steps or time.monotonic() - self._said >= SAID_EVERY_S):
            self._said = time.monotonic()
            self._say(sentence)

    def _sentence(self, step: int) -> str:
        parts = [f"{self._label}: step {step} of {self._steps}"]
        parts += [f"{name} {self._known[name]:.4g}" for name in ("loss", "eval_loss") if name in self._known]
        if (rate := self._known.get("eval/pc_success")) is not None:
            parts.append(f"{rate:.1f} % success")
        if speed := self._known.get("steps_per_s"):
            parts.append(f"{speed:.3g} steps/s, {self._known['data_s'] * speed:.0%} of the time waiting for data")
            left = timedelta(seconds=round((self._steps - step) / speed))
            parts += [f"{left} left"] if left else []
        return ", ".join(parts)


class _Shown:
    """The artifact of one evaluation at work."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, max(1, total)
        self._ended = self._successes = self._errors = 0
        self._artifact = _Artifact(label, self._sentence())

    def add(self, record: Record) -> None:
        self._ended += 1
        self._successes += record.success
        self._errors += record.error is not None
        self.send(at_once=False)

    def send(self, *, at_once: bool = True) -> None:
        self._artifact.update(self._ended / self._total, self._sentence(), at_once=at_once)

    def _sentence(self) -> str:
        counted = self._ended - self._errors
        rate = f", {self._successes} of {counted} succeeded" if counted else ""
        errors = f", {self._errors} ended in an error" if self._errors else ""
        return f"{self._label}: {self._ended} of {self._total} episodes{rate}{errors}"


class _Artifact:
    """A progress artifact, with at most one request to the server every `EVERY_S`."""

    def __init__(self, label: str, sentence: str) -> None:
        self._sent = time.monotonic()
        self._id: Any = None
        with unless_away():
            self._id = create_progress_artifact(0.0, f"progress-{slug(label)}", sentence)

    def update(self, share: float, sentence: str, *, at_once: bool) -> None:
        """Show this; unless `at_once` it is left out so soon after the last time."""
        if self._id is None or not (at_once or time.monotonic() - self._sent >= EVERY_S):
            return
        self._sent = time.monotonic()
        with unless_away():
            update_progress_artifact(self._id, min(100.0, 100 * share), description=sentence)


@contextlib.contextmanager
def unless_away() -> Iterator[None]:
    """A server that does not answer costs the display, never the work."""
    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, OSError) as error:
        logger.warning("progress is not shown: %s", error)

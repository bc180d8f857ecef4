"""The host's end of a worker: requests with a deadline, and errors that say how a worker ended."""

import contextlib
import time
from typing import Any, Protocol

from lerobot_ops import errors
from lerobot_ops.errors import OpsError, SandboxError
from lerobot_ops.evaluation import protocol


class WorkerDied(SandboxError):  # noqa: N818
    """A worker ended by itself: a crash of the simulator, a signal, or the memory limit."""


class WorkerTimeout(SandboxError):  # noqa: N818
    """A worker did not answer before its deadline, and was killed."""


class WorkerFailed(SandboxError):  # noqa: N818
    """A worker answered with an exception; it lives on and can be asked to reset."""

    def __init__(self, problem: str, *, kind: str = "", trace: str = "", **details: Any) -> None:
        super().__init__(problem, **details)
        self.kind, self.trace = kind, trace


class Channel(Protocol):
    """A stream to a process in a sandbox."""

    def send(self, data: bytes, deadline: float) -> None:
        """Write everything before `deadline` (time.monotonic) or raise TimeoutError; OSError when nobody listens."""

    def receive(self, deadline: float) -> bytes:
        """Some bytes of the process's stdout; b"" at its end; TimeoutError at the deadline."""

    def complaints(self) -> str:
        """The last lines of the process's stderr."""

    def ending(self) -> str:
        """How the process ended, for a person."""

    def kill(self) -> None:
        """End the process at once and wake a thread that waits for it; does nothing the second time."""

    def release(self) -> None:
        """Close the stream, once no thread waits for it any more."""


class Worker:
    """One environment in a sandbox. Use it from one thread at a time; `kill` may come from any."""

    def __init__(
        self, channel: Channel, hello: dict[str, Any], *, start_timeout_s: float, step_timeout_s: float
    ) -> None:
        self._channel = channel
        self._step_timeout_s = step_timeout_s
        self._received = bytearray()
        self._ended = False
        try:
            self.info: dict[str, Any] = self.request({"op": "hello", **hello}, timeout=start_timeout_s)
        except BaseException:
            self._end()
            raise

    def request(self, message: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """Send a request and return its answer; see `evaluation.worker.Session` for what can be asked.

        Raises WorkerFailed when the worker answers with an exception (a ConfigError or PrerequisiteError of its own
        is raised as such), and WorkerTimeout or WorkerDied, after which the worker is gone, when it does not answer.
        """
        limit = self._step_timeout_s if timeout is None else timeout
        op, data = message.get("op"), protocol.encode(message)
        deadline = time.monotonic() + limit
        try:
            self._channel.send(data, deadline)
            header = self._take(protocol.HEADER, deadline)
            reply = protocol.decode(self._take(protocol.body_length(header), deadline))
        except TimeoutError:
            said = self._last_words()
            self._end()
            problem = f"a worker did not answer {op!r} within {limit:g} s, and was stopped"
            raise WorkerTimeout(problem, found=said) from None
        except (OSError, EOFError, protocol.ProtocolError) as error:
            ending = str(error) if isinstance(error, protocol.ProtocolError) else self._channel.ending()
            said = self._last_words()
            self._end()
            raise WorkerDied(f"a worker ended during {op!r}: {ending}", found=said) from error
        if "error" in reply:
            raise _failure(reply["error"])
        return reply

    def close(self) -> None:
        """Ask the worker to end, and make sure that it did."""
        if not self._ended:
            with contextlib.suppress(SandboxError):
                self.request({"op": "close"}, timeout=5)
            self._end()

    def kill(self) -> None:
        """End the worker at once; a request that waits in another thread raises WorkerDied."""
        self._ended = True
        self._channel.kill()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        self.kill()
        self._channel.release()

    def _take(self, count: int, deadline: float) -> bytearray:
        while len(self._received) < count:
            data = self._channel.receive(deadline)
            if not data:
                raise EOFError
            self._received += data
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _last_words(self) -> str | None:
        complaints = self._channel.complaints()
        return f"on stderr:\n{complaints}" if complaints else None


def _failure(error: dict[str, str]) -> OpsError:
    kind, text = error["type"], error["message"]
    if kind in {"ConfigError", "PrerequisiteError"}:
        own: OpsError = getattr(errors, kind)(text)
        return own
    return WorkerFailed(f"{kind} in a worker: {text}", kind=kind, trace=error.get("traceback", ""))

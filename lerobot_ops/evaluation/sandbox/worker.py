"""The host's end of a worker: requests with a deadline, and errors that say how a worker ended."""

import contextlib
import time
from typing import Any, Protocol

from lerobot_ops import errors
from lerobot_ops.errors import OpsError, SandboxError
from lerobot_ops.evaluation import protocol
from lerobot_ops.evaluation.sandbox.replies import checked, most_bytes


class WorkerDied(SandboxError):  # noqa: N818
    """A worker ended by itself: a crash of the simulator, a signal, or the memory limit."""


class WorkerTimeout(SandboxError):  # noqa: N818
    """A worker did not answer before its deadline, and was killed."""


class WorkerBroke(SandboxError):  # noqa: N818
    """A worker answered what no worker answers, so nothing that it says can be trusted, and was stopped."""


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
        self._asked = 0
        self._ended = self._released = False
        self.info: dict[str, Any] = {}
        try:
            self.info = self.request({"op": "hello", **hello}, timeout=start_timeout_s)
        except BaseException:
            self._end()
            raise

    def request(self, message: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """Send a request and return its answer; see `evaluation.worker.Session` for what can be asked.

        Raises WorkerFailed when the worker answers with an exception (a ConfigError or PrerequisiteError of its own
        is raised as such), and WorkerTimeout, WorkerDied or WorkerBroke, after which the worker is gone, when it does
        not answer, or with something else.
        """
        limit = self._step_timeout_s if timeout is None else timeout
        op, deadline = message.get("op"), time.monotonic() + limit
        if self._released:
            raise WorkerDied(f"a worker that has ended was asked {op!r}")
        self._asked += 1
        data = protocol.encode({**message, "id": self._asked})
        try:
            self._channel.send(data, deadline)
            reply = self._answer(message, deadline)
        except (OSError, EOFError, protocol.ProtocolError) as error:
            failure = self._what_happened(error, f"{op!r}", limit)
            self._end()
            raise failure from error
        if "error" in reply:
            raise _failure(reply["error"])
        return reply

    def close(self) -> None:
        """Ask the worker to end, and make sure that it did."""
        if not self._ended:
            with contextlib.suppress(OpsError):
                self.request({"op": "close"}, timeout=5)
        self._end()

    def kill(self) -> None:
        """End the worker at once; a request that waits in another thread raises WorkerDied."""
        self._ended = True
        if not self._released:
            self._channel.kill()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        if not self._released:
            self.kill()
            self._released = True
            self._channel.release()

    def _answer(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        length, most = protocol.body_length(self._take(protocol.HEADER, deadline)), most_bytes(request, self.info)
        if length > most:
            raise protocol.ProtocolError(f"it has {length} bytes, where at most {most} were asked for")
        reply = protocol.decode(self._take(length, deadline))
        number = reply.get("id")
        if type(number) is not int or number != self._asked:
            raise protocol.ProtocolError(f"it answers request {number!r:.20}, and this is request {self._asked}")
        return checked(request, reply, self.info)

    def _take(self, count: int, deadline: float) -> bytearray:
        while len(self._received) < count:
            data = self._channel.receive(deadline)
            if not data:
                raise EOFError
            self._received += data
        taken, self._received = self._received, self._received[count:]
        del taken[count:]  # what is left is short; a copy of what is taken would cost
        return taken

    def _what_happened(self, error: Exception, op: str, limit: float) -> SandboxError:
        ending = "" if isinstance(error, TimeoutError | protocol.ProtocolError) else self._channel.ending()
        complaints = self._channel.complaints()
        said = f"on stderr:\n{complaints}" if complaints else None
        if isinstance(error, TimeoutError):
            return WorkerTimeout(f"a worker did not answer {op} within {limit:g} s, and was stopped", found=said)
        if isinstance(error, protocol.ProtocolError):
            return WorkerBroke(f"a worker gave no valid answer to {op}, and was stopped: {error}", found=said)
        return WorkerDied(f"a worker ended during {op}: {ending}", found=said)


def left(deadline: float) -> float:
    """Seconds until `deadline` (time.monotonic); raises TimeoutError when it is over, whatever there is to read."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _failure(error: dict[str, str]) -> OpsError:
    kind, text = error["type"], error["message"]
    if kind in {"ConfigError", "PrerequisiteError"}:
        own: OpsError = getattr(errors, kind)(text)
        return own
    return WorkerFailed(f"{kind} in a worker: {text}", kind=kind, trace=error["traceback"])

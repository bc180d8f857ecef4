"""Workers as plain processes of some interpreter, with an environment of their own."""

import contextlib
import importlib.metadata
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lerobot_ops
from lerobot_ops import envs
from lerobot_ops.errors import PrerequisiteError
from lerobot_ops.evaluation.sandbox import gpu
from lerobot_ops.evaluation.sandbox.config import SandboxConfig
from lerobot_ops.evaluation.sandbox.recipe import cache_folder
from lerobot_ops.evaluation.sandbox.replies import legible
from lerobot_ops.evaluation.sandbox.worker import Worker, left
from lerobot_ops.large_pages import ASKING

COMMAND = ("-s", "-P", "-m", "lerobot_ops.evaluation.worker")
# One core for one worker: two workers use two cores instead of fighting for both. llvmpipe with no thread of its own
# draws in the thread that asks, and holds one scene instead of several. Large pages halve the time of a shadow map.
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LP_NUM_THREADS": "0", **ASKING}
# What a worker inherits. Everything else, and with it every token, stays here.
_INHERITED = {"PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "MUJOCO_EGL_DEVICE_ID"}
_INHERITED_PREFIXES = ("EGL_", "__EGL_", "LIBGL_", "GALLIUM_", "MESA_", "NVIDIA_")
STDERR_BYTES = 16 * 1024
"""What is kept of what a worker prints."""


class ProcessSandbox:
    """Workers of this interpreter, where the benchmark is installed beside everything else. It isolates nothing."""

    kind = "process"

    def __init__(self, benchmark: str, config: SandboxConfig, reason: str) -> None:
        self.benchmark, self.config, self.reason = benchmark, config, reason
        self._started = itertools.count()
        versions = _installed(benchmark)
        self.identity = self.recipe = " ".join(f"{name}=={version}" for name, version in versions.items())
        self.image: str | None = None

    def spawn(self, hello: dict[str, Any]) -> Worker:
        """Start one worker and greet it: {cameras, options, video}."""
        path = Path(lerobot_ops.__file__).parent.parent
        return start(self.benchmark, self.config, hello, Path(sys.executable), path, next(self._started))


def start(
    benchmark: str, config: SandboxConfig, hello: dict[str, Any], python: Path, path: Path, number: int
) -> Worker:
    """Worker `number` of a sandbox: of the interpreter `python`, which imports the guest from `path`."""
    home = cache_folder() / "home"
    home.mkdir(exist_ok=True)
    variables = {**environment(config, path, home), **gpu.environment(config.gpus, number)}
    channel = _ProcessChannel([str(python), *COMMAND], variables, home)
    greeting = {"benchmark": benchmark, "options": {}, "cameras": [], **hello}
    return Worker(channel, greeting, start_timeout_s=config.start_timeout_s, step_timeout_s=config.step_timeout_s)


def environment(config: SandboxConfig, path: Path, home: Path) -> dict[str, str]:
    """Every variable that a worker sees: an allow-list of ours, and what it needs."""
    kept = {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    own = {"PYTHONPATH": str(path), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **ONE_CORE}
    wanted = config.gl if config.gl != "auto" else os.environ.get("MUJOCO_GL", "")
    return {**kept, **own, **({"MUJOCO_GL": wanted} if wanted in {"egl", "osmesa"} else {})}


class _ProcessChannel:
    """A process whose stdin and stdout are one socket, so that reads and writes have deadlines."""

    def __init__(self, command: list[str], variables: dict[str, str], folder: Path) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # A session of its own: Ctrl-C in a terminal reaches us, and we end the worker.
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                env=variables,
                cwd=folder,
                start_new_session=True,
            )
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        os.set_blocking(self._stderr.fileno(), False)
        self._said = b""
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._stderr, select.POLLIN)

    def send(self, data: bytes, deadline: float) -> None:
        self._socket.settimeout(left(deadline))
        self._socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        while True:
            ready = {number for number, _ in self._poll.poll(left(deadline) * 1000)}
            if self._stderr.fileno() in ready:
                self._listen()
            if self._socket.fileno() in ready:
                return self._socket.recv(1 << 20)

    def complaints(self) -> str:
        # What it printed may still be on its way.
        with contextlib.suppress(OSError):
            deadline = time.monotonic() + 0.2
            while self.receive(deadline):
                pass
            while self._listen():
                left(deadline)
        return tail(self._said)

    def ending(self) -> str:
        try:
            return exit_reason(self._process.wait(timeout=1))
        except subprocess.TimeoutExpired:
            return "it closed its stream"

    def kill(self) -> None:
        # Its helpers are in its session: end them too.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        # Wakes a thread that waits in `receive`.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self._socket.close()
        self._stderr.close()

    def _listen(self) -> bool:
        """Keep the tail of what it prints, so that printing never blocks it; whether there may be more."""
        try:
            data = os.read(self._stderr.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        self._said = (self._said + data)[-STDERR_BYTES:]
        if not data:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._stderr)
        return bool(data)


def exit_reason(code: int) -> str:
    """What an exit code says: negative for the signal that ended a process, over 128 for one inside a container."""
    number = -code if code < 0 else code - 128
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}" if code < 0 else f"it exited with code {code}"


def tail(stderr: bytes, lines: int = 20) -> str:
    """The last lines of what a process printed, for a message."""
    said = stderr.decode(errors="replace").rstrip().splitlines()[-lines:]
    return "\n".join(legible(line, most=500) for line in said)


def _installed(benchmark: str) -> dict[str, str]:
    """Versions of the benchmark's packages in this interpreter; raises PrerequisiteError when one is missing."""
    versions = {}
    for name in envs.benchmark(benchmark).distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise PrerequisiteError(
                f"{benchmark} cannot run in this interpreter: {name} is not installed",
                field="sandbox.type",
                found="process",
                fix="--sandbox.type=venv or --sandbox.type=docker, which install what it needs by themselves",
            ) from None
    return versions

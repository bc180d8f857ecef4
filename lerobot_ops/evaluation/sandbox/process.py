"""Workers as plain processes of some interpreter, with an environment of their own."""

import collections
import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import lerobot_ops
from lerobot_ops import envs
from lerobot_ops.errors import PrerequisiteError
from lerobot_ops.evaluation.sandbox.config import SandboxConfig
from lerobot_ops.evaluation.sandbox.recipe import cache_folder
from lerobot_ops.evaluation.sandbox.worker import Worker

COMMAND = ("-s", "-P", "-m", "lerobot_ops.evaluation.worker")
# One core for one worker: two workers use two cores instead of fighting for both.
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
# What a worker inherits. Everything else, and with it every token, stays here.
_INHERITED = {"PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "MUJOCO_EGL_DEVICE_ID"}
_INHERITED_PREFIXES = ("EGL_", "__EGL_", "LIBGL_", "GALLIUM_", "MESA_", "NVIDIA_")
_STDERR_BYTES = 16 * 1024


class ProcessSandbox:
    """Workers of this interpreter, where the benchmark is installed beside everything else. It isolates nothing."""

    kind = "process"

    def __init__(self, benchmark: str, config: SandboxConfig, reason: str) -> None:
        self.benchmark, self.config, self.reason = benchmark, config, reason
        versions = _installed(benchmark)
        self.identity = " ".join(f"{name}=={version}" for name, version in versions.items())

    def spawn(self, hello: dict[str, Any]) -> Worker:
        """Start one worker and greet it: {cameras, options, video}."""
        path = Path(lerobot_ops.__file__).parent.parent
        return start(self.benchmark, self.config, hello, Path(sys.executable), path)


def start(benchmark: str, config: SandboxConfig, hello: dict[str, Any], python: Path, path: Path) -> Worker:
    """A worker of the interpreter `python` that imports the guest from `path`."""
    home = cache_folder() / "home"
    home.mkdir(exist_ok=True)
    channel = _ProcessChannel([str(python), *COMMAND], environment(config, path, home), home)
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
        self._stderr: collections.deque[bytes] = collections.deque()
        self._drain = threading.Thread(target=self._keep_tail, args=(self._process.stderr,), daemon=True)
        self._drain.start()

    def send(self, data: bytes, deadline: float) -> None:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        self._socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        return self._socket.recv(1 << 20)

    def complaints(self) -> str:
        self._drain.join(timeout=0.2)
        return tail(b"".join(list(self._stderr)))

    def ending(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "it closed its stream"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"it exited with code {code}"

    def kill(self) -> None:
        # Its helpers are in its session: end them too.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        # Wakes a thread that waits in `receive`.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._drain.join(timeout=1)

    def release(self) -> None:
        self._socket.close()

    def _keep_tail(self, stderr: BinaryIO) -> None:
        size = 0
        while data := os.read(stderr.fileno(), 4096):
            self._stderr.append(data)
            size += len(data)
            while size > _STDERR_BYTES:
                size -= len(self._stderr.popleft())
        stderr.close()


def tail(stderr: bytes, lines: int = 20) -> str:
    """The last lines of what a process printed, for a message."""
    return "\n".join(stderr.decode(errors="replace").rstrip().splitlines()[-lines:])


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

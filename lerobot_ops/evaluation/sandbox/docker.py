"""Workers in hardened containers: no network, no mounts, no capabilities, nothing of our environment, and an end."""

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import requests

from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation.images import RECIPE_LABEL, build_image
from lerobot_ops.evaluation.sandbox import gpu, owner
from lerobot_ops.evaluation.sandbox.config import SandboxConfig
from lerobot_ops.evaluation.sandbox.engine import LABEL, connect, reason
from lerobot_ops.evaluation.sandbox.process import STDERR_BYTES, exit_reason, tail
from lerobot_ops.evaluation.sandbox.recipe import recipe
from lerobot_ops.evaluation.sandbox.worker import Worker, left

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

DEADLINE_LABEL = f"{LABEL}.deadline"
OWNER_LABEL = f"{LABEL}.owner"
_STDOUT, _STDERR = 1, 2


class DockerSandbox:
    """Workers in containers of one image, which is built the first time."""

    kind = "docker"

    def __init__(
        self, benchmark: str, config: SandboxConfig, reason: str, options: Mapping[str, Any] | None = None
    ) -> None:
        self.benchmark, self.config, self.reason = benchmark, config, reason
        self._started = itertools.count()
        with contextlib.closing(connect()) as client:
            sweep(client)
            self._gpus = gpu.chosen(config.gpus, client)
            if config.image:
                self.identity = _digest(client, config.image)
                # An image that others built of our recipes says so; of any other its digest must do.
                self.recipe = client.images.get(self.identity).labels.get(RECIPE_LABEL, self.identity)
            else:
                made_of = recipe(benchmark, options)
                self.identity, self.recipe = build_image(benchmark, made_of=made_of).digest, made_of.name
            self.image: str | None = self.identity

    def spawn(self, hello: dict[str, Any]) -> Worker:
        """Start one worker and greet it: {cameras, options, video}."""
        options = container_options(self.benchmark, self.config, gpu.container_options(self._gpus, next(self._started)))
        channel = _ContainerChannel(self.identity, options)
        greeting = {"benchmark": self.benchmark, "options": {}, "cameras": [], **hello}
        config = self.config
        return Worker(channel, greeting, start_timeout_s=config.start_timeout_s, step_timeout_s=config.step_timeout_s)


def container_options(benchmark: str, config: SandboxConfig, gpu_options: dict[str, Any]) -> dict[str, Any]:
    """How a worker's container is locked down; `gpu_options` are of `gpu.container_options`."""
    from docker.types import Ulimit

    memory = int(config.memory_gb * 2**30)
    lifetime = int(config.max_hours * 3600)
    # The kernel's own limit, for a worker that spins after its host was killed.
    spinning = Ulimit(name="cpu", soft=lifetime, hard=lifetime)
    gl = {} if config.gl == "auto" else {"MUJOCO_GL": config.gl}
    return {
        **gpu_options,
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=256m,mode=1777"},  # noqa: S108 - the container's own
        "user": "65534:65534",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 128,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(config.cpus * 1e9),
        "ulimits": [spinning, Ulimit(name="core", soft=0, hard=0)],
        "ipc_mode": "private",
        "hostname": "worker",
        "init": True,
        "environment": {**gl, **gpu_options.get("environment", {})},
        "log_config": {"type": "none"},
        "labels": {
            **config.labels,
            LABEL: benchmark,
            DEADLINE_LABEL: str(int(time.time()) + lifetime),
            OWNER_LABEL: owner.present(),
        },
    }


def sweep(client: "docker.DockerClient") -> list[str]:
    """Remove workers' containers that have ended, or outlived their deadline or their host; returns their short ids.

    A worker ends with its host, and its host removes its container: this is for hosts that were killed, for guests that
    go on nevertheless, and for engines that were restarted.
    """
    import docker

    removed = []
    for container in client.containers.list(all=True, filters={"label": DEADLINE_LABEL}, ignore_removed=True):
        labels = container.labels
        over = int(labels[DEADLINE_LABEL]) < time.time() or owner.is_gone(labels.get(OWNER_LABEL, ""))
        if over or container.status in {"exited", "dead"}:
            # Its own host may be removing it too.
            with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
                container.remove(force=True, v=True)
                removed.append(container.short_id)
    return removed


def remove_labelled(labels: Mapping[str, str]) -> None:
    """Remove every worker's container that carries all of `labels`; raises PrerequisiteError without an engine."""
    import docker

    filters: dict[str, Any] = {"label": [DEADLINE_LABEL, *(f"{name}={value}" for name, value in labels.items())]}
    for container in connect(timeout_s=10).containers.list(all=True, filters=filters, ignore_removed=True):
        with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):  # its host may be removing it too
            container.remove(force=True, v=True)


class _ContainerChannel:
    """A container's attached stream, which carries stdin, stdout and stderr over one connection."""

    def __init__(self, image: str, options: dict[str, Any]) -> None:
        import docker

        # Of its own: a client is for one thread, and workers live in several.
        self._client = connect()
        self._container: Container | None = None
        self._socket: socket.socket | None = None
        self._said = b""
        self._stream, self._left = _STDOUT, 0
        try:
            self._container = self._client.containers.create(image, stdin_open=True, **options)
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._attached = self._client.api.attach_socket(str(self._container.id), params=streams)
            self._socket = getattr(self._attached, "_sock", self._attached)
            self._container.start()
        except (docker.errors.APIError, requests.RequestException) as error:
            self.kill()
            self.release()
            raise SandboxError(f"a container cannot be started: {reason(error)}") from error

    def send(self, data: bytes, deadline: float) -> None:
        assert self._socket is not None
        self._socket.settimeout(left(deadline))
        self._socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        while True:
            if self._left == 0:
                # A frame: which stream, three zeros, the length, and that many bytes.
                header = b""
                while len(header) < 8:
                    more = self._read(8 - len(header), deadline)
                    if not more:
                        return b""
                    header += more
                self._stream, self._left = struct.unpack(">BxxxL", header)
            data = self._read(min(self._left, 1 << 20), deadline)
            self._left -= len(data)
            if self._stream == _STDOUT or not data:
                return data
            self._said = (self._said + data)[-STDERR_BYTES:]

    def complaints(self) -> str:
        # What it printed may still be on its way.
        with contextlib.suppress(OSError):
            deadline = time.monotonic() + 0.2
            while self.receive(deadline):
                pass
        return tail(self._said)

    def ending(self) -> str:
        import docker

        assert self._container is not None
        try:
            self._container.wait(timeout=5)
            self._container.reload()
        except docker.errors.NotFound:
            return "its container was removed"
        except requests.RequestException:
            return "it closed its stream"
        state = self._container.attrs["State"]
        if state["OOMKilled"]:
            return "it ran out of memory (raise sandbox.memory_gb)"
        return exit_reason(state["ExitCode"])

    def kill(self) -> None:
        import docker

        # First the stream: the engine waits until somebody has read all that a container has written.
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        # When the engine does not answer, the container still ends: with its stream, or at its deadline.
        if self._container is not None:
            with contextlib.suppress(docker.errors.APIError, requests.RequestException):
                self._container.remove(force=True, v=True)

    def release(self) -> None:
        if self._socket is not None:
            self._attached.close()
            self._socket.close()
        self._client.close()

    def _read(self, count: int, deadline: float) -> bytes:
        assert self._socket is not None
        self._socket.settimeout(left(deadline))
        return self._socket.recv(count)


def _digest(client: "docker.DockerClient", image: str) -> str:
    """The digest of an image that the user names; pulled when it is not here."""
    import docker

    try:
        return str(client.images.get(image).id)
    except docker.errors.ImageNotFound:
        pass
    try:
        return str(client.images.pull(image).id)
    except (docker.errors.APIError, requests.RequestException) as error:
        raise SandboxError(f"the image cannot be had: {reason(error)}", field="sandbox.image", found=image) from error

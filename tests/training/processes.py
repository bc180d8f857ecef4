"""Trainings in processes of their own, by the command line's door: alone, as torchrun starts them, killed somewhere."""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lerobot_ops.training.config import TrainConfig
from tests.forking import FORKING

CALLS = ("open", "mkdir", "fsync", "rename", "replace", "symlink", "link", "unlink")
"""What a checkpoint is written with."""


@dataclass
class Training:
    """A training that goes on in one or more processes."""

    processes: list[BaseProcess]
    said: list[Path]

    def wait(self, seconds: float = 120) -> list[int]:
        """The exit codes of its processes; they are killed when they take longer."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, deadline - time.monotonic()))
        late = [process for process in self.processes if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        assert not late, f"{len(late)} process(es) had not ended after {seconds} s:\n{self.output()}"
        return [process.exitcode for process in self.processes]

    def output(self, rank: int | None = None) -> str:
        files = self.said if rank is None else [self.said[rank]]
        return "\n".join(file.read_text() for file in files if file.exists())


def start(config: TrainConfig, processes: int = 1, **dies: Any) -> Training:
    """Begin a training; `dies` says where one process is killed (see `_doomed`)."""
    folder = config.output_dir.parent / f"{config.output_dir.name}-processes"
    folder.mkdir(exist_ok=True)
    file, port = folder / "config.json", free_port()
    file.write_text(
        json.dumps(config.model_dump(mode="json", exclude={"policy": {"input_features", "output_features"}}))
    )
    said = [folder / f"said-{rank}.txt" for rank in range(processes)]
    started = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes} if processes > 1 else {}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if processes > 1 else {}
        environment = {name: str(value) for name, value in place.items()}
        process = FORKING.Process(
            target=_work, args=(file, environment, said[rank], dies if rank == dies.get("rank", 0) else {})
        )
        process.start()
        started.append(process)
    return Training(started, said)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _work(config: Path, environment: dict[str, str], said: Path, dies: dict[str, Any]) -> None:
    os.environ.update(environment)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    from lerobot_ops.cli import main

    with _doomed(**dies):
        main(["train", f"--config_path={config}", "--tracking.enable=false"])


@contextlib.contextmanager
def _doomed(step: int = 0, call: int = 0, counted: Path | None = None, rank: int = 0) -> Iterator[None]:
    """Kill this process after a step, or before the numbered call of the system; or only count calls into a file."""
    from lerobot_ops.training.loop import Loop

    if step:
        update = Loop._update

        def updated(self: Loop, number: int, *arguments: Any) -> None:
            update(self, number, *arguments)
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)

        Loop._update = updated
    made = 0

    def counting(plain: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*arguments, **named)

        return called

    if call or counted:
        for name in CALLS:
            setattr(os, name, counting(getattr(os, name)))
    yield
    if counted:
        counted.write_text(str(made))

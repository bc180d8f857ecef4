"""Workers in a virtual environment that holds only the benchmark; built once from the image's exact requirements."""

import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from lerobot_ops.artifacts import staged
from lerobot_ops.errors import PrerequisiteError, SandboxError
from lerobot_ops.evaluation.sandbox import process
from lerobot_ops.evaluation.sandbox.config import SandboxConfig
from lerobot_ops.evaluation.sandbox.recipe import Recipe, building, cache_folder, recipe
from lerobot_ops.evaluation.sandbox.worker import Worker


class VenvSandbox:
    """Workers of an interpreter that has the benchmark and the worker's own files, and nothing else of ours.

    It keeps dependencies apart and hides the environment's variables; it does not isolate files or the network.
    """

    kind = "venv"

    def __init__(self, benchmark: str, config: SandboxConfig, reason: str) -> None:
        self.benchmark, self.config, self.reason = benchmark, config, reason
        self._started = itertools.count()
        made_of = recipe(benchmark)
        self._python = _environment(made_of) / "bin" / "python"
        self._guest = _guest(made_of)
        self.identity = f"venv:{made_of.digest}"
        self.recipe = made_of.digest
        self.image: str | None = None

    def spawn(self, hello: dict[str, Any]) -> Worker:
        """Start one worker and greet it: {cameras, options, video}."""
        return process.start(self.benchmark, self.config, hello, self._python, self._guest, next(self._started))


def environment_name(made_of: Recipe) -> str:
    """The name of a recipe's virtual environment under this Python."""
    return f"{made_of.benchmark}-{platform.python_version()}-{made_of.environment_digest[:12]}"


def _environment(made_of: Recipe) -> Path:
    """The virtual environment, built unless it is there."""
    name = environment_name(made_of)
    target = cache_folder() / "venvs" / name
    with building(f"venv-{made_of.benchmark}"):
        # The interpreter is a link: it breaks when the Python that it was made with is removed.
        if not ((target / ".complete").is_file() and (target / "bin" / "python").exists()):
            _build(made_of, target)
    (target / ".complete").touch()
    return target


def _build(made_of: Recipe, target: Path) -> None:
    """Install the requirements with pip, and so with the user's own indexes, certificates and local wheels."""
    # Made where it stays, because the scripts of a virtual environment hold its path; `.complete` is its last file.
    made = _run([sys.executable, "-m", "venv", "--clear", str(target)])
    if made.returncode:
        raise PrerequisiteError(
            "a virtual environment cannot be made",
            found=process.tail(made.stdout),
            fix="apt-get install -y python3-venv",
        )
    folder = target / "recipe"
    for name, content in {**made_of.extra, "requirements.txt": made_of.requirements}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    python = str(target / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    installed = _run([*install, "--only-binary=:all:", "--requirement", "requirements.txt"], folder)
    if installed.returncode:
        raise SandboxError(
            f"the sandbox of {made_of.benchmark} cannot be installed",
            file=folder / "requirements.txt",
            found=process.tail(installed.stdout),
            fix="see what pip says; it uses your own configuration (pip config list)",
        )
    if "prepare.py" in made_of.extra:
        prepared = _run([python, "prepare.py"], folder)
        if prepared.returncode:
            raise SandboxError(
                f"the sandbox of {made_of.benchmark} cannot be prepared",
                file=folder / "prepare.py",
                found=process.tail(prepared.stdout),
                fix="see what it says",
            )


def guest_name(made_of: Recipe) -> str:
    """The name of the folder of a recipe's source files."""
    return f"guest-{made_of.digest[:12]}"


def _guest(made_of: Recipe) -> Path:
    """A directory that holds the worker's source files alone, named after them."""
    target = cache_folder() / guest_name(made_of)
    with building("guest"):
        if not target.is_dir():
            with staged(target) as partial:
                for path, content in made_of.guest.items():
                    (partial / path).parent.mkdir(parents=True, exist_ok=True)
                    (partial / path).write_bytes(content)
    # When it was last used, which `leftovers` asks.
    os.utime(target)
    return target


def _run(command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    # An interpreter's own variables must not lead another one astray.
    variables = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables, check=False
    )

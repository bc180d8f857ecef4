"""What is installed here and what it can do: packages, FFmpeg's encoders, Docker, disk."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lerobot_ops.config import Config
from lerobot_ops.datasets.describing.text import aligned, size_text

_PACKAGES = ("lerobot-ops", "torch", "av", "pyarrow", "datasets", "huggingface_hub", "prefect", "mlflow", "dvc")
_EXTRAS = ("gymnasium", "mujoco", "metaworld", "rerun-sdk", "feetech-servo-sdk")
_SOFTWARE = ("libsvtav1", "libx264", "libx265", "libaom-av1")
_DOCKER_SECONDS = 3


class InstallationSummary(Config):
    """This installation."""

    python: str
    system: str
    cores: int
    packages: dict[str, str | None]
    """Version by package; None when it is not installed."""
    ffmpeg: str
    """Version of its library of codecs."""
    encoders: list[str]
    """Of those that record video, the ones that can be used here."""
    encoders_without_device: list[str]
    """Hardware encoders that FFmpeg knows and this machine does not have."""
    docker: str | None
    """Version of the engine; None when none answers."""
    free_bytes: int
    """On the disk of the working directory."""

    def __str__(self) -> str:
        facts = [("python", f"{self.python}, {self.cores} cores, {self.system}")]
        facts += [(name, number) for name, number in self.packages.items() if number]
        facts += [("not installed", ", ".join(name for name, number in self.packages.items() if not number) or "–")]
        facts += [("FFmpeg", f"libavcodec {self.ffmpeg}"), ("encoders", ", ".join(self.encoders) or "none")]
        if self.encoders_without_device:
            facts += [("no device for", ", ".join(self.encoders_without_device))]
        facts += [("Docker", self.docker or "no engine answers: benchmarks run in virtual environments")]
        facts += [("free disk", size_text(self.free_bytes))]
        return "\n".join(["this installation", *aligned(facts)])


def describe_installation() -> InstallationSummary:
    """Describe this installation; whatever is missing is said, not raised."""
    import av

    from lerobot_ops.datasets.videos.encoders import opens
    from lerobot_ops.datasets.videos.encoding import HARDWARE

    known = [name for name in HARDWARE if name in av.codecs_available]
    usable = [name for name in known if opens(name)]
    return InstallationSummary(
        python=platform.python_version(),
        system=platform.platform(terse=True),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        packages={name: _version(name) for name in (*_PACKAGES, *_EXTRAS)},
        ffmpeg=".".join(map(str, av.library_versions["libavcodec"])),
        encoders=[name for name in _SOFTWARE if name in av.codecs_available] + usable,
        encoders_without_device=[name for name in known if name not in usable],
        docker=_docker(),
        free_bytes=shutil.disk_usage(Path.cwd()).free,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _docker() -> str | None:
    import docker

    try:
        with_deadline = docker.from_env(timeout=_DOCKER_SECONDS)
        found: str = with_deadline.version()["Version"]
        with_deadline.close()
        return found
    except (docker.errors.DockerException, OSError, KeyError):
        return None

"""Images of benchmarks: built once from a recipe, found by its digest, listed and pruned.

The first image layer comes from `python:3.11-slim-bookworm`, or, where no registry answers, from Debian packages. The
build uses the network, the certificates and the pip settings of this machine; the image keeps none of them.
"""

import io
import logging
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from lerobot_ops import envs
from lerobot_ops.errors import PrerequisiteError, SandboxError
from lerobot_ops.evaluation.sandbox.engine import LABEL, connect, reason
from lerobot_ops.evaluation.sandbox.recipe import Recipe, building, docker_folder, recipe

if TYPE_CHECKING:
    import docker

PYTHON_IMAGE = "python:3.11-slim-bookworm"
DEBIAN_IMAGE = "lerobot-ops/base:bookworm"
_RECIPE_LABEL = f"{LABEL}.recipe"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkImage:
    """An image that holds one benchmark and its worker."""

    name: str
    benchmark: str
    digest: str
    """The image's own digest, sha256:…"""
    recipe: str
    """The digest of what it was built from."""
    size: int
    """Bytes."""
    current: bool
    """Whether it was built from the present recipe."""


def build_image(
    benchmark: str, *, base_image: str | None = None, on_line: Callable[[str], None] | None = None
) -> BenchmarkImage:
    """Build a benchmark's image unless it is there; `on_line` gets what the build prints.

    Of the images of older recipes the two newest are kept.

    Raises PrerequisiteError without an engine or a base image, SandboxError with the last lines when the build fails.
    """
    client = connect()
    made_of = recipe(benchmark)
    with building(f"image-{benchmark}"):
        image = find_image(benchmark, client)
        if image is None or base_image is not None:
            say = on_line or _log.debug
            base = base_image or _base(client, say)
            _log.info("building the image of %s from %s", benchmark, base)
            _build(client, made_of, base, say)
            image = find_image(benchmark, client)
            prune_images(benchmark, keep=2)
    assert image is not None
    return image


def find_image(benchmark: str, client: "docker.DockerClient | None" = None) -> BenchmarkImage | None:
    """The image of a benchmark's present recipe, or None when it was not built yet."""
    return next((image for image in list_images(benchmark, client) if image.current), None)


def image_digest(benchmark: str) -> str | None:
    """The digest of a benchmark's present image, or None when it was not built yet."""
    image = find_image(benchmark)
    return image.digest if image else None


def list_images(benchmark: str | None = None, client: "docker.DockerClient | None" = None) -> list[BenchmarkImage]:
    """Every image of ours, of one benchmark or of all, the newest first."""
    label = LABEL if benchmark is None else f"{LABEL}={benchmark}"
    images = (client or connect()).images.list(filters={"label": label, "dangling": False})
    images = sorted(images, key=lambda image: image.attrs["Created"], reverse=True)
    return [_describe(image) for image in images]


def prune_images(benchmark: str | None = None, keep: int = 1) -> list[BenchmarkImage]:
    """Remove images of older recipes, but for the `keep` newest of each benchmark; returns what was removed."""
    import docker

    client = connect()
    removed, kept = [], dict[str, int]()
    for image in list_images(benchmark, client):
        kept[image.benchmark] = kept.get(image.benchmark, 0) + (not image.current)
        if image.current or kept[image.benchmark] <= keep:
            continue
        try:
            client.images.remove(image.name)
        except docker.errors.APIError as error:
            _log.warning("%s stays: %s", image.name, error.explanation or error)
        else:
            removed.append(image)
    return removed


def image_name(made_of: Recipe) -> str:
    """The name of the image of a recipe: equal recipes, equal names."""
    return f"lerobot-ops/{made_of.benchmark}:{made_of.digest[:12]}"


def _describe(image: Any) -> BenchmarkImage:
    labels = image.labels
    name = next((tag for tag in image.tags if tag.startswith("lerobot-ops/")), image.id)
    benchmark, made_of = labels[LABEL], labels.get(_RECIPE_LABEL, "")
    current = benchmark in envs.benchmarks() and made_of == recipe(benchmark).digest
    return BenchmarkImage(name, benchmark, image.id, made_of, image.attrs["Size"], current)


def _build(client: "docker.DockerClient", made_of: Recipe, base: str, say: Callable[[str], None]) -> None:
    import docker

    lines: list[str] = []
    try:
        for event in client.api.build(
            fileobj=io.BytesIO(_context(made_of)),
            custom_context=True,
            dockerfile="Dockerfile",
            tag=image_name(made_of),
            # What this machine reaches, the build reaches: mirrors on localhost, proxies, a VPN.
            network_mode="host",
            buildargs={"BASE_IMAGE": base, **_proxies()},
            labels={LABEL: made_of.benchmark, _RECIPE_LABEL: made_of.digest},
            rm=True,
            forcerm=True,
            timeout=3600,
            decode=True,
        ):
            for line in (event.get("stream") or event.get("error") or "").splitlines():
                lines.append(line)
                say(line)
            if "error" in event:
                raise _broken(made_of, lines)
    except (docker.errors.APIError, requests.RequestException) as error:
        raise _broken(made_of, [*lines, reason(error)]) from error


def _broken(made_of: Recipe, lines: list[str]) -> SandboxError:
    return SandboxError(
        f"the image of {made_of.benchmark} cannot be built",
        file=docker_folder() / f"{made_of.benchmark}.Dockerfile",
        found="\n".join([line for line in lines if line.strip()][-20:]),
        fix="see what the build says, or use --sandbox.type=venv",
    )


def _context(made_of: Recipe) -> bytes:
    """What a build is made from, as a tar without times or owners, so that the engine's cache finds what it has."""
    files = {
        "Dockerfile": made_of.dockerfile,
        f"docker/requirements/{made_of.benchmark}.txt": made_of.requirements,
        **made_of.guest,
        **_host_settings(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _host_settings() -> dict[str, bytes]:
    """The certificates and the pip settings of this machine, for the stage of the build that is left behind."""
    files = {}
    names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    bundle = next((os.environ[name] for name in names if os.environ.get(name)), "")
    if bundle and Path(bundle).is_file():
        files["docker/host-ca.crt"] = Path(bundle).read_bytes()
    settings = _pip_settings()
    if settings:
        lines = ["[global]", *(f"{name} = {value}" for name, value in sorted(settings.items()))]
        files["docker/host-pip.conf"] = ("\n".join(lines) + "\n").encode()
    return files


def _pip_settings() -> dict[str, str]:
    """Where this user's pip finds packages, but for folders, which the build does not see."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    settings = {}
    for option in ("index-url", "extra-index-url", "trusted-host"):
        value = os.environ.get(f"PIP_{option.upper().replace('-', '_')}") or found.get(option, "")
        words = [word for word in value.split() if not word.startswith(("file:", "/", "."))]
        if words:
            settings[option] = " ".join(words)
    return settings


def _proxies() -> dict[str, str]:
    """Docker takes these without keeping them in the image's history."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
    return {name: os.environ[name] for name in names if name in os.environ}


def _base(client: "docker.DockerClient", say: Callable[[str], None]) -> str:
    """An image with Python 3.11 to begin from: one that is here, else the official one, else one made of packages."""
    import docker

    for name in (PYTHON_IMAGE, DEBIAN_IMAGE):
        try:
            client.images.get(name)
        except docker.errors.ImageNotFound:
            continue
        return name
    try:
        client.images.pull(PYTHON_IMAGE)
        return PYTHON_IMAGE
    except (docker.errors.APIError, requests.RequestException) as error:
        refused = reason(error)
    say(f"{PYTHON_IMAGE} cannot be pulled ({refused}): making a base from Debian packages")
    made = subprocess.run(
        ["sh", str(docker_folder() / "make-base.sh"), DEBIAN_IMAGE], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise PrerequisiteError(
            "no base image: it can neither be pulled nor made",
            found=f"{refused}\n{made.stderr.strip()}",
            fix="docker pull python:3.11-slim-bookworm where a registry answers, or run docker/make-base.sh as root",
        )
    return DEBIAN_IMAGE

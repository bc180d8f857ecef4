"""Images of benchmarks: built once from a recipe, found by its digest, listed and pruned.

An image has three parts. The base (docker/Dockerfile.base) is shared by every benchmark and stored once; on it stand
the benchmark's requirements (docker/Dockerfile.NAME), and on those the worker's own sources (docker/Dockerfile.worker),
so that a changed source file costs a second and not an installation. Builds use the network, the certificates and the
pip settings of this machine; the images keep none of them, and stages that saw them are removed.
"""

import io
import logging
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests

from lerobot_ops import envs
from lerobot_ops.errors import OpsError, SandboxError
from lerobot_ops.evaluation.base_image import find_start
from lerobot_ops.evaluation.build_settings import host_settings, proxies
from lerobot_ops.evaluation.sandbox.engine import LABEL, connect, reason
from lerobot_ops.evaluation.sandbox.recipe import Recipe, building, docker_folder, recipe

if TYPE_CHECKING:
    import docker

RECIPE_LABEL = f"{LABEL}.recipe"
"""On an image: the digest of what it was built from."""
_STAGE_LABEL = f"{LABEL}.stage"
_BASE, _REQUIREMENTS = "lerobot-ops/base", "lerobot-ops/requirements"

# Images of older recipes that a build leaves, and of other repositories of the Hub.
_KEPT = 4

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
    """Bytes, with those of the base, which all images share."""
    current: bool
    """Whether it was built from the present recipe."""


def build_image(
    benchmark: str,
    *,
    made_of: Recipe | None = None,
    base_image: str | None = None,
    on_line: Callable[[str], None] | None = None,
) -> BenchmarkImage:
    """Build a benchmark's image unless it is there; `on_line` gets what the build prints.

    `base_image` is what the base begins from when it is built, by default the official image of Python or, where that
    cannot be pulled, one made of Debian packages. Of the images of older recipes the newest are kept.

    Raises PrerequisiteError without an engine or an image to begin from, SandboxError with the last lines when the
    build fails.
    """
    client = connect()
    made_of = made_of or recipe(benchmark)
    say = on_line or _log.debug
    with building(f"image-{benchmark}"):
        image = _built(made_of, client)
        if image is None:
            _log.info("building the image of %s", benchmark)
            base = _base(client, made_of, base_image, say)
            _worker(client, made_of, _requirements(client, made_of, base, say), say)
            image = _built(made_of, client)
            prune_images(benchmark, keep=_KEPT)
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
    """Remove images of older recipes, but for the `keep` newest of each benchmark; returns what was removed.

    The requirements and bases that no image stands on any more go with them.
    """
    client = connect()
    removed, kept = [], dict[str, int]()
    for image in list_images(benchmark, client):
        kept[image.benchmark] = kept.get(image.benchmark, 0) + (not image.current)
        if not image.current and kept[image.benchmark] > keep and _remove(client, image.name):
            removed.append(image)
    _prune_parts(client, benchmark)
    return removed


def _built(made_of: Recipe, client: "docker.DockerClient") -> BenchmarkImage | None:
    images = list_images(made_of.benchmark, client)
    return next((image for image in images if image.recipe == made_of.digest), None)


def image_name(made_of: Recipe) -> str:
    """The name of the image of a recipe: equal recipes, equal names."""
    return f"lerobot-ops/{made_of.benchmark}:{made_of.digest[:12]}"


def _base(client: "docker.DockerClient", made_of: Recipe, start: str | None, say: Callable[[str], None]) -> str:
    """The name of the base that benchmarks share, built unless it is there."""
    name = f"{_BASE}:{made_of.base_digest[:12]}"
    with building("image-base"):
        if start is not None or not _has(client, name):
            files = {"Dockerfile": made_of.shared["Dockerfile.base"]}
            with find_start(client, start, say) as begins_from:
                _build(client, "base", files, name, {"BASE_IMAGE": begins_from}, {}, say)
    return name


def _requirements(client: "docker.DockerClient", made_of: Recipe, base: str, say: Callable[[str], None]) -> str:
    """The name of an image with what runs beside the worker, built unless it is there."""
    name = f"{_REQUIREMENTS}:{made_of.benchmark}-{made_of.requirements_digest[:12]}"
    if not _has(client, name):
        arguments = {"BASE_IMAGE": base, "BENCHMARK": made_of.benchmark}
        _build(client, made_of.benchmark, _requirements_context(made_of), name, arguments, {}, say)
    return name


def _worker(client: "docker.DockerClient", made_of: Recipe, beneath: str, say: Callable[[str], None]) -> None:
    """The image itself: the worker's sources on its requirements."""
    labels = {LABEL: made_of.benchmark, RECIPE_LABEL: made_of.digest}
    arguments = {"REQUIREMENTS_IMAGE": beneath}
    _build(client, made_of.benchmark, _worker_context(made_of), image_name(made_of), arguments, labels, say)


def _requirements_context(made_of: Recipe) -> dict[str, bytes]:
    """What requirements are built from; of ours as they lie in the repository, of a third party's all in one folder."""
    ours = bool(made_of.prefix)
    place, listed = ("docker/", f"docker/requirements/{made_of.benchmark}.txt") if ours else ("", "requirements.txt")
    return {
        "Dockerfile": made_of.dockerfile,
        listed: made_of.requirements,
        f"{place}install.sh": made_of.shared["install.sh"],
        **{f"{made_of.prefix}{name}": content for name, content in made_of.extra.items()},
        **{f"{place}{name}": content for name, content in host_settings().items()},
    }


def _worker_context(made_of: Recipe) -> dict[str, bytes]:
    guest = {f"guest/{name}": content for name, content in made_of.guest.items()}
    return {"Dockerfile": made_of.shared["Dockerfile.worker"], **guest}


def _build(
    client: "docker.DockerClient",
    benchmark: str,
    files: Mapping[str, bytes],
    tag: str,
    arguments: dict[str, str],
    labels: dict[str, str],
    say: Callable[[str], None],
) -> None:
    import docker

    lines: list[str] = []
    try:
        for event in client.api.build(
            fileobj=io.BytesIO(packed(files)),
            custom_context=True,
            dockerfile="Dockerfile",
            tag=tag,
            # What this machine reaches, the build reaches: mirrors on localhost, proxies, a VPN.
            network_mode="host",
            buildargs={**arguments, **proxies()},
            labels=labels,
            rm=True,
            forcerm=True,
            timeout=3600,
            decode=True,
        ):
            for line in (event.get("stream") or event.get("error") or "").splitlines():
                lines.append(line)
                say(line)
            if "error" in event:
                raise _broken(benchmark, lines)
    except (docker.errors.APIError, requests.RequestException) as error:
        raise _broken(benchmark, [*lines, reason(error)]) from error
    finally:
        # Stages hold the certificates and the pip settings of this machine, and so perhaps a password.
        for stage in client.images.list(filters={"label": f"{_STAGE_LABEL}={benchmark}", "dangling": True}):
            _remove(client, str(stage.id))


def packed(files: Mapping[str, bytes]) -> bytes:
    """What a build is made from, as a tar without times or owners, so that the engine's cache finds what it has."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _prune_parts(client: "docker.DockerClient", benchmark: str | None) -> None:
    """Remove requirements and bases of older recipes. What images stand on stays with them, only its name goes."""
    present = [made_of for name in envs.benchmarks() if (made_of := _recipe_or_none(name))]
    current = {f"{_BASE}:{made_of.base_digest[:12]}" for made_of in present}
    current |= {f"{_REQUIREMENTS}:{made_of.benchmark}-{made_of.requirements_digest[:12]}" for made_of in present}
    for image in client.images.list():
        for tag in image.tags:
            base, part = tag.startswith(f"{_BASE}:"), tag.startswith(f"{_REQUIREMENTS}:{benchmark or ''}")
            if tag not in current and ((base and benchmark is None) or part):
                _remove(client, tag)


def _recipe_or_none(benchmark: str) -> Recipe | None:
    try:
        return recipe(benchmark)
    except OpsError:  # it can only run in this interpreter
        return None


def _describe(image: Any) -> BenchmarkImage:
    labels = image.labels
    name = next((tag for tag in image.tags if tag.startswith("lerobot-ops/")), image.id)
    benchmark, made_of = labels[LABEL], labels.get(RECIPE_LABEL, "")
    present = _recipe_or_none(benchmark) if benchmark in envs.benchmarks() else None
    current = present is not None and made_of == present.digest
    return BenchmarkImage(name, benchmark, image.id, made_of, image.attrs["Size"], current)


def _has(client: "docker.DockerClient", name: str) -> bool:
    import docker

    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _remove(client: "docker.DockerClient", name: str) -> bool:
    import docker

    try:
        client.images.remove(name)
    except docker.errors.APIError as error:
        _log.warning("%s stays: %s", name, error.explanation or error)
        return False
    return True


def _broken(benchmark: str, lines: list[str]) -> SandboxError:
    return SandboxError(
        f"the image of {benchmark} cannot be built",
        file=docker_folder() / f"Dockerfile.{benchmark}",
        found="\n".join([line for line in lines if line.strip()][-20:]),
        fix="see what the build says, or use --sandbox.type=venv",
    )

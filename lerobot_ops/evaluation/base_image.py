"""What the base of all images begins from: an image with Python 3.11, pulled, or made of Debian packages."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import requests

from lerobot_ops.errors import PrerequisiteError
from lerobot_ops.evaluation.sandbox.engine import reason
from lerobot_ops.evaluation.sandbox.recipe import docker_folder

if TYPE_CHECKING:
    import docker

PYTHON_IMAGE = "python:3.11-slim-bookworm"
DEBIAN_IMAGE = "lerobot-ops/debian:bookworm"


@contextlib.contextmanager
def find_start(client: "docker.DockerClient", wanted: str | None, say: Callable[[str], None]) -> Iterator[str]:
    """The image named `wanted`, else the official one, else one made of Debian packages.

    The last one holds this machine's certificates and apt settings, so it goes when the base has been built from it.

    Raises PrerequisiteError when there is none.
    """
    import docker

    here = [tag for image in client.images.list() for tag in image.tags]
    known = [name for name in (PYTHON_IMAGE, DEBIAN_IMAGE) if name in here]
    yield wanted or (known[0] if known else _pulled_or_made(client, say))
    with contextlib.suppress(docker.errors.APIError):
        client.images.remove(DEBIAN_IMAGE)


def _pulled_or_made(client: "docker.DockerClient", say: Callable[[str], None]) -> str:
    import docker

    try:
        client.images.pull(PYTHON_IMAGE)
        return PYTHON_IMAGE
    except (docker.errors.APIError, requests.RequestException) as error:
        refused = reason(error)
    say(f"{PYTHON_IMAGE} cannot be pulled ({refused}): making an image from Debian packages")
    made = subprocess.run(
        ["sh", str(docker_folder() / "make-base.sh"), DEBIAN_IMAGE], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise PrerequisiteError(
            "no image to begin from: it can neither be pulled nor made",
            found=f"{refused}\n{made.stderr.strip()}",
            fix="docker pull python:3.11-slim-bookworm where a registry answers, or run docker/make-base.sh as root",
        )
    return DEBIAN_IMAGE

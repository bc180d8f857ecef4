"""Images of benchmarks: what is in them, and how they are found again."""

import io
import tarfile

import pytest

from lerobot_ops.evaluation import images
from lerobot_ops.evaluation.sandbox.engine import LABEL, connect
from lerobot_ops.evaluation.sandbox.recipe import recipe

SETTINGS = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_CERT",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)


@pytest.fixture
def image(docker_sandbox):
    return images.find_image("metaworld")


def test_an_image_is_built_once(image, docker_sandbox):
    lines = []
    again = images.build_image("metaworld", on_line=lines.append)
    assert lines == []
    assert again == image
    assert image.digest == docker_sandbox.identity == images.image_digest("metaworld")
    assert image.name == f"lerobot-ops/metaworld:{recipe('metaworld').digest[:12]}"
    assert image.current


def test_an_image_is_small_and_keeps_nothing_of_the_machine_that_built_it(image):
    client = connect()
    assert image.size < 1.2e9
    inspected = client.images.get(image.digest)
    assert inspected.attrs["Config"]["User"] == "65534:65534"
    script = "from pathlib import Path; print([p for p in ('/build', '/etc/ssl', '/etc/apt') if Path(p).exists()])"
    output = client.containers.run(image.digest, ["-c", script], entrypoint="python", network_mode="none", remove=True)
    assert output == b"[]\n"
    history = " ".join(entry["CreatedBy"] for entry in inspected.history())
    assert "pip install" not in history


def test_a_build_takes_certificates_and_pip_settings_along_but_no_folders(monkeypatch, tmp_path):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    plain = names_in(images._context(recipe("metaworld")))
    assert not any("host-" in name for name in plain)
    certificates = tmp_path / "bundle.crt"
    certificates.write_text("-----BEGIN CERTIFICATE-----")
    monkeypatch.setenv("PIP_CERT", str(certificates))
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///opt/wheels /opt/more https://extra.example/simple")
    files = names_in(images._context(recipe("metaworld")))
    assert files["docker/host-ca.crt"] == b"-----BEGIN CERTIFICATE-----"
    assert files["docker/host-pip.conf"].decode() == (
        "[global]\nextra-index-url = https://extra.example/simple\nindex-url = https://mirror.example/simple\n"
    )
    assert set(files) == {*plain, "docker/host-ca.crt", "docker/host-pip.conf"}


def test_a_build_is_made_from_the_same_bytes_every_time():
    assert images._context(recipe("metaworld")) == images._context(recipe("metaworld"))


def test_what_a_dockerfile_copies_is_what_the_guest_is_made_of():
    files = names_in(images._context(recipe("metaworld")))
    dockerfile = files.pop("Dockerfile").decode()
    folders = {name.rpartition("/")[0] for name in files if name.startswith("lerobot_ops/")}
    for folder in folders:
        assert f"{folder}/" in dockerfile


def test_older_images_are_pruned_and_others_stay(docker_sandbox, image):
    client = connect()
    for age in ("a", "b"):
        dockerfile = f"FROM scratch\nLABEL {LABEL}=retired {LABEL}.recipe={age}\n".encode()
        client.images.build(fileobj=io.BytesIO(dockerfile), tag=f"lerobot-ops/retired:{age}", rm=True, forcerm=True)
    try:
        assert [one.name for one in images.list_images("retired")] == ["lerobot-ops/retired:b", "lerobot-ops/retired:a"]
        assert [one.name for one in images.prune_images("retired", keep=1)] == ["lerobot-ops/retired:a"]
        assert [one.name for one in images.prune_images("retired", keep=0)] == ["lerobot-ops/retired:b"]
        assert images.find_image("metaworld") == image
    finally:
        for one in images.list_images("retired"):
            client.images.remove(one.name, force=True)


def names_in(context):
    with tarfile.open(fileobj=io.BytesIO(context)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}

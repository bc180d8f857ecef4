"""Images of benchmarks: what is in them, and how they are found again."""

import io
import json
import tarfile
from dataclasses import replace

import pytest

from lerobot_ops.evaluation import images
from lerobot_ops.evaluation.build_settings import host_settings
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


@pytest.fixture
def engine(docker_sandbox):
    client = connect()
    yield client
    client.close()


def test_an_image_is_built_once(image, docker_sandbox):
    lines = []
    again = images.build_image("metaworld", on_line=lines.append)
    assert lines == []
    assert again == image
    assert image.digest == docker_sandbox.image == images.image_digest("metaworld")
    assert image.recipe == docker_sandbox.recipe == recipe("metaworld").digest
    assert image.name == f"lerobot-ops/metaworld:{image.recipe[:12]}"


def test_an_image_is_small_and_keeps_nothing_of_the_machine_that_built_it(image, engine):
    assert image.size < 1.2e9
    inspected = engine.images.get(image.digest)
    assert inspected.attrs["Config"]["User"] == "65534:65534"
    gone = ("/build", "/etc/ssl", "/etc/apt", "/root/.cache", "/opt/worker/bin/pip")
    script = f"from pathlib import Path; print([path for path in {gone} if Path(path).exists()])"
    output = engine.containers.run(
        image.digest, ["-c", script], entrypoint="python", user="0", network_mode="none", remove=True
    )
    assert output == b"[]\n"


def test_no_layer_and_no_stage_holds_a_certificate_or_a_setting(image, engine):
    layers = files_of_layers(engine, image.digest)
    assert len(layers) == 3  # the base, the requirements, the worker's sources
    settings = ("build/", "etc/ssl/", "etc/apt/", "etc/pip.conf", "root/.cache", "root/.config", "opt/worker/bin/pip")
    assert [name for files in layers for name in files if name.startswith(settings)] == []
    assert "opt/guest/lerobot_ops/evaluation/worker.py" in layers[-1]
    created = " ".join(entry["CreatedBy"] for entry in engine.images.get(image.digest).history())
    assert "pip" not in created
    assert "host-" not in created
    left = engine.images.list(all=True, filters={"label": "lerobot-ops.stage"})
    assert [stage.tags for stage in left if "metaworld" in stage.labels["lerobot-ops.stage"]] == []


def test_benchmarks_share_their_base(image, engine):
    base = engine.images.get(f"lerobot-ops/base:{recipe('metaworld').base_digest[:12]}")
    shared = base.attrs["RootFS"]["Layers"]
    assert len(shared) == 1
    assert engine.images.get(image.digest).attrs["RootFS"]["Layers"][:1] == shared
    assert recipe("metaworld").base_digest == recipe("pusht").base_digest


def test_a_recipe_names_its_base_its_requirements_and_its_sources():
    made_of = recipe("metaworld")
    other_base = replace(made_of, shared={**made_of.shared, "Dockerfile.base": b"FROM other"})
    prepared = replace(made_of, extra={"prepare.py": b"print()"})
    newer = replace(made_of, guest={**made_of.guest, "lerobot_ops/errors.py": b""})
    recipes = [made_of, other_base, prepared, newer]
    assert len({one.digest for one in recipes}) == 4
    assert len({one.requirements_digest for one in recipes}) == 3
    assert newer.requirements_digest == made_of.requirements_digest
    assert len({one.environment_digest for one in recipes}) == 2


def test_a_guest_holds_no_other_benchmark():
    files = set(recipe("metaworld").guest)
    assert {"lerobot_ops/envs/metaworld.py", "lerobot_ops/envs/rendering.py"} <= files
    assert not [name for name in files if "pusht" in name or "pool" in name or "sandbox" in name]


def test_a_build_takes_certificates_and_pip_settings_along_but_no_folders(monkeypatch, tmp_path):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert host_settings() == {}
    certificates = tmp_path / "bundle.crt"
    certificates.write_text("-----BEGIN CERTIFICATE-----")
    monkeypatch.setenv("PIP_CERT", str(certificates))
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///opt/wheels /opt/more https://extra.example/simple")
    settings = b"[global]\nextra-index-url = https://extra.example/simple\nindex-url = https://mirror.example/simple\n"
    assert host_settings() == {"host-ca.crt": b"-----BEGIN CERTIFICATE-----", "host-pip.conf": settings}


def test_a_build_is_made_from_the_same_bytes_every_time():
    files = {"b": b"2", "a": b"1"}
    assert images.packed(files) == images.packed(dict(sorted(files.items())))


def test_older_images_are_pruned_and_others_stay(image, engine):
    for age in ("a", "b"):
        dockerfile = f"FROM scratch\nLABEL {LABEL}=retired {LABEL}.recipe={age}\n".encode()
        engine.images.build(fileobj=io.BytesIO(dockerfile), tag=f"lerobot-ops/retired:{age}", rm=True, forcerm=True)
    try:
        assert [one.name for one in images.list_images("retired")] == ["lerobot-ops/retired:b", "lerobot-ops/retired:a"]
        assert [one.name for one in images.prune_images("retired", keep=1)] == ["lerobot-ops/retired:a"]
        assert [one.name for one in images.prune_images("retired", keep=0)] == ["lerobot-ops/retired:b"]
        assert images.find_image("metaworld") == image
    finally:
        for one in images.list_images("retired"):
            engine.images.remove(one.name, force=True)


def test_requirements_and_bases_of_older_recipes_go_with_their_images(image, engine):
    made_of = recipe("metaworld")
    base, beneath = f"lerobot-ops/base:{made_of.base_digest[:12]}", f"lerobot-ops/requirements:metaworld-{'0' * 12}"
    engine.api.tag(image.digest, "lerobot-ops/requirements", f"metaworld-{'0' * 12}")
    assert beneath in engine.images.get(image.digest).tags
    images.prune_images("metaworld", keep=100)
    tags = {tag for one in engine.images.list() for tag in one.tags}
    assert beneath not in tags
    assert {base, f"lerobot-ops/requirements:metaworld-{made_of.requirements_digest[:12]}", image.name} <= tags


def files_of_layers(client, image):
    """The names of every file in each of an image's layers, the lowest first."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(client.images.get(image).save()))) as saved:
        layers = json.load(saved.extractfile("manifest.json"))[0]["Layers"]
        return [tarfile.open(fileobj=saved.extractfile(layer)).getnames() for layer in layers]

"""Publishing to the Hub through the real huggingface_hub: what arrives, when its tag moves, what a failure leaves."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from lerobot_ops.errors import ArtifactError, OpsError
from lerobot_ops.hub.fetch import fetch
from lerobot_ops.hub.publish import HubConfig, PublishConfig, publish
from tests.hub.hub_server import TOKEN, Failure, HubServer

DATASET = Path(__file__).parents[1] / "data" / "two_task_h264"
CHECKPOINT = Path(__file__).parents[1] / "data" / "act_reference"
NAME = "datasets/team/two"


@pytest.fixture(autouse=True)
def logged_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def publication(path: Path = DATASET, private: bool | None = None) -> PublishConfig:
    hub = HubConfig(target="huggingface", private=private)
    return PublishConfig(kind="dataset", path=path, repo_id="team/two", hub=hub)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "pipeline"])
def test_what_is_published_comes_back_byte_for_byte(hub: HubServer, monkeypatch: pytest.MonkeyPatch, xet: bool) -> None:
    if xet:  # its own storage needs more than this Hub: here every file is small enough to lie in the commit
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        monkeypatch.setattr("tests.hub.hub_server.LFS_FROM", 1 << 40)
    receipt = publish(publication())
    assert receipt.where == f"{hub.url}/datasets/team/two"
    back = files_of(fetch("team/two"))
    assert {name: content for name, content in back.items() if name in files_of(DATASET)} == files_of(DATASET)
    assert set(back) - set(files_of(DATASET)) == {"README.md", ".gitattributes"}
    repository = hub.repositories[NAME]
    assert repository.tags == {"v3.0": repository.branches["main"]}
    assert not repository.private
    assert b"LeRobot" in back["README.md"]


def test_publishing_again_moves_the_tag_and_removes_what_is_gone(hub: HubServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(DATASET, source)
    (source / "data/chunk-000/file-001.parquet").write_bytes(b"stale")
    (source / "images/front").mkdir(parents=True)
    (source / "images/front/frame.png").write_bytes(b"scratch")
    publish(publication(source))
    first = hub.repositories[NAME].tags["v3.0"]
    assert not any(name.startswith("images/") for name in hub.files(NAME))
    (source / "data/chunk-000/file-001.parquet").unlink()
    (source / "meta/tasks.parquet").write_bytes(b"new")
    publish(publication(source))
    repository = hub.repositories[NAME]
    assert repository.tags["v3.0"] == repository.branches["main"] != first
    assert "data/chunk-000/file-001.parquet" not in hub.files(NAME)
    assert hub.files(NAME)["meta/tasks.parquet"] == b"new"


def test_a_private_dataset_is_private(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(publication(private=True))
    assert hub.repositories[NAME].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OpsError, match="or it is private"):
        fetch("team/two")


def test_a_checkpoint_and_a_report_find_their_rooms(hub: HubServer, tmp_path: Path) -> None:
    config = PublishConfig(kind="checkpoint", path=CHECKPOINT, repo_id="team/act", hub=HubConfig(target="huggingface"))
    publish(config)
    assert hub.files("models/team/act")["config.json"] == (CHECKPOINT / "config.json").read_bytes()
    assert hub.repositories["models/team/act"].tags == {}
    (tmp_path / "report.html").write_text("fine")
    publish(config.model_copy(update={"kind": "report", "path": tmp_path, "repo_id": "team/report"}))
    assert hub.files("datasets/team/report")["report.html"] == b"fine"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(hub: HubServer, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    parts = ("POST /api/repos", "POST .*/preupload/", "PUT /lfs/", "POST .*/commit/", "POST .*/tag/", "GET .*/tree/")
    hub.failures = [Failure(part, status) for part in (*parts, "GET .*/refs", "POST .*batch")]
    publish(publication())
    assert not any(failure.times for failure in hub.failures)
    assert "v3.0" in hub.repositories[NAME].tags


@pytest.mark.parametrize("broken", ["PUT /lfs/", "POST .*/commit/", "POST .*/preupload/"])
def test_a_broken_upload_leaves_no_tag_and_the_former_version(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.failures = [Failure(broken, 503, times=1000)]
    with pytest.raises(OpsError, match=r"busy or down \(it answered 503\)"):
        publish(publication())
    assert hub.repositories[NAME].tags == {}
    hub.failures = []
    publish(publication())
    before = files_of(fetch("team/two"))
    source = tmp_path / "source"
    shutil.copytree(DATASET, source)
    video = next(source.rglob("*.mp4"))
    video.write_bytes(video.read_bytes() + b"more")
    hub.failures = [Failure(broken, 503, times=1000)]
    with pytest.raises(OpsError, match="503"):
        publish(publication(source))
    hub.failures = []
    assert files_of(fetch("team/two")) == before


def test_what_does_not_arrive_as_it_was_is_not_tagged(hub: HubServer) -> None:
    hub.damaged = {"meta/info.json": b"x" * (DATASET / "meta/info.json").stat().st_size}
    with pytest.raises(ArtifactError, match="what arrived on the hub is not what was sent") as error:
        publish(publication())
    assert error.value.field == "meta/info.json"
    assert hub.repositories[NAME].tags == {}


def test_without_a_token_or_with_a_wrong_one_the_error_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OpsError, match="no valid token") as error:
        publish(publication())
    assert "hf_wrong" not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OpsError) as error:
        publish(publication())
    assert "HF_TOKEN" in str(error.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OpsError, match="HF_HUB_OFFLINE is set"):
        publish(publication())
    assert hub.repositories == {}

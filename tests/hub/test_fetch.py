"""Fetching from the Hub: the revision that LeRobot reads, only the files that are needed, and errors that help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.remote import local_root
from lerobot_ops.errors import DatasetError, OpsError
from lerobot_ops.hub.fetch import fetch
from tests.hub.hub_server import TOKEN, Failure, HubServer, Repository, environment

DATASET = Path(__file__).parents[1] / "data" / "two_task_h264"
VIDEOS = {path.relative_to(DATASET).as_posix() for path in DATASET.rglob("*.mp4")}


def files_of(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def put(hub: HubServer, name: str = "team/two", tags: tuple[str, ...] = ("v3.0",), **options: bool) -> Repository:
    repository = Repository(**options)
    commit = repository.commit(files_of(DATASET) | {"README.md": b"# two"})
    repository.tags |= dict.fromkeys(tags, commit)
    hub.repositories[f"datasets/{name}"] = repository
    return repository


def test_what_is_fetched_is_what_is_on_the_hub_and_the_second_time_nothing_is_sent(hub: HubServer) -> None:
    put(hub)
    root = fetch("team/two")
    assert files_of(root) == files_of(DATASET) | {"README.md": b"# two"}
    sent = hub.bytes_sent
    assert fetch("team/two") == root
    assert hub.bytes_sent - sent < 2000


def test_a_directory_of_ones_own_can_take_the_files(hub: HubServer, tmp_path: Path) -> None:
    put(hub)
    root = fetch("team/two", local_dir=tmp_path / "mine", allow_patterns=["meta/*", "README.md"])
    assert root == tmp_path / "mine"
    assert set(files_of(root)) == {name for name in files_of(DATASET) if name.startswith("meta/")} | {"README.md"}


@pytest.mark.parametrize(
    ("tags", "branch", "revision"),
    [(("v3.0", "v3.1"), None, "v3.0"), (("v2.1",), "v3.0", "v3.0"), (("v2.1", "v3.1", "v3.2", "v4.0"), None, "v3.2")],
)
def test_the_revision_is_the_one_that_lerobot_reads(
    hub: HubServer, tags: tuple[str, ...], branch: str | None, revision: str
) -> None:
    repository = put(hub, tags=())
    wanted = repository.commit({"meta/info.json": b"wanted"}, "other")
    repository.tags |= {tag: wanted if tag == revision else repository.branches["main"] for tag in tags}
    if branch:
        repository.branches[branch] = wanted
    assert fetch("team/two").name == wanted
    assert fetch("team/two", "main").name == repository.branches["main"]
    assert fetch("team/two", wanted).name == wanted


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (("v2.0", "v2.1"), "lerobot-ops convert team/two@v2.1 --new_root=DIR"),
        (("v4.0",), "update lerobot-ops"),
        (("first",), "hf repos tag create team/two v3.0 --repo-type dataset"),
    ],
)
def test_a_dataset_without_a_fitting_version_says_what_to_do(hub: HubServer, tags: tuple[str, ...], said: str) -> None:
    put(hub, tags=tags)
    with pytest.raises(OpsError, match="dataset on the Hub has") as error:
        fetch("team/two")
    assert said in str(error.value)


def test_a_model_comes_from_its_main_branch(hub: HubServer) -> None:
    hub.repositories["models/team/act"] = repository = Repository()
    repository.commit({"config.json": b"{}"})
    assert files_of(fetch("team/act", repo_type="model")) == {"config.json": b"{}"}


def test_a_private_dataset_needs_a_token_from_the_environment(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, private=True)
    with pytest.raises(OpsError, match="or it is private") as error:
        fetch("team/two")
    assert "HF_TOKEN" in str(error.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OpsError, match="no valid token") as error:
        fetch("team/two")
    assert "hf_wrong" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert files_of(fetch("team/two"))["README.md"] == b"# two"


def test_what_does_not_exist_or_is_gated_is_said(hub: HubServer) -> None:
    put(hub)
    put(hub, "team/gated", gated=True)
    with pytest.raises(OpsError, match="none of this name"):
        fetch("team/nothing")
    with pytest.raises(OpsError, match="no such revision"):
        fetch("team/two", "v9")
    with pytest.raises(OpsError, match="accept conditions"):
        fetch("team/gated")
    with pytest.raises(OpsError, match="OWNER/NAME"):
        fetch("team/two/three")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(hub: HubServer, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    put(hub)
    hub.failures = [Failure(part, status) for part in ("GET .*/refs", "GET .*/revision/", "GET .*/tree/", "GET /lfs/")]
    assert set(files_of(fetch("team/two"))) == set(files_of(DATASET)) | {"README.md"}
    assert not any(failure.times for failure in hub.failures)


def test_a_hub_that_stays_down_and_a_missing_network_give_what_is_here_or_say_so(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    put(hub)
    hub.failures = [Failure("", 503, times=1000)]
    with pytest.raises(OpsError, match=r"busy or down \(it answered 503\)"):
        fetch("team/two")
    hub.failures = []
    root = fetch("team/two", allow_patterns=["meta/*"])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch("team/two", allow_patterns=["meta/*"]) == root
    with pytest.raises(OpsError, match="cannot be reached, and only a part of it is on this machine"):
        fetch("team/two")
    with pytest.raises(OpsError, match="cannot be reached"):
        fetch("team/other")


def test_offline_only_what_is_here_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub)
    root = fetch("team/two")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("team/two") == root
    assert local_root("team/two") == root
    with pytest.raises(OpsError, match="HF_HUB_OFFLINE is set"):
        fetch("team/other")
    assert hub.requests == []


def test_a_local_directory_asks_nobody(tmp_path: Path) -> None:
    code = (
        "import sys; from lerobot_ops.datasets.remote import local_root; print(local_root(sys.argv[1]));"
        "assert not {'huggingface_hub', 'httpx', 'torch'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(DATASET)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(DATASET)


@pytest.mark.parametrize(
    "place", ["team/two", "team/two@v3.0", "hf://datasets/team/two", "hf://datasets/team/two@v3.0"]
)
def test_a_dataset_on_the_hub_is_named_in_several_ways(hub: HubServer, place: str) -> None:
    put(hub)
    root = local_root(place)
    assert files_of(root) == files_of(DATASET)
    assert local_root(Path(place)) == root


def test_only_the_files_that_the_episodes_and_cameras_need_are_fetched(hub: HubServer, tmp_path: Path) -> None:
    repository = put(hub)
    assert VIDEOS.isdisjoint(files_of(local_root("team/two", cameras=[])))
    assert set(files_of(local_root("team/two", episodes=[3], cameras=["observation.images.front"]))) >= VIDEOS
    assert not hub.asked("README")
    with pytest.raises(DatasetError, match="no such episode"):
        local_root("team/two", episodes=[99])
    with pytest.raises(DatasetError, match="no such camera"):
        local_root("team/two", cameras=["front"])
    repository.tags["v3.0"] = repository.commit({"README.md": b""})
    with pytest.raises(DatasetError, match="holds no LeRobotDataset"):
        local_root("team/two")


def test_what_lerobot_keeps_at_home_comes_before_the_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub)
    home = Path(os.environ["HF_HOME"]) / "lerobot/team/two"
    home.parent.mkdir(parents=True)
    home.symlink_to(DATASET)
    assert local_root("team/two") == home
    assert hub.requests == []
    assert local_root("team/two", revision="v3.0") != home
    monkeypatch.setenv("HF_LEROBOT_HOME", str(home.parents[2]))
    assert local_root("team/two") != home


@pytest.mark.parametrize("place", ["nowhere", "a/b/c", "/etc/nothing", "../../escape", "team/..", "a b/c", ""])
def test_a_place_that_is_neither_says_both(place: str) -> None:
    with pytest.raises(DatasetError, match="a directory, or OWNER/NAME"):
        local_root(place if place else "nothing/")


@pytest.mark.parametrize("name", ["../escaped", "meta/../../../escaped", "/tmp/escaped"])
def test_no_file_lands_outside(hub: HubServer, tmp_path: Path, name: str) -> None:
    put(hub).commits[hub.repositories["datasets/team/two"].branches["main"]] |= {name: b"out"}
    with pytest.raises(OpsError, match="outside"):
        fetch("team/two")
    with pytest.raises(OpsError, match="outside"):
        fetch("team/two", local_dir=tmp_path / "in")
    assert not list(tmp_path.rglob("escaped"))


def test_another_process_goes_by_its_environment(hub: HubServer, tmp_path: Path) -> None:
    put(hub, private=True)
    code = (
        "import lerobot_ops.datasets.remote as remote; from lerobot_ops.errors import OpsError\n"
        "try: print(remote.local_root('team/two'))\nexcept OpsError as error: print(error)"
    )
    variables = os.environ | environment(hub, tmp_path / "other")

    def run(**more: str) -> str:
        options = {"capture_output": True, "text": True, "check": True}
        return subprocess.run([sys.executable, "-c", code], env=variables | more, **options).stdout.strip()

    assert "or it is private" in run()
    assert len(LeRobotDataset(run(HF_TOKEN=TOKEN))) == len(LeRobotDataset(DATASET))

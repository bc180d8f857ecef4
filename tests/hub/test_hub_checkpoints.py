"""Checkpoints on the Hub: what is published loads by its name, with the steps of its training, and comes back alike."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

from lerobot_ops.config import merged
from lerobot_ops.datasets.describing.describe import InfoConfig, info
from lerobot_ops.errors import ArtifactError, CheckpointError, OpsError
from lerobot_ops.flags import build
from lerobot_ops.hub.checkpoints import checkpoint_digest, checkpoint_folder, repository_of
from lerobot_ops.hub.publish import HubConfig, PublishConfig, publish
from lerobot_ops.hub.pull import PullConfig, pull
from lerobot_ops.policies import load_policy
from lerobot_ops.policies.inference import PolicyRunner
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.hub.hub_server import TOKEN, HubServer
from tests.training.conftest import TINY
from tests.training.lessons import record

NAME = "models/team/act"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training's directory with the checkpoints of three steps."""
    folder = tmp_path_factory.mktemp("training")
    values = {"dataset": {"root": record(folder / "data"), "repo_id": "team/lessons"}, "output_dir": folder / "run"}
    values |= {"policy": TINY, "steps": 6, "save_freq": 2, "batch_size": 2, "num_threads": 1}
    train(build(TrainConfig, values, source="the test"))
    (folder / "run/run.json").write_text(json.dumps({"run_id": "a1b2", "flow_run_id": "c3d4", "complete": True}))
    return folder / "run"


@pytest.fixture
def logged_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def publication(path: Path, **values: object) -> PublishConfig:
    usual = {"kind": "checkpoint", "path": path, "repo_id": "team/act", "hub": {"target": "huggingface"}}
    return PublishConfig.model_validate(merged(usual, values))


def same_weights(one: str | Path, other: str | Path) -> bool:
    states = [load_policy(checkpoint_folder(place)).state_dict() for place in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_is_published_is_loaded_by_its_name(logged_in: HubServer, run: Path) -> None:
    receipt = publish(publication(run))
    folder = checkpoint_folder("team/act")
    assert checkpoint_digest(folder) == receipt.digest == checkpoint_digest(run / "pretrained_model")
    assert repository_of(folder) == ("team/act", logged_in.repositories[NAME].branches["main"])
    assert same_weights("team/act", run)
    assert same_weights("hf://team/act", run)
    assert PolicyRunner.from_checkpoint("team/act").n_action_steps == 5


def test_the_steps_of_a_training_lie_where_lerobot_looks_for_them(logged_in: HubServer, run: Path) -> None:
    publish(publication(run, steps="all"))
    files = logged_in.files(NAME)
    for step in ("000002", "000004", "000006"):
        assert f"checkpoints/{step}/pretrained_model/model.safetensors" in files
        assert f"checkpoints/{step}/training_state/optimizer_state.safetensors" in files
        assert same_weights(f"team/act@{step}", run / f"checkpoints/{step}")
        tagged = logged_in.repositories[NAME].resolve(step)
        assert f"checkpoints/{step}/pretrained_model/config.json" in logged_in.repositories[NAME].commits[tagged]
    assert not same_weights("team/act@000002", run)
    publish(publication(run))  # what lies at the root is replaced, the steps stay
    assert logged_in.files(NAME).keys() == files.keys()


def test_without_a_checkpoint_at_the_root_the_last_step_is_meant(logged_in: HubServer, run: Path) -> None:
    publish(publication(run, steps=[2, 4]))
    repository = logged_in.repositories[NAME]
    steps = {name: content for name, content in logged_in.files(NAME).items() if name.startswith("checkpoints/")}
    repository.commit(steps)
    assert same_weights("team/act", run / "checkpoints/000004")
    repository.commit({"README.md": b"nothing"})
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint_folder("team/act")


def test_pulled_it_is_what_was_published(logged_in: HubServer, run: Path, tmp_path: Path) -> None:
    receipt = publish(publication(run, steps="all"))
    pulled = pull(PullConfig(repo_id="team/act", output=tmp_path / "act"))
    names = {path.name for path in (run / "pretrained_model").iterdir()}
    assert {path.name for path in (tmp_path / "act").iterdir()} == names
    assert (pulled.digest, pulled.files) == (receipt.digest, len(names))
    pull(PullConfig(repo_id="team/act@000002", output=tmp_path / "early"))
    assert same_weights(tmp_path / "early", run / "checkpoints/000002")
    with pytest.raises(ArtifactError, match="exists already"):
        pull(PullConfig(repo_id="team/act", output=tmp_path / "act"))
    with pytest.raises(OpsError, match="none of this name"):
        pull(PullConfig(repo_id="team/nobody", output=tmp_path / "nobody"))
    assert not (tmp_path / "nobody").exists()


def test_the_folder_hub_does_the_same(run: Path, tmp_path: Path) -> None:
    hub = HubConfig(root=tmp_path / "hub")
    publish(publication(run, hub=hub.model_dump(), steps=[2]))
    for name, source in (("team/act", run), ("team/act@000002", run / "checkpoints/000002")):
        output = tmp_path / name.replace("/", "-")
        pull(PullConfig(repo_id=name, output=output, root=hub.root))
        assert same_weights(output, source)
    with pytest.raises(ArtifactError, match=r"no such checkpoint[\s\S]*\[3\]"):
        publish(publication(run, hub=hub.model_dump(), steps=[3]))


def test_without_a_network_it_is_what_was_fetched_before(
    logged_in: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(publication(run, steps="all"))
    before = [checkpoint_folder(place) for place in ("team/act", "team/act@000002")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [checkpoint_folder(place) for place in ("team/act", "team/act@000002")] == before
    with pytest.raises(OpsError, match="HF_HUB_OFFLINE is set"):
        checkpoint_folder("team/other")


@pytest.mark.parametrize(
    "place", ["../../etc/passwd", "team/../act", "a/b/c", "nowhere", "team/act@", "hf://datasets/a/b"]
)
def test_a_name_that_is_none(hub: HubServer, place: str) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint_folder(place)
    assert hub.requests == []


def test_a_directory_is_never_asked_of_the_hub(
    hub: HubServer, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team/act").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        checkpoint_folder("team/act")
    assert checkpoint_folder(run) == run / "pretrained_model"
    assert checkpoint_folder(run / "checkpoints/last") == run / "checkpoints/last/pretrained_model"
    assert hub.requests == []


def test_its_card_and_its_description_say_where_it_comes_from(logged_in: HubServer, run: Path) -> None:
    publish(publication(run))
    card = logged_in.files(NAME)["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["library_name"], front["pipeline_tag"], front["datasets"]) == ("lerobot", "robotics", "team/lessons")
    about = json.loads(info(InfoConfig(root=run, as_json=True)))["provenance"]
    assert about["mlflow_run"] == "a1b2"
    assert about["flow_run"] == "c3d4"
    manifest = json.loads((run / "pretrained_model/manifest.json").read_text())
    assert about == {**manifest, "mlflow_run": "a1b2", "flow_run": "c3d4"}
    assert set(manifest) == {"schema_version", "dataset_digest", "code_version", "config_hash"}
    for value in about.values():
        assert f"`{value}`" in card
    last = json.loads(info(InfoConfig(root=run / "checkpoints/000002", as_json=True)))["provenance"]
    assert last["mlflow_run"] == "a1b2"
    fetched = info(InfoConfig(root=Path("hf://team/act")))
    assert "dataset digest" in fetched
    assert manifest["config_hash"] in fetched

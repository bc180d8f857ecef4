"""Publishing to the folder hub: the same bytes, a card, and never a half-written copy."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lerobot_ops.errors import ArtifactError
from lerobot_ops.hub.publish import HubConfig, PublishConfig, publish
from lerobot_ops.versioning.digest import digest

DATASET = Path(__file__).parents[1] / "data" / "two_task_h264"


def publication(hub: Path, path: Path = DATASET, name: str = "team/two-task") -> PublishConfig:
    return PublishConfig(kind="dataset", path=path, repo_id=name, hub=HubConfig(root=hub))


def test_what_is_published_is_what_was_there_with_a_card(tmp_path: Path) -> None:
    receipt = publish(publication(tmp_path / "hub"))
    published = Path(receipt.where)
    card = (published / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    (published / "README.md").unlink()
    assert receipt.digest == digest(DATASET) == digest(published)
    assert front["configs"] == [{"config_name": "default", "data_files": "data/*/*.parquet"}]
    assert "LeRobot" in front["tags"]
    stored = json.loads((tmp_path / "hub/receipts/datasets/team/two-task.json").read_text())
    assert stored["digest"] == receipt.digest
    assert len(stored["files"]) == receipt.files


def test_publishing_again_replaces_all_of_it_and_leaves_nothing_beside(tmp_path: Path) -> None:
    source = tmp_path / "report"
    source.mkdir()
    (source / "old.html").write_text("old")
    config = PublishConfig(kind="report", path=source, repo_id="team/report", hub=HubConfig(root=tmp_path / "hub"))
    publish(config)
    (source / "old.html").rename(source / "report.html")
    published = Path(publish(config).where)
    assert sorted(path.name for path in published.iterdir()) == ["README.md", "report.html"]
    assert [path.name for path in published.parent.iterdir()] == ["report"]


def test_nothing_to_publish_and_a_hub_that_is_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing to publish"):
        publish(publication(tmp_path / "hub", path=tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        publish(publication(tmp_path / "file"))
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("name", ["../escape", "a/b/c", "/etc", "a/../b", ""])
def test_a_name_never_leads_out_of_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError):
        publication(tmp_path, name=name)

"""Repair: after it validation finds no errors, what is kept is what was recorded, and what is lost is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from corpus import BREAKAGES, good_datasets
from recordings import LEROBOT, picture, record

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.repairing.repair import RepairConfig, RepairResult, repair
from lerobot_ops.datasets.validation.validate import validate
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import ArtifactError, DatasetError
from lerobot_ops.versioning.digest import digest

BEYOND_REPAIR = {
    # nothing else says what the features are
    *("old version", "no rate", "rate is gone", "info is no JSON", "info is a list", "info is gone"),
    *("unknown dtype", "empty shape", "path outside"),
    # the numbers themselves are gone
    *("data is gone", "data garbled"),
    # which of the two is right is not known
    *("wrong width", "two widths", "language as text"),
}
LEFT_AS_IT_IS = {
    # annotations are for a person to correct
    *("unknown style", "speech of nobody", "camera of no picture"),
    # what the levels stand for is not known
    *("depth turned round", "depth in feet"),
}


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> dict[str, Path]:
    return dict(good_datasets(tmp_path_factory.mktemp("good")))


def repaired(root: Path, to: Path) -> RepairResult:
    return repair(RepairConfig(root=root, new_root=to))


@pytest.mark.parametrize("what", BREAKAGES)
def test_after_a_repair_validation_finds_no_errors(what, good, tmp_path):
    breakage = BREAKAGES[what]
    broken = shutil.copytree(good[breakage.base], tmp_path / "broken")
    breakage.mutate(broken)
    before = digest(broken)
    if what in BEYOND_REPAIR:
        with pytest.raises(DatasetError):
            repaired(broken, tmp_path / "new")
        assert not (tmp_path / "new").exists()
    else:
        result = repaired(broken, tmp_path / "new")
        assert bool(result.remaining) == (what in LEFT_AS_IT_IS), str(result)
        assert (result.path is None) == (not (tmp_path / "new").exists())
        if breakage.severity == "error":
            assert result.path is not None
            assert result.episodes >= 1
    assert digest(broken) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_kept_is_what_was_recorded(good, tmp_path):
    """Episode 1 loses a frame; the others are the same, to the pixel."""
    broken = shutil.copytree(good["recorded"], tmp_path / "broken")
    BREAKAGES["frame lost"].mutate(broken)
    result = repaired(broken, tmp_path / "new")
    assert [sentence.split(":")[0] for sentence in result.lost] == ["episode 1"]
    old, new = LeRobotDataset(good["recorded"], episodes=[0, 2, 3]), LeRobotDataset(tmp_path / "new")
    assert len(new) == len(old) == result.frames
    for row in range(len(old)):
        before, after = old[row], new[row]
        assert before.keys() == after.keys()
        for name in before.keys() - {"index", "episode_index", "task_index"}:
            assert np.array_equal(before[name], after[name]), name
    for feature, stats in new.stats.items():
        assert all(np.isfinite(value).all() for value in stats.values()), feature


def test_no_episode_gets_frames_of_another(good, tmp_path):
    """A camera lost a frame of episode 1: the others keep their own pictures, whether the table says where or not."""
    broken = shutil.copytree(good["recorded"], tmp_path / "broken")
    BREAKAGES["frame dropped while streaming"].mutate(broken)
    assert [sentence.split(":")[0] for sentence in repaired(broken, tmp_path / "new").lost] == ["episode 1"]
    key, new = "observation.images.front", LeRobotDataset(tmp_path / "new")
    for row, (episode, frame) in {0: (0, 0), 12: (2, 0), 25: (2, 13), 26: (3, 0), 40: (3, 14)}.items():
        shown = new[row][key].numpy().transpose(1, 2, 0) * 255
        assert np.abs(shown - picture(episode, frame)).mean() < 12, (row, episode, frame)
    BREAKAGES["episodes are gone"].mutate(broken)
    lost = [sentence.split(":")[0] for sentence in repaired(broken, tmp_path / "counted").lost]
    assert lost == ["episode 1", "episode 2", "episode 3"], "where these are cannot be told any more"


def test_a_killed_recording_of_lerobot_is_saved(tmp_path):
    """Four episodes were saved; of them the data lost its footer, and the episodes table was never written."""
    result = repaired(LEROBOT / "crashed", tmp_path / "new")
    assert (result.episodes, result.frames, result.lost, result.remaining) == (4, 160, [], [])
    assert any("without the footer" in sentence for sentence in result.done)
    dataset = LeRobotDataset(tmp_path / "new")
    assert len({dataset[row]["observation.images.front"].numpy().tobytes() for row in range(0, 160, 8)}) == 20
    assert validate(tmp_path / "new").ok


def test_a_killed_recording_of_ours_loses_nothing(tmp_path):
    """An episode that was being saved left its data in place, but no row of the episodes table."""
    features = {"action": {"dtype": "float32", "shape": [2], "names": None}}
    writer = DatasetWriter.create(tmp_path / "made", fps=10, features=features)
    for episode in range(3):
        for frame in range(5):
            writer.add_frame({"action": np.full(2, 10 * episode + frame, np.float32), "task": "push"})
        writer.save_episode()
    writer.close()
    (tmp_path / "made/meta/episodes/chunk-000/file-002.parquet").unlink()
    result = repaired(tmp_path / "made", tmp_path / "new")
    assert result.remaining == []
    actions = LeRobotDataset(tmp_path / "new").column("action")[:, 0]
    assert actions[:10].tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_episodes_that_wait_for_their_turn_are_named(good, tmp_path):
    broken = shutil.copytree(good["unfinished"], tmp_path / "broken")
    (broken / ".recording/000004").mkdir()
    result = repaired(broken, tmp_path / "new")
    assert result.episodes == 3
    assert ["episode 4" in sentence and "resume" in sentence for sentence in result.lost] == [True]


def test_a_sound_dataset_is_left_alone(good, tmp_path):
    for name in ("recorded", "av1", "lerobot h264"):
        result = repaired(good[name], tmp_path / "new")
        assert str(result) == "there is nothing to repair"
        assert not (tmp_path / "new").exists()


def test_a_dry_run_writes_nothing(tmp_path):
    result = repair(RepairConfig(root=LEROBOT / "crashed", new_root=tmp_path / "new", dry_run=True))
    assert "4 episodes, 160 frames can be saved" in str(result)
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_never_overwritten(tmp_path):
    root = record(tmp_path / "made", ["push"])
    with pytest.raises(ArtifactError, match="exists already"):
        repaired(LEROBOT / "crashed", root)

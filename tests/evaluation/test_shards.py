"""One evaluation in parts: the same records, whoever played them, and what keeps wrong parts from being merged."""

import json
import shutil
from pathlib import Path

import pytest

from lerobot_ops.cli import main
from lerobot_ops.errors import ArtifactError, ConfigError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.records import FILE_NAME, read_records, write_records
from lerobot_ops.evaluation.shards import merge_shards, shards_of
from lerobot_ops.flags import build

TASKS = "button-press-topdown-v3,reach-v3"


def configured(output: Path, **values) -> EvalConfig:
    usual = {
        "env": {"task": TASKS, "episode_length": 66},  # the expert needs 59 to 70 steps for the button
        "eval": {"n_episodes": 3, "batch_size": 1},
        "clips": {"enable": True, "size": 64, "fps": 2},
        "sandbox": {"type": "venv"},
        "output_dir": output,
    }
    return build(EvalConfig, {**usual, **values}, source="a test")


def outcomes(result):
    return [record.outcome() for record in result.records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return evaluate(configured(tmp_path_factory.mktemp("whole") / "result"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The folders of three finished shards."""
    parts = shards_of(configured(tmp_path_factory.mktemp("shards") / "result"), 3)
    return [evaluate(part).output_dir for part in parts]


def test_shards_share_the_episodes_out(tmp_path):
    config = configured(tmp_path / "result")
    parts = shards_of(config, 4)
    assert [part.shard for part in parts] == ["1/4", "2/4", "3/4", "4/4"]
    assert [len(part.episodes()) for part in parts] == [1, 2, 1, 2]
    assert [episode for part in parts for episode in part.episodes()] == config.episodes()
    assert len(shards_of(config, 100)) == 6
    assert len({part.output_dir for part in parts}) == 4


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1/7", "1", "one/two", "1/0"])
def test_a_shard_that_there_is_not(tmp_path, shard):
    with pytest.raises(ConfigError, match="shard"):
        configured(tmp_path, shard=shard)


def test_merged_shards_are_the_evaluation_in_one_piece(whole, shards, tmp_path):
    merged = merge_shards([shards[2], shards[0], shards[1], shards[0]], tmp_path / "merged")
    assert outcomes(merged) == outcomes(whole)
    assert merged.model_dump(exclude={"output_dir"}) == whole.model_dump(exclude={"output_dir"})
    for name in ("metrics.json", "task_descriptions.json"):
        assert content(merged.output_dir / name) == content(whole.output_dir / name)
    for clip in whole.clips:
        assert (merged.output_dir / clip.path).read_bytes() == (whole.output_dir / clip.path).read_bytes()
    assert merge_shards(shards, tmp_path / "merged") == merged, "done already"
    played = []
    again = evaluate(configured(tmp_path / "merged"), on_record=played.append)
    assert (again, played) == (merged, []), "the merged result is this evaluation's"


def content(path: Path) -> dict:
    """What a file holds, without how long it took."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "eval_s"}


def test_shards_are_merged_from_the_command_line(whole, shards, tmp_path, capsys):
    folders = ", ".join(map(str, shards))
    main(["merge-shards", f"--shards=[{folders}]", f"--output_dir={tmp_path / 'merged'}"])
    assert f"pc_success {whole.summary()}, from 3 shards" in capsys.readouterr().out


def copied(shard: Path, place: Path) -> Path:
    return Path(shutil.copytree(shard, place))


def test_an_error_gives_way_to_another_shard_that_has_the_episode(shards, whole, tmp_path):
    broken = copied(shards[0], tmp_path / "broken")
    first, *others = read_records(broken / FILE_NAME)
    values = {**first.__dict__, "success": False, "error": "it died", "steps": 0}
    write_records(broken / FILE_NAME, [type(first)(**values), *others])
    assert merge_shards([broken, *shards[1:]], tmp_path / "one").n_errors == 1
    assert outcomes(merge_shards([broken, *shards], tmp_path / "other")) == outcomes(whole)


def test_what_cannot_be_merged(shards, tmp_path):
    with pytest.raises(ArtifactError, match=r"2 of 6 episodes are in no shard[\s\S]*from 1/n to n/n"):
        merge_shards(shards[:2], tmp_path / "merged")
    with pytest.raises(ArtifactError, match="not finished"):
        merge_shards([*shards, tmp_path / "nothing"], tmp_path / "merged")
    other = evaluate(configured(tmp_path / "other", seed=7, shard="1/6", clips={"enable": False}))
    with pytest.raises(ArtifactError, match=r"no shard of the evaluation in[\s\S]*clips"):
        merge_shards([*shards, other.output_dir], tmp_path / "merged")
    changed = copied(shards[1], tmp_path / "changed")
    first, *others = read_records(changed / FILE_NAME)
    write_records(changed / FILE_NAME, [type(first)(**{**first.__dict__, "steps": 1}), *others])
    with pytest.raises(ArtifactError, match=r"differently in two shards[\s\S]*1 steps"):
        merge_shards([*shards, changed], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()

"""Every edit through its configuration, as the command line and the DVC stages give it."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from edited import sound
from recordings import columns_of, record

from lerobot_ops.cli import main
from lerobot_ops.datasets.editing.command import EditConfig, edit
from lerobot_ops.datasets.tables import load_episodes, load_tasks
from lerobot_ops.datasets.validation.command import CheckConfig, check
from lerobot_ops.errors import ConfigError, DatasetError
from lerobot_ops.flags import describe, parse
from lerobot_ops.versioning.digest import digest

FRONT, WRIST = "observation.images.front", "observation.images.wrist"


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """Three episodes of 5, 6 and 7 frames, a camera as video and one as images."""
    root = tmp_path_factory.mktemp("arm") / "arm"
    return record(root, ["push", "pull", "push"], frames=5, cameras={FRONT: "video", WRIST: "image"})


def configured(root: Path, target: Path, operation: dict, **fields) -> EditConfig:
    """The configuration that a command line gives: `--operation.a.b=value` for every value."""
    arguments = [str(root), f"--new_root={target}"]
    arguments += [
        f"--operation.{name}={yaml.safe_dump(value, sort_keys=False).removesuffix('...')}"
        for name, value in operation.items()
    ]
    arguments += [f"--{name}={value}" for name, value in fields.items()]
    return parse(EditConfig, [argument.rstrip() for argument in arguments], "root")


OPERATIONS = {
    "delete_episodes": {"episode_indices": [1]},
    "trim": {"head_s": 0.2, "tail_s": 0.0, "episode_indices": [0, 2]},
    "trim ranges": {"ranges": {1: [2, 6]}},
    "split": {"splits": {"train": 0.6, "test": 0.4}},
    "remove_feature": {"feature_names": ["next.reward"]},
    "rename_feature": {"feature_names": {FRONT: "observation.images.top", "action": "action.raw"}},
    "cast_feature": {"dtypes": {"observation.state": "float64"}},
    "modify_tasks": {"new_task": "press", "episode_tasks": {"1": "lift"}, "task_replacements": {"push": "shove"}},
    "convert_image_to_video": {"rgb_encoder.vcodec": "h264", "rgb_encoder.crf": 20, "num_workers": 2},
    "reencode_videos": {"rgb_encoder.crf": 35, "depth_encoder": None, "encoder_threads": 1},
    "recompute_stats": {"skip_image_video": False, "relative_action": True, "chunk_size": 3},
    "rechunk": {"data_files_size_in_mb": 10, "video_files_size_in_mb": 20, "chunks_size": 5},
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_edit_is_sound_repeatable_and_announced(arm, tmp_path, name):
    operation = {"type": name.partition(" ")[0], **OPERATIONS[name]}
    before = digest(arm)
    plans = edit(configured(arm, tmp_path / "new", operation, dry_run="true"))
    assert not list(tmp_path.iterdir())
    results = edit(configured(arm, tmp_path / "new", operation))
    for plan, result in zip(plans, results, strict=True):
        assert (plan.path, plan.episodes, plan.frames, plan.tasks) == (
            result.path,
            result.episodes,
            result.frames,
            result.tasks,
        )
        assert str(plan.frames) in str(plan)
        assert str(result.episodes) in str(result)
        sound(result.path)
    edit(configured(arm, tmp_path / "again", operation))
    assert digest(tmp_path / "new") == digest(tmp_path / "again")
    assert digest(arm) == before


def test_values_come_from_files(arm, tmp_path):
    score, force = np.arange(18, dtype=np.float32), np.random.default_rng(0).normal(size=(18, 2))
    np.save(tmp_path / "score.npy", score)
    np.savez(tmp_path / "more.npz", newton=force, other=score)
    features = {
        "score": {"file": str(tmp_path / "score.npy")},
        "observation.force": {"file": str(tmp_path / "more.npz"), "column": "newton", "names": ["left", "right"]},
        "pair": {"file": str(tmp_path / "more.npz"), "column": "newton", "shape": [2, 1]},
    }
    [result] = edit(configured(arm, tmp_path / "new", {"type": "add_features", "features": features}))
    data = columns_of(result.path, ["score", "observation.force", "pair"])
    assert data["score"] == score.tolist()
    np.testing.assert_array_equal(data["observation.force"], force)
    np.testing.assert_array_equal(data["pair"], force[..., None])
    sound(result.path)
    features["score"]["dtype"] = "uint8"
    [result] = edit(configured(arm, tmp_path / "small", {"type": "add_features", "features": features}))
    assert columns_of(result.path, ["score"])["score"] == list(range(18))
    features["score"]["dtype"] = "float23"
    with pytest.raises(DatasetError, match="a numpy dtype name"):
        edit(configured(arm, tmp_path / "none", {"type": "add_features", "features": features}))


def test_a_merge_encodes_what_cannot_be_joined_when_asked_to(arm, tmp_path):
    other = record(tmp_path / "other", ["lift"], frames=5, cameras={FRONT: "video", WRIST: "image"}, vcodec="hevc")
    operation = {"type": "merge", "roots": [str(arm), str(other)]}
    config = configured(arm, tmp_path / "new", operation)
    with pytest.raises(DatasetError, match="reencode=true"):
        edit(config)
    [result] = edit(configured(arm, tmp_path / "new", operation | {"reencode": True, "rgb_encoder.vcodec": "h264"}))
    assert result.tasks == ["push", "pull", "lift"]
    sound(result.path)


def test_a_dataset_must_be_named(tmp_path):
    for operation, field in (({"type": "rechunk"}, "root"), ({"type": "merge"}, "operation.roots")):
        with pytest.raises(ConfigError, match=f"--{field}=PATH"):
            edit(EditConfig(new_root=tmp_path / "new", operation=operation))


def test_the_command_line_says_what_it_did_and_what_is_wrong(arm, tmp_path, capsys):
    main(
        ["edit", str(arm), f"--new_root={tmp_path / 'new'}", "--operation.type=modify_tasks", "--operation.new_task=x"]
    )
    assert "3 episodes, 18 frames, 1 task(s)" in capsys.readouterr().out
    assert load_tasks(tmp_path / "new") == ["x"]
    for flag, says in (
        ("--operation.new_taks=x", "did you mean 'new_task'"),
        ("--operation.task_replacements={pusj: x}", "did you mean 'push'"),
        ("--operation.episode_tasks={one: x}", "valid integer"),
    ):
        with pytest.raises(SystemExit):
            main(["edit", str(arm), f"--new_root={tmp_path / 'other'}", "--operation.type=modify_tasks", flag])
        assert says in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_every_flag_of_every_edit_is_described():
    for label, operation in OPERATIONS.items():
        chosen = [f"--operation.type={label.partition(' ')[0]}"]
        flags = {flag: sentence for flag, _, _, sentence in describe(EditConfig, chosen)}
        for name in operation:
            assert name == "depth_encoder" or flags[f"--operation.{name}"]


def test_the_documentation_shows_every_edit():
    page = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
    commands = [shlex.split(line)[2:] for line in page.splitlines() if line.startswith("lerobot-ops edit")]
    shown = [parse(EditConfig, arguments, "root").operation.type for arguments in commands]
    assert set(shown) == {name.partition(" ")[0] for name in OPERATIONS} | {"merge", "add_features"}


def test_a_stage_reads_its_operation_from_params(arm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = {"edit": {"relabel": {"type": "modify_tasks", "task_replacements": {"push": "shove"}}}}
    Path("params.yaml").write_text(yaml.safe_dump(wanted))
    main(["edit", f"--root={arm}", "--new_root=out", "--operation=@params.yaml:edit.relabel"])
    assert load_tasks("out") == ["shove", "pull"]


def test_deletes_what_validation_reports(tmp_path):
    root = record(tmp_path / "old", ["push", "push"], frames=4, cameras={})
    config = configured(root, tmp_path / "new", {"type": "delete_episodes", "checks": ["episode-without-success"]})
    assert [result.episodes for result in edit(config)] == [2]
    config = configured(root, tmp_path / "less", {"type": "delete_episodes", "episode_indices": [0]})
    assert load_episodes(edit(config)[0].path).num_rows == 1


def test_a_check_leaves_its_report(arm, tmp_path):
    report = check(CheckConfig(root=arm, json_path=tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text())["episodes"] == report.episodes == 3

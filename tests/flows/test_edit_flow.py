"""Editing as a flow: any edit, done once for the same content, wherever that lies."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.edit import EditFlowConfig, edit
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.tables import load_data, load_tasks
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import ConfigError
from lerobot_ops.flags import parse


def record(root: Path, task: str) -> Path:
    features = {"observation.state": {"dtype": "float32", "shape": [2], "names": ["x", "y"]}}
    with DatasetWriter.create(root, fps=10, features=features) as writer:
        for number in range(3):
            writer.add_frame({"observation.state": np.full(2, number, np.float32), "task": task})
        writer.save_episode()
    return root


def run(*arguments: str):
    return edit(parse(EditFlowConfig, arguments))


def test_the_same_edit_of_the_same_content_is_done_once(workspace: Path) -> None:
    first = record(workspace / "first", "push")
    told = run(f"--root={first}", "--operation.type=modify_tasks", "--operation.new_task=press")
    assert load_tasks(told.path) == ["press"]
    moved = shutil.copytree(first, workspace / "moved")
    again = run(f"--root={moved}", "--operation.type=modify_tasks", "--operation.new_task=press")
    assert again == told
    other = run(f"--root={moved}", "--operation.type=modify_tasks", "--operation.new_task=lift")
    assert other.path != told.path


def test_a_files_content_counts_and_not_its_place(workspace: Path) -> None:
    root = record(workspace / "first", "push")
    made = []
    for folder, values in (("a", [1.0, 2.0, 3.0]), ("b", [1.0, 2.0, 3.0]), ("c", [1.0, 2.0, 4.0])):
        (workspace / folder).mkdir()
        np.save(workspace / folder / "score.npy", np.array(values))
        features = f"--operation.features={{score: {{file: {workspace / folder / 'score.npy'}}}}}"
        made.append(run(f"--root={root}", "--operation.type=add_features", features))
    assert made[0] == made[1] != made[2]
    assert load_data(made[2].path).column("score").to_pylist() == [1.0, 2.0, 4.0]


def test_a_merge_names_its_own(workspace: Path) -> None:
    roots = [record(workspace / name, name) for name in ("push", "pull")]
    joined = run("--operation.type=merge", f"--operation.roots=[{roots[0]}, {roots[1]}]", "--repo_id=demo/all")
    assert load_info(joined.path).total_episodes == 2
    assert joined.name == "demo/all"
    with pytest.raises(ConfigError, match=r"operation\.roots"):
        run("--operation.type=merge")

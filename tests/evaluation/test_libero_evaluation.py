"""LIBERO evaluated from end to end: stored actions of a solved task are played again in its sandbox."""

import json
from pathlib import Path

import numpy as np
import pytest

from lerobot_ops import envs
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.envs.libero import LiberoEnv
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.records import read_records
from lerobot_ops.flags import build

TASK = "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet"
SOLVED = Path(__file__).parents[1] / "data" / "libero_closed_drawer.npz"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One episode: a scripted hand, which knew where the drawer was, pushes it shut from initial state 0."""
    features = {key: entry for key, entry in LiberoEnv().features.items() if entry["dtype"] != "video"}
    root = tmp_path_factory.mktemp("libero") / "drawer"
    writer = DatasetWriter.create(root, fps=20, features=features)
    for action in np.load(SOLVED)["actions"]:
        state = np.zeros(8, dtype=np.float32)
        writer.add_frame({"observation.state": state, "action": action, "task": envs.instruction("libero", TASK)})
    writer.save_episode()
    return writer.finalize()


def test_stored_actions_solve_their_task_again(dataset, tmp_path):
    config = {
        "env": {"type": "libero", "task": TASK},
        "policy": {"path": "replay", "dataset": dataset},
        "eval": {"n_episodes": 1},
        "clips": {"enable": False},
        "output_dir": tmp_path / "result",
    }
    result = evaluate(build(EvalConfig, config, source="a test"))
    assert (result.pc_success, result.n_episodes, result.n_errors) == (100, 1, 0)
    (record,) = read_records(tmp_path / "result" / "records.jsonl")
    assert (record.task, record.init_state, record.success) == (TASK, 0, True)
    assert 75 <= record.steps <= 82
    assert record.sum_reward == 1
    described = json.loads((tmp_path / "result" / "task_descriptions.json").read_text())
    assert list(described.values()) == ["close the top drawer of the cabinet"]

"""Benchmarks by name, and the tables that are read without their simulators."""

import subprocess
import sys

import pytest

from lerobot_ops import envs
from lerobot_ops.errors import ConfigError


def test_a_selection_names_groups_and_tasks():
    assert {"libero", "metaworld"} <= set(envs.benchmarks())
    assert envs.tasks("metaworld", "reach-v3") == ["reach-v3"]
    assert envs.task_groups("metaworld", "hard, reach-v3") == {
        "hard": ["assembly-v3", "hand-insert-v3", "pick-out-of-hole-v3", "pick-place-v3", "push-v3", "push-back-v3"],
        "reach-v3": ["reach-v3"],
    }
    # A task that two words select is played once.
    assert len(envs.tasks("metaworld", "easy,button-press-v3")) == 28


def test_every_task_has_one_difficulty_and_an_instruction():
    known = envs.benchmark("metaworld")
    difficulties = [known.groups[name] for name in ("easy", "medium", "hard", "very_hard")]
    assert [len(group) for group in difficulties] == [28, 11, 6, 5]
    assert sorted(task for group in difficulties for task in group) == sorted(known.instructions)
    assert envs.tasks("metaworld", "mt50") == list(known.instructions)
    assert set(known.groups["mt10"]) < set(known.instructions)
    assert envs.instruction("metaworld", "button-press-topdown-v3") == "Press a button from the top"


@pytest.mark.parametrize(
    ("name", "selection", "says"),
    [
        ("metawrld", "easy", "did you mean 'metaworld'?"),
        ("metaworld", "button-press-topdown", "'button-press-topdown-v3'"),
        ("metaworld", "esy", "did you mean 'easy'?"),
        ("metaworld", " , ", "no task is selected"),
    ],
)
def test_an_unknown_name_is_met_with_close_ones(name, selection, says):
    with pytest.raises(ConfigError) as caught:
        envs.tasks(name, selection)
    assert says in str(caught.value)


def test_reading_the_tables_imports_nothing_heavy():
    script = """
import sys
from lerobot_ops import envs
envs.tasks("metaworld", "mt50")
import lerobot_ops.evaluation.worker, lerobot_ops.evaluation.protocol
heavy = {"torch", "pydantic", "gymnasium", "mujoco", "metaworld", "prefect", "docker", "pyarrow"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

"""PushT behind a worker: LeRobot's keys, seeds that decide the layout, pictures only when asked for."""

import numpy as np
import pytest

from lerobot_ops import envs
from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox

IMAGE = "observation.image"


@pytest.fixture(scope="module")
def sandbox():
    return open_sandbox("pusht", SandboxConfig(type="venv"))


def reset(worker, seed, observe=()):
    return worker.request({"op": "reset", "task": "PushT-v0", "seed": seed, "observe": list(observe)})


def step(worker, actions, observe=()):
    return worker.request({"op": "step", "actions": np.array(actions, np.float32), "observe": list(observe)})


def test_it_shows_what_lerobot_shows(sandbox):
    with sandbox.spawn({"cameras": [IMAGE]}) as worker:
        first = reset(worker, 1000, [IMAGE])
        features = worker.info["features"]
        info = worker.info
    assert first["instruction"] == "Push the T-shaped block onto the T-shaped target."
    assert {key: entry["shape"] for key, entry in features.items()} == {
        IMAGE: [96, 96, 3],
        "observation.state": [2],
        "observation.environment_state": [16],
        "action": [2],
    }
    assert (info["fps"], info["max_steps"], info["action_bounds"].tolist()) == (10, 300, [[0, 0], [512, 512]])
    picture = first["observation"][IMAGE]
    # White board, light green goal, slate gray T.
    assert picture.max() == 255
    for color in ([255, 255, 255], [144, 238, 144], [119, 136, 153]):
        assert (picture == color).all(axis=2).any()


def test_a_seed_is_an_episode_of_gym_pusht(sandbox):
    with sandbox.spawn({}) as worker:
        first = reset(worker, 1000)["observation"]["observation.state"]
        played = step(worker, [[100, 200]] * 8)
        other = reset(worker, 1001)["observation"]["observation.state"]
        again = reset(worker, 1000)["observation"]["observation.state"]
        replayed = step(worker, [[100, 200]] * 8)
    # What gymnasium's generator draws first for this seed.
    drawn = np.random.Generator(np.random.PCG64(np.random.SeedSequence(1000))).integers(50, 450, 2)
    np.testing.assert_array_equal(first, drawn)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert played["rewards"] == replayed["rewards"]
    for key, value in played["observation"].items():
        np.testing.assert_array_equal(value, replayed["observation"][key])


def test_pictures_have_the_size_that_is_asked_for(sandbox):
    options = {"observation_width": 64, "observation_height": 48}
    with sandbox.spawn({"cameras": [IMAGE], "video": True, "options": options}) as worker:
        first = worker.request(
            {"op": "reset", "task": "PushT-v0", "seed": 1, "observe": [IMAGE], "video": {"every": 1, "size": 128}}
        )
        assert first["observation"][IMAGE].shape == (48, 64, 3)
        played = worker.request(
            {
                "op": "step",
                "actions": np.full((2, 2), 256, np.float32),
                "observe": [],
                "video": {"every": 1, "size": 128},
            }
        )
    assert played["frames"].shape == (2, 128, 128, 3)
    assert (played["frames"][1] == [255, 0, 0]).all(axis=2).any()  # where the agent was sent
    with pytest.raises(ConfigError, match="no such image"):
        sandbox.spawn({"options": {"observation_width": 5}})


def test_an_episode_ends_at_its_limit(sandbox):
    with sandbox.spawn({}) as worker:
        reset(worker, 3)
        played = step(worker, np.zeros((400, 2)))
    assert (played["steps"], played["done"], played["success"]) == (300, True, False)
    assert all(0 <= reward <= 1 for reward in played["rewards"])


@pytest.mark.parametrize("policy", ["zero", "random"])
def test_sanity_policies_measure_it(tmp_path, policy):
    config = EvalConfig.model_validate(
        {
            "env": {"type": "pusht", "episode_length": 60},
            "policy": {"path": policy},
            "eval": {"n_episodes": 3},
            "clips": {"size": 96},
            "output_dir": tmp_path / policy,
            "sandbox": {"type": "venv"},
        }
    )
    result = evaluate(config)
    assert [record.steps for record in result.records] == [60] * 3
    assert len({record.observation for record in result.records}) == 3
    if policy == "random":
        # Random positions on a board of 512 move the T; zero goes into its corner.
        assert len({record.sum_reward for record in result.records}) == 3


def test_it_needs_no_simulator_to_be_described():
    assert envs.task_groups("pusht", "pusht") == {"pusht": ["PushT-v0"]}
    assert envs.benchmark("pusht").limits == {"PushT-v0": 300}
    with pytest.raises(ConfigError, match="did you mean 'PushT-v0'"):
        envs.tasks("pusht", "PushT-v1")

"""Meta-World itself, played in its own virtual environment."""

import subprocess

import numpy as np
import pytest

from lerobot_ops import envs
from lerobot_ops.errors import PrerequisiteError
from lerobot_ops.evaluation.sandbox import SandboxConfig, WorkerFailed, open_sandbox

IMAGE = "observation.image"
STATE = "observation.environment_state"
TASK = "button-press-topdown-v3"


@pytest.fixture(scope="module")
def worker(metaworld):
    with metaworld.spawn({}) as worker:
        yield worker


@pytest.fixture(scope="module")
def settled(metaworld):
    with metaworld.spawn({"options": {"settled_start": True}}) as worker:
        yield worker


@pytest.fixture(scope="module")
def seeing(metaworld):
    with metaworld.spawn({"cameras": [IMAGE]}) as worker:
        yield worker


def reset(worker, task, seed, observe=()):
    return worker.request({"op": "reset", "task": task, "seed": seed, "observe": list(observe)})["observation"]


def expert(worker, steps=500, **more):
    return worker.request({"op": "expert", "steps": steps, "cameras": [], **more})


def stand_still(worker, steps=1):
    still = np.zeros((steps, 4), dtype=np.float32)
    return worker.request({"op": "step", "actions": still, "observe": []})


def test_a_worker_says_what_it_shows(worker):
    info = worker.info
    assert (info["fps"], info["max_steps"], info["action_dim"], info["render"]) == (80, 500, 4, None)
    assert info["features"]["observation.state"] == {
        "dtype": "float32",
        "shape": [4],
        "names": ["x", "y", "z", "gripper"],
    }
    assert info["features"][IMAGE]["shape"] == [480, 480, 3]
    assert info["features"]["action"]["names"] == ["dx", "dy", "dz", "gripper"]
    assert info["versions"]["metaworld"] == "3.0.0"
    observation = reset(worker, TASK, 1)
    assert {key: (value.dtype.name, value.shape) for key, value in observation.items()} == {
        "observation.state": ("float32", (4,)),
        STATE: ("float32", (39,)),
    }


@pytest.mark.parametrize("task", envs.tasks("metaworld", "mt50"))
def test_a_seed_decides_the_layout_whatever_was_played_before(worker, task):
    first = reset(worker, task, 5)
    played = expert(worker, 30)
    other = reset(worker, task, 6)
    expert(worker, 10)
    again = reset(worker, task, 5)
    np.testing.assert_array_equal(again[STATE], first[STATE])
    assert not np.array_equal(other[STATE], first[STATE])
    replayed = expert(worker, 30)
    np.testing.assert_array_equal(replayed["actions"], played["actions"])
    np.testing.assert_array_equal(replayed["observations"][STATE], played["observations"][STATE])
    assert replayed["rewards"] == played["rewards"]


# Meta-World's own first observation shows these where an earlier layout had them.
@pytest.mark.parametrize(
    "task",
    ["window-close-v3", "window-open-v3", "drawer-open-v3", "lever-pull-v3", "dial-turn-v3", "faucet-open-v3"],
)
def test_a_settled_first_observation_shows_things_where_they_are(settled, task):
    for seed in (1, 2):
        first = reset(settled, task, seed)[STATE]
        after = stand_still(settled)["observation"][STATE]
        np.testing.assert_allclose(after[4:7], first[4:7], atol=0.005)
        np.testing.assert_array_equal(first[18:36], first[:18])
        np.testing.assert_array_equal(first[36:], after[36:])


def test_the_expert_solves_a_task(worker):
    reset(worker, TASK, 3)
    reply = expert(worker)
    assert reply["done"]
    assert reply["successes"] == [False] * (len(reply["successes"]) - 1) + [True]
    assert 40 < len(reply["rewards"]) < 100
    assert reply["actions"].shape == (len(reply["rewards"]), 4)
    assert np.abs(reply["actions"]).max() <= 1


def test_an_episode_of_somebody_who_stands_still_lasts_500_steps(worker):
    reset(worker, TASK, 3)
    reply = stand_still(worker, 600)
    assert (reply["steps"], reply["success"], reply["done"]) == (500, False, True)


def test_an_action_that_is_not_a_number_is_refused(worker):
    reset(worker, TASK, 3)
    with pytest.raises(WorkerFailed, match="finite"):
        worker.request({"op": "step", "actions": np.full((1, 4), np.nan, dtype=np.float32), "observe": []})


def test_an_image_is_only_rendered_when_asked_for(worker, seeing):
    with pytest.raises(WorkerFailed, match="name the cameras"):
        reset(worker, TASK, 1, [IMAGE])
    assert IMAGE not in reset(seeing, TASK, 1)
    image = reset(seeing, TASK, 1, [IMAGE])[IMAGE]
    assert (image.dtype, image.shape) == (np.uint8, (480, 480, 3))
    video = {"every": 1, "size": 64}
    actions = np.zeros((2, 4), dtype=np.float32)
    frames = seeing.request({"op": "step", "actions": actions, "observe": [], "video": video})["frames"]
    assert frames.shape == (2, 64, 64, 3)


# Meta-World as LeRobot 0.6 uses it: the environment of `MT1(seed=42)`, its camera moved, its pictures turned.
LEROBOT = """
import os, sys
os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = sys.argv[3]
import metaworld, numpy as np
task, actions = sys.argv[1], np.load(sys.argv[2])["actions"]
benchmark = metaworld.MT1(task, seed=42)
env = benchmark.train_classes[task](render_mode="rgb_array", camera_name="corner2")
env.set_task(benchmark.train_tasks[0])
env.model.cam_pos[2] = [0.75, 0.075, 0.7]
env.reset()
env._freeze_rand_vec, env.seeded_rand_vec = False, True
env.seed(11)
env.reset()
steps = [env.step(action) for action in actions]
np.savez(sys.argv[2], image=np.flip(env.render(), (0, 1)), states=[s[0] for s in steps], rewards=[s[1] for s in steps])
env.close()
"""


@pytest.mark.parametrize("task", [TASK, "push-v3"])
def test_it_is_the_environment_that_lerobot_shows(metaworld, seeing, task, tmp_path):
    reset(seeing, task, 11)
    played = expert(seeing, 10)
    reset(seeing, task, 11)
    ours = seeing.request({"op": "step", "actions": played["actions"], "observe": [IMAGE]})
    theirs = tmp_path / "lerobot.npz"
    np.savez(theirs, actions=played["actions"])
    command = [metaworld._python, "-c", LEROBOT, task, theirs, seeing.info["render"]["library"]]
    subprocess.run(command, check=True, capture_output=True)
    lerobot = np.load(theirs)
    np.testing.assert_array_equal(ours["observation"][IMAGE], lerobot["image"])
    np.testing.assert_array_equal(ours["observation"][STATE], lerobot["states"][-1].astype(np.float32))
    assert ours["rewards"] == lerobot["rewards"].tolist()


def test_image_size_and_camera_can_be_chosen(metaworld):
    with metaworld.spawn({"cameras": [IMAGE], "options": {"image_size": 96, "camera_name": "topview"}}) as worker:
        assert worker.info["features"][IMAGE]["shape"] == [96, 96, 3]
        image = reset(worker, TASK, 1, [IMAGE])[IMAGE]
    assert image.shape == (96, 96, 3)
    assert image.std() > 10


def test_without_a_working_egl_the_other_library_renders(metaworld, monkeypatch):
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent.json")
    with metaworld.spawn({"cameras": [IMAGE]}) as worker:
        assert worker.info["render"]["library"] == "osmesa"


def test_without_any_library_cameras_are_refused_with_the_packages_to_install(monkeypatch):
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent.json")
    sandbox = open_sandbox("metaworld", SandboxConfig(type="venv", gl="egl"))
    with pytest.raises(PrerequisiteError, match="libegl1 libgl1 libopengl0 libgl1-mesa-dri libosmesa6"):
        sandbox.spawn({"cameras": [IMAGE]})
    with sandbox.spawn({}) as worker:
        assert STATE in reset(worker, TASK, 1)

"""LIBERO's tables, and LIBERO itself, played in its container, or without an engine in its virtual environment."""

import importlib.util
import json
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lerobot_ops import envs
from lerobot_ops.envs.libero import LiberoEnv
from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.images import find_image
from lerobot_ops.evaluation.sandbox import SandboxConfig, WorkerFailed, open_sandbox

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
AGENT, WRIST = "observation.images.image", "observation.images.image2"
STATE = "observation.state"
SMALL = {"observation_height": 64, "observation_width": 64}
SUITES = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
SPATIAL = "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
MOKA_POTS = "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove"


@pytest.fixture(scope="module")
def libero():
    return open_sandbox("libero", SandboxConfig())


@pytest.fixture(scope="module")
def seeing(libero):
    with libero.spawn({"cameras": [AGENT, WRIST], "options": SMALL}) as worker:
        yield worker


def reset(worker, task, seed=0, number=0, observe=()):
    return worker.request({"op": "reset", "task": task, "seed": seed, "number": number, "observe": list(observe)})


def step(worker, actions, observe=()):
    return worker.request({"op": "step", "actions": np.asarray(actions, np.float32), "observe": list(observe)})


def inside(sandbox, script, *arguments):
    """What a script prints as JSON, run by the sandbox's Python beside a worker."""
    command = ["-c", script, *arguments]
    if sandbox.kind == "venv":
        paths = {"PYTHONPATH": str(sandbox._guest)}
        done = subprocess.run([sandbox._python, *command], capture_output=True, env={**os.environ, **paths})
        code, output = done.returncode, done.stdout + done.stderr
    else:
        with sandbox.spawn({}) as worker:
            code, output = worker._channel._container.exec_run(["python", *command])
    assert code == 0, output.decode()[-3000:]
    return json.loads(output.splitlines()[-1])


def test_every_suite_has_its_tasks_limits_and_instructions():
    known = envs.benchmark("libero")
    assert {suite: len(tasks) for suite, tasks in known.groups.items()} == {
        suite: 90 if suite == "libero_90" else 10 for suite in SUITES
    }
    assert len(known.instructions) == 130
    for suite, tasks in known.groups.items():
        assert {known.limits[task] for task in tasks} == {SUITES[suite]}
    assert envs.default_task("libero") == "libero_10"
    assert envs.tasks("libero", "libero_spatial")[0] == SPATIAL
    assert envs.instruction("libero", SPATIAL) == SPATIAL.replace("_", " ")
    assert envs.instruction("libero", MOKA_POTS) == "put both moka pots on the stove"
    drawer = "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet"
    assert envs.instruction("libero", drawer) == "close the top drawer of the cabinet"


def test_cameras_are_named_and_sized_as_asked():
    env = LiberoEnv()
    assert env.features[AGENT]["shape"] == env.features[WRIST]["shape"] == [360, 360, 3]
    mapping = {"agentview_image": "camera1", "robot0_eye_in_hand_image": "camera2"}
    env = LiberoEnv(observation_height=96, observation_width=64, camera_name_mapping=mapping)
    cameras = {key: entry["shape"] for key, entry in env.features.items() if entry["dtype"] == "video"}
    assert cameras == {"observation.images.camera1": [96, 64, 3], "observation.images.camera2": [96, 64, 3]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"observation_width": 4}, "16 to 2048"),
        ({"control_mode": "delta"}, "relative or absolute"),
        ({"camera_name_mapping": {"agentview": "top"}}, "did you mean 'agentview_image'?"),
        ({"camera_name_mapping": {"agentview_image": "image2"}}, "two cameras cannot have one name"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options, says):
    with pytest.raises(ConfigError) as caught:
        LiberoEnv(**options)
    assert says in str(caught.value)


# The order of the package, and its initial states read without unpickling: the bytes of an array of numbers are the
# longest string of the pickle, and its shape the pair that comes before them.
TABLES = """
import ast, importlib.util, json, pickletools, zipfile
from pathlib import Path
import numpy as np
package = Path(importlib.util.find_spec("libero").submodule_search_locations[0])
source = (package / "libero/benchmark/libero_suite_task_map.py").read_text()
order = ast.literal_eval(source.partition("=")[2].strip())
equal, shapes = 0, set()
for suite in sorted(path.name for path in (package / "prepared/init_states").iterdir()):
    for task in order[suite]:
        file = package / "libero/init_files" / suite / f"{task}.pruned_init"
        pickled = zipfile.ZipFile(file).read("archive/data.pkl")
        ops = [(op.name, argument) for op, argument, _ in pickletools.genops(pickled)]
        text = max((argument for name, argument in ops if name == "BINUNICODE"), key=len)
        numbers = [argument for name, argument in ops if name.startswith("BININT")][2:4]
        expected = np.frombuffer(text.encode("latin1"), "<f8").reshape(numbers)
        states = np.load(package / "prepared/init_states" / suite / f"{task}.npy", allow_pickle=False)
        assert states.dtype == np.float64
        equal += states.tobytes() == expected.tobytes() and states.shape == expected.shape
        shapes.add(states.shape[0])
print(json.dumps([{suite: order[suite] for suite in order if suite != "libero_100"}, equal, sorted(shapes)]))
"""


def torch_file(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


def test_initial_states_are_read_without_running_what_is_in_them(tmp_path):
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "docker" / "libero" / "prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    states = np.arange(6.0).reshape(2, 3)
    # numpy 1, which wrote the package's files, called its module otherwise.
    pickled = pickle.dumps(states, protocol=2).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(prepare.read_states(torch_file(tmp_path / "states", pickled)), states)
    run = pickle.dumps(Path("a"), protocol=2)
    with pytest.raises(pickle.UnpicklingError, match=r"does not need pathlib\.PosixPath"):
        prepare.read_states(torch_file(tmp_path / "code", run))
    with pytest.raises(ValueError, match="not an array of states"):
        prepare.read_states(torch_file(tmp_path / "words", pickle.dumps("words", protocol=2)))


def test_the_sandbox_is_small_and_has_no_torch(libero):
    script = "import importlib.util as i, json; print(json.dumps([i.find_spec(n) is None for n in ('torch', 'numba')]))"
    assert inside(libero, script) == [True, True]
    if libero.kind == "docker":
        assert find_image("libero").size < 2.5e9


def test_tasks_and_initial_states_are_the_packages(libero):
    order, equal, counts = inside(libero, TABLES)
    assert {suite: tuple(tasks) for suite, tasks in order.items()} == envs.benchmark("libero").groups
    assert equal == 130
    assert counts == [50]


@pytest.mark.parametrize("suite", SUITES)
def test_a_task_of_each_suite_is_played(seeing, suite):
    task = envs.tasks("libero", suite)[3]
    first = reset(seeing, task, seed=1, number=53, observe=[AGENT, WRIST])
    assert (first["init_state"], first["max_steps"]) == (3, SUITES[suite])
    assert first["instruction"] == envs.instruction("libero", task)
    for key in (AGENT, WRIST):
        assert (first["observation"][key].dtype, first["observation"][key].shape) == (np.uint8, (64, 64, 3))
        assert first["observation"][key].std() > 15
    assert (first["observation"][STATE].dtype, first["observation"][STATE].shape) == (np.float32, (8,))
    played = step(seeing, np.tile([0, 0, 1, 0, 0, 0, -1], (5, 1)))
    assert played["rewards"] == [0] * 5
    assert played["observation"].keys() == {STATE}
    risen = played["observation"][STATE] - first["observation"][STATE]
    assert 0.01 < risen[2] < 0.2


@pytest.mark.parametrize("name", ["spatial", "moka_pots", "absolute"])
def test_it_is_what_lerobot_shows_to_a_policy(libero, seeing, name):
    """Recorded by tests/peer/peer_libero.py."""
    recorded = np.load(DATA / "libero_lerobot" / f"{name}.npz")
    if name == "absolute":
        options = {**SMALL, "control_mode": "absolute"}
        with libero.spawn({"cameras": [AGENT, WRIST], "options": options}) as worker:
            compare(worker, recorded)
    else:
        compare(seeing, recorded)


def compare(worker, recorded):
    seen = [reset(worker, str(recorded["task"]), seed=7, observe=[AGENT, WRIST])["observation"]]
    rewards = []
    for number, action in enumerate(recorded["actions"], start=1):
        reply = step(worker, [action], [AGENT, WRIST] if number % 10 == 0 else [])
        rewards += reply["rewards"]
        seen.append(reply["observation"])
    np.testing.assert_allclose([one[STATE] for one in seen], recorded["states"], rtol=0, atol=1e-6)
    assert rewards == recorded["rewards"].tolist()
    frames = [[one[AGENT], one[WRIST]] for one in seen if AGENT in one]
    assert np.abs(np.array(frames).astype(int) - recorded["frames"]).max() <= 2


# LIBERO as its own wrapper plays it: the scene loaded anew, every camera rendered at every step.
EXACT = """
import json, os, sys
os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = sys.argv[2]
import numpy as np
from lerobot_ops.envs.libero import LiberoEnv
task = sys.argv[1]
actions = np.random.default_rng(0).uniform(-1, 1, (12, 7)).astype(np.float32)
ours = LiberoEnv(64, 64)
for number in (0, 1):  # the first episode is there to leave traces
    ours.reset(task, 100 + number, number)
    seen = []
    for step, action in enumerate(actions):
        ours.step(action)
        seen.append(ours.observe(["observation.images.image", "observation.images.image2"] if step % 4 == 3 else []))
env, simulation = ours._simulation._env, ours._simulation
end, proprioception = env.sim.get_state().flatten(), simulation.proprioception

from libero.libero.envs import OffScreenRenderEnv
theirs = OffScreenRenderEnv(bddl_file_name=env.bddl_file_name, camera_heights=64, camera_widths=64)
theirs.reset()
theirs.seed(101)
theirs.reset()
theirs.set_init_state(simulation.states[1])
for _ in range(10):
    theirs.step([0, 0, 0, 0, 0, 0, -1])
pixels = 0
for step, action in enumerate(actions):
    shown, *_ = theirs.step(action)
    for key, name in (("image", "agentview_image"), ("image2", "robot0_eye_in_hand_image")):
        if step % 4 == 3:
            pixels += int((seen[step]["observation.images." + key] != shown[name][::-1, ::-1]).sum())
names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
equal = [bool(np.array_equal(value, shown[name])) for value, name in zip(proprioception, names)]
print(json.dumps([bool(np.array_equal(end, theirs.sim.get_state().flatten())), all(equal), pixels]), flush=True)
os._exit(0)  # robosuite's renderer complains when it is collected
"""


def test_a_scene_that_is_used_again_and_rendered_on_demand_is_exactly_liberos(libero):
    # A drawer that is half open at random: what LIBERO draws depends on how often it loaded the scene.
    task = envs.tasks("libero", "libero_90")[0]
    assert inside(libero, EXACT, task, "egl") == [True, True, 0]


def test_an_episode_is_its_seed_and_its_number_whatever_was_played_before(seeing):
    def play(seed, number):
        first = reset(seeing, SPATIAL, seed, number, [AGENT])["observation"]
        return {**first, "end": step(seeing, np.full((5, 7), 0.5))["observation"][STATE]}

    one, other_seed, other_number, again = play(1, 0), play(2, 0), play(1, 1), play(1, 0)
    for key, value in one.items():
        np.testing.assert_array_equal(value, again[key])
    # The seed moves the cabinet and the stove, the number the bowls and the robot.
    assert not np.array_equal(one[AGENT], other_seed[AGENT])
    assert not np.array_equal(one[STATE], other_number[STATE])


def test_an_episode_ends_at_its_suites_limit(seeing):
    reset(seeing, SPATIAL)
    reply = step(seeing, np.zeros((300, 7)))
    assert (reply["steps"], reply["success"], reply["done"]) == (280, False, True)


def test_an_image_is_only_rendered_when_asked_for(libero, seeing):
    assert reset(seeing, SPATIAL, observe=[WRIST])["observation"].keys() == {STATE, WRIST}
    with libero.spawn({}) as blind:
        assert blind.info["render"] is None
        assert reset(blind, SPATIAL)["observation"].keys() == {STATE}
        with pytest.raises(WorkerFailed, match="name the cameras"):
            reset(blind, SPATIAL, observe=[AGENT])


def test_both_libraries_draw_the_same(seeing):
    sandbox = open_sandbox("libero", SandboxConfig(gl="osmesa"))
    with sandbox.spawn({"cameras": [AGENT], "video": True, "options": SMALL}) as worker:
        assert worker.info["render"]["library"] == "osmesa"
        theirs = reset(worker, SPATIAL, observe=[AGENT])["observation"][AGENT]
        actions = np.zeros((2, 7), np.float32)
        video = {"every": 1, "size": 48}
        frames = worker.request({"op": "step", "actions": actions, "observe": [], "video": video})["frames"]
        assert frames.shape == (2, 48, 48, 3)
    ours = reset(seeing, SPATIAL, observe=[AGENT])["observation"][AGENT]
    assert np.abs(ours.astype(int) - theirs).mean() < 1


def test_what_libero_does_not_have_is_refused(seeing):
    with pytest.raises(ConfigError, match="LIBERO has no such task"):
        reset(seeing, "libero_spatial")
    reset(seeing, SPATIAL)
    with pytest.raises(WorkerFailed, match="finite"):
        step(seeing, np.full((1, 7), np.nan))
    with pytest.raises(ConfigError, match="LIBERO has no expert"):
        seeing.request({"op": "expert", "steps": 1, "cameras": []})

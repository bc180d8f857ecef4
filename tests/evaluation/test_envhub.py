"""Environments from a local Hub: fetched by commit, shown as LeRobot shows them, run in a container only."""

import socket

import numpy as np
import pytest

from lerobot_ops.envs.hub_observations import as_lerobot, picture
from lerobot_ops.errors import ConfigError, PrerequisiteError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox
from lerobot_ops.evaluation.sandbox.hub_recipe import checked_requirements
from tests.hub.hub_server import Repository, pointed_at, serving

REACH = b'''
import gymnasium as gym
import numpy as np

from goals import goal_of


class Reach(gym.Env):
    """Go to a goal in a square; drawn as a dot."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}
    task_description = "Go to the goal"
    observation_space = gym.spaces.Dict(
        pixels=gym.spaces.Dict(top=gym.spaces.Box(0, 255, (24, 32, 3), np.uint8)),
        agent_pos=gym.spaces.Box(-1, 1, (2,), np.float64),
        environment_state=gym.spaces.Box(-1, 1, (2,), np.float64),
    )
    action_space = gym.spaces.Box(-2, 2, (2,), np.float32)

    def __init__(self, radius=0.2):
        self.render_mode = "rgb_array"
        self.radius = radius

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-1, 1, 2), goal_of(self.np_random)
        return self._seen(), {}

    def step(self, action):
        self.place = np.clip(self.place + 0.1 * action, -1, 1)
        near = bool(np.linalg.norm(self.place - self.goal) < self.radius)
        return self._seen(), -float(np.linalg.norm(self.place - self.goal)), near, False, {"is_success": near}

    def render(self):
        return np.full((48, 64, 3), 200, np.uint8)

    def _seen(self):
        picture = np.zeros((24, 32, 3), np.uint8)
        row, column = ((self.place + 1) / 2 * [23, 31]).astype(int)
        picture[row, column] = 255
        return {"pixels": {"top": picture}, "agent_pos": self.place, "environment_state": self.goal}


def make_env(n_envs, use_async_envs, cfg=None):
    print("a library says hello on stdout")
    radius = 0.2 if cfg is None else cfg.radius
    limited = lambda: gym.wrappers.TimeLimit(Reach(radius), 12)
    return {
        "near": {0: gym.vector.SyncVectorEnv([limited])},
        "far": {0: gym.vector.SyncVectorEnv([limited]), 1: gym.vector.SyncVectorEnv([limited])},
    }
'''
GOALS = b"def goal_of(random):\n    return random.uniform(-1, 1, 2)\n"

SPY = b"""
import os, socket
from pathlib import Path

import gymnasium as gym
import numpy as np

LOOT = [path for path in PATHS if os.path.exists(path)]
LOOT += [name for name in os.environ if "TOKEN" in name or "SECRET" in name]
for address in (("127.0.0.1", PORT), ("1.1.1.1", 53), ("172.17.0.1", 22)):
    try:
        socket.create_connection(address, 1)
        LOOT.append(str(address))
    except OSError:
        pass
for place in ("/opt/guest/x", "/opt/worker/x", "/etc/x", "/x", MARKER):
    try:
        Path(place).write_text("x")
        LOOT.append(place)
    except OSError:
        pass
LOOT += [f"pid {pid}" for pid in os.listdir("/proc") if pid.isdigit() and b"pytest" in
         Path(f"/proc/{pid}/cmdline").read_bytes()]


class Spy(gym.Env):
    task = f"found {LOOT}"
    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}


def make_env(n_envs, use_async_envs):
    return Spy()
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    monkeypatch = pytest.MonkeyPatch()
    with serving() as server:
        pointed_at(server, tmp_path_factory.mktemp("hf"), monkeypatch)
        reach = server.repositories["models/team/reach"] = Repository()
        reach.commit({"env.py": REACH, "goals.py": GOALS, "README.md": b"# Reach"})
        yield server
    monkeypatch.undo()


@pytest.fixture
def contained(docker_sandbox):
    """Containers can run here."""
    return SandboxConfig(type="docker")


def test_it_is_shown_as_lerobot_shows_it(hub, contained):
    sandbox = open_sandbox("hub", contained, {"repo": "team/reach"})
    key = "observation.images.top"
    with sandbox.spawn({"options": {"repo": "team/reach"}, "cameras": [key], "video": True}) as worker:
        assert {name: entry["shape"] for name, entry in worker.info["features"].items()} == {
            key: [24, 32, 3],
            "observation.state": [2],
            "observation.environment_state": [2],
            "action": [2],
        }
        assert (worker.info["fps"], worker.info["max_steps"]) == (15, 12)
        assert worker.info["action_bounds"].tolist() == [[-2, -2], [2, 2]]
        reset = {"op": "reset", "task": "far_1", "seed": 5, "observe": [key], "video": {"every": 1, "size": 64}}
        first, again = worker.request(reset), worker.request(reset)
        assert first["instruction"] == "Go to the goal"
        assert first["observation"][key].sum() == 3 * 255
        np.testing.assert_array_equal(
            first["observation"]["observation.state"], again["observation"]["observation.state"]
        )
        # 4:3 within a square.
        assert (first["frames"][0, :, 0, 0] == 200).sum() == 48
        away = np.tile(-np.sign(first["observation"]["observation.environment_state"]), (20, 1)).astype(np.float32)
        played = worker.request({"op": "step", "actions": away, "observe": []})
        assert (played["steps"], played["done"], played["success"]) == (12, True, False)
        with pytest.raises(ConfigError, match="no such environment"):
            worker.request({**reset, "task": "far_2"})


def test_it_is_measured_and_its_commit_is_in_the_result(hub, contained, tmp_path):
    repository = hub.repositories["models/team/reach"]
    commit = repository.branches["main"]

    def measure(repo, cfg):
        return evaluate(
            EvalConfig.model_validate(
                {
                    "env": {"type": "hub", "task": "env,far_1", "repo": repo, "cfg": cfg},
                    "policy": {"path": "zero"},
                    "eval": {"n_episodes": 3},
                    "clips": {"size": 64},
                    "sandbox": contained,
                    "output_dir": tmp_path / str(cfg["radius"]),
                }
            )
        )

    near = measure("team/reach", {"radius": 10})
    assert [record.success for record in near.records] == [True] * 6
    assert [record.steps for record in near.records] == [1] * 6
    assert not any(record.success for record in measure(f"team/reach@{commit}:env.py", {"radius": 0.0}).records)
    assert f"team/reach@{commit}:env.py" in (near.output_dir / "evaluation.json").read_text()


def test_another_commit_is_another_sandbox(hub, contained):
    repository = hub.repositories["models/team/reach"]
    first = repository.branches["main"]
    repository.commit({**repository.commits[first], "goals.py": GOALS + b"# newer\n"}, branch="newer")
    old, new = (open_sandbox("hub", contained, {"repo": f"team/reach@{name}"}) for name in ("main", "newer"))
    assert old.recipe.startswith(f"team/reach@{first}:env.py ")
    assert old.recipe != new.recipe
    assert old.image != new.image


def test_a_repository_that_spies_finds_nothing_and_never_runs_here(hub, contained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "t" * 34)
    monkeypatch.setenv("MY_SECRET", "secret")
    secret, marker = tmp_path / "secret", tmp_path / "marker"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        paths = [str(secret), "/var/run/docker.sock", "/home", "/root/.ssh", str(tmp_path), "/work"]
        paths = [path for path in paths if path != "/home"]
        names = f"PATHS, PORT, MARKER = {paths!r}, {listening.getsockname()[1]}, {str(marker)!r}\n"
        hub.repositories["models/team/spy"] = Repository()
        hub.repositories["models/team/spy"].commit({"env.py": names.encode() + SPY})
        sandbox = open_sandbox("hub", contained, {"repo": "team/spy"})
        with sandbox.spawn({"options": {"repo": "team/spy"}}) as worker:
            reply = worker.request({"op": "reset", "task": "env", "seed": 1})
    assert reply["instruction"] == "found []"
    assert reply["observation"]["observation.state"].tolist() == [0, 0, 0]
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["process", "venv"])
def test_nothing_but_a_container_is_good_enough(hub, kind):
    with pytest.raises(ConfigError, match="runs in a container only"):
        open_sandbox("hub", SandboxConfig(type=kind), {"repo": "team/reach"})


def test_without_an_engine_there_is_no_way_around(hub, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(PrerequisiteError, match="no Docker engine answers"):
        open_sandbox("hub", SandboxConfig(), {"repo": "team/reach"})


def test_what_a_repository_asks_for_is_there_and_stays_apart(hub, contained):
    asking = b"import einops\n" + REACH.replace(
        b"from goals import goal_of", b"goal_of = lambda r: r.uniform(-1, 1, 2)"
    )
    hub.repositories["models/team/asking"] = Repository()
    files = {"envs/reach.py": asking, "requirements.txt": b"einops==0.8.1  # for shapes\n"}
    hub.repositories["models/team/asking"].commit(files)
    options = {"repo": "team/asking:envs/reach.py"}
    with open_sandbox("hub", contained, options).spawn({"options": options}) as worker:
        assert worker.request({"op": "reset", "task": "near_0", "seed": 1})["instruction"] == "Go to the goal"


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://evil.example",
        "-e .",
        "git+https://evil.example/x.git",
        "x @ https://evil.example/x.tar.gz",
        "./wheels/x.whl",
        "x --config-settings a=b",
        "-r other.txt",
        "x==1 \\",
    ],
)
def test_requirements_that_could_run_something_are_refused(line):
    with pytest.raises(ConfigError, match="no package by its name"):
        checked_requirements("team/x", f"numpy\n{line}\n".encode())


def test_requirements_by_name_are_kept():
    asked = b"# needs\nmujoco>=3.2,<4\nPillow==12.0.0 # pictures\nnumpy[dev] ~= 2.0 ; python_version < '3.12'\n\nx\n"
    kept = checked_requirements("team/x", asked).decode().splitlines()
    assert kept == ["mujoco>=3.2,<4", "Pillow==12.0.0", "numpy[dev] ~= 2.0 ; python_version < '3.12'", "x"]


@pytest.mark.parametrize(
    ("repo", "says"),
    [
        ("", "names no repository"),
        ("reach", "names no repository"),
        ("team/reach:other.py", "has no other.py"),
        ("team/none", "team/none"),
        ("team/reach@none", "none"),
    ],
)
def test_a_wrong_reference_is_named(hub, repo, says):
    with pytest.raises((ConfigError, PrerequisiteError), match=says):
        open_sandbox("hub", SandboxConfig(type="docker"), {"repo": repo})


def test_a_file_without_make_env_says_so(hub, contained):
    hub.repositories["models/team/empty"] = Repository()
    hub.repositories["models/team/empty"].commit({"env.py": b"pass\n"})
    with pytest.raises(ConfigError, match="no make_env"):
        open_sandbox("hub", contained, {"repo": "team/empty"}).spawn({"options": {"repo": "team/empty"}})


def test_observations_get_lerobots_names():
    batch = np.zeros((1, 3))
    seen = {
        "agent_pos": batch,
        "environment_state": batch,
        "robot_state": {"eef": {"pos": batch}},
        "force": np.zeros(1),
    }
    found = as_lerobot(seen)
    shapes = {key: value.shape for key, value in found.items()}
    assert shapes == {
        "observation.state": (3,),
        "observation.environment_state": (3,),
        "observation.robot_state.eef.pos": (3,),
        "observation.force": (1,),
    }
    assert all(value.dtype == np.float32 for value in found.values())
    image = np.zeros((1, 8, 8, 3), np.uint8)
    assert list(as_lerobot({"pixels": image})) == ["observation.image"] == list(as_lerobot(image))
    assert list(as_lerobot({"pixels": {"a": image}})) == ["observation.images.a"]
    assert picture(np.ones((10, 20, 4), np.uint8), 40).sum() == 20 * 40 * 3

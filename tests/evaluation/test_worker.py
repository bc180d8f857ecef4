"""A worker as its host sees it: what it answers, and what becomes of one that misbehaves."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.sandbox import SandboxConfig, WorkerDied, WorkerFailed, WorkerTimeout, process

ACTIONS = np.arange(60, dtype=np.float32).reshape(30, 2)


@pytest.fixture
def spawn(noisy_path):
    workers = []

    def start(hello=None, **config):
        settings = SandboxConfig(type="process", start_timeout_s=20, step_timeout_s=20, **config)
        workers.append(process.start("noisy", settings, hello or {}, Path(sys.executable), Path(noisy_path), 0))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def reset(worker, task="play", seed=1, timeout=None, **more):
    return worker.request({"op": "reset", "task": task, "seed": seed, **more}, timeout=timeout)


def test_what_libraries_print_does_not_reach_the_stream(spawn):
    worker = spawn({"options": {"greeting": "Warning: deprecated"}})
    assert (worker.info["fps"], worker.info["action_dim"], worker.info["max_steps"]) == (10, 2, 20)
    assert worker.info["render"] is None
    assert reset(worker)["instruction"] == "Do play"
    assert reset(worker, "flood")["observation"]["observation.state"].tolist() == [0]
    with pytest.raises(WorkerFailed, match="EOF"):
        reset(worker, "ask")
    assert reset(worker)["frames"] is None


def test_a_chunk_of_actions_ends_with_the_first_success(spawn):
    worker = spawn()
    reset(worker, seed=7)
    first = worker.request({"op": "step", "actions": ACTIONS[:5], "observe": []})
    assert (first["steps"], first["success"], first["done"]) == (5, False, False)
    assert first["rewards"] == ACTIONS[:5].sum(axis=1).tolist()
    last = worker.request({"op": "step", "actions": ACTIONS[5:], "observe": []})
    assert (last["steps"], last["success"], last["done"]) == (2, True, True)
    assert last["observation"] is None, "nobody looks at what comes after the end"
    with pytest.raises(WorkerFailed, match="reset first"):
        worker.request({"op": "step", "actions": ACTIONS, "observe": []})


def test_only_the_frames_that_a_window_shows_are_rendered(spawn):
    worker = spawn({"cameras": ["observation.image"]})
    observe = {"observe": ["observation.image"], "last": 3}

    def seen(reply):
        """(steps that the frames are of, how many had been rendered by then)."""
        frames = reply["observation"]["observation.image"]
        assert reply["observation"]["observation.state"][:, 0].tolist() == frames[:, 0, 0, 0].tolist()
        return frames[:, 0, 0, 0].tolist(), frames[:, 0, 1, 0].tolist()

    assert seen(reset(worker, seed=12, **observe)) == ([0, 0, 0], [1, 1, 1])
    for steps, expected in [(1, ([0, 0, 1], [1, 1, 2])), (5, ([4, 5, 6], [3, 4, 5])), (2, ([6, 7, 8], [5, 6, 7]))]:
        assert seen(worker.request({"op": "step", "actions": ACTIONS[:steps], **observe})) == expected
    with pytest.raises(WorkerFailed, match="windows of 3, not of 1"):
        worker.request({"op": "step", "actions": ACTIONS[:1], "observe": []})
    assert worker.request({"op": "step", "actions": ACTIONS, **observe})["observation"] is None
    assert seen(reset(worker, seed=12, **observe))[1] == [8, 8, 8], "nothing was rendered when the episode ended"


def test_an_episode_ends_when_its_time_is_up(spawn):
    worker = spawn()
    reset(worker, seed=100)
    reply = worker.request({"op": "step", "actions": ACTIONS, "observe": []})
    assert (reply["steps"], reply["success"], reply["done"]) == (20, False, True)


def test_video_has_the_first_every_nth_and_the_last_frame(spawn):
    worker = spawn({"video": True})
    video = {"every": 4, "size": 16}
    frames = [reset(worker, seed=10, video=video)["frames"]]
    for begin in range(0, 12, 3):
        chunk = ACTIONS[begin : begin + 3]
        reply = worker.request({"op": "step", "actions": chunk, "observe": [], "video": video})
        frames += [] if reply["frames"] is None else [reply["frames"]]
    assert np.concatenate(frames)[:, 0, 0, 0].tolist() == [0, 4, 8, 10]
    assert frames[0].shape == (1, 16, 16, 3)
    with pytest.raises(WorkerFailed, match="name the cameras, or video, in hello"):
        reset(spawn(), video=video)


def test_the_expert_plays_the_same_however_its_steps_are_asked_for(spawn):
    worker = spawn()

    def play(chunk, seed, noise):
        reset(worker, seed=seed)
        replies = []
        while not replies or not replies[-1]["done"]:
            replies.append(worker.request({"op": "expert", "steps": chunk, "cameras": [], "noise": noise}))
        states = np.concatenate([reply["observations"]["observation.state"] for reply in replies])
        return states, np.concatenate([reply["actions"] for reply in replies])

    states, actions = play(20, 12, 0.4)
    assert states[:, 0].tolist() == list(range(12))
    assert actions.dtype == np.float32
    assert len(np.unique(actions)) > 12
    assert np.abs(actions).max() <= 1
    np.testing.assert_array_equal(play(5, 12, 0.4)[1], actions)
    assert not np.array_equal(play(5, 13, 0.4)[1][:12], actions)
    assert np.unique(play(5, 12, 0.0)[1]).tolist() == [0.5]


def test_an_exception_is_an_answer_and_the_worker_lives_on(spawn):
    worker = spawn()
    with pytest.raises(WorkerFailed, match="the layout is impossible") as caught:
        reset(worker, "raise")
    assert caught.value.kind == "ValueError"
    assert "noisy_benchmark.py" in caught.value.trace
    with pytest.raises(WorkerFailed, match="no op 'dance'"):
        worker.request({"op": "dance"})
    with pytest.raises(WorkerFailed, match="seed"):
        worker.request({"op": "reset", "task": "play"})
    with pytest.raises(ConfigError, match="no such task"):
        reset(worker, "ply")
    assert reset(worker)["instruction"] == "Do play"


def test_a_bad_option_is_named_before_anything_runs(spawn):
    with pytest.raises(ConfigError, match="greting"):
        spawn({"options": {"greting": "hi"}})
    with pytest.raises(ConfigError, match="no such camera"):
        spawn({"cameras": ["observation.images"]})


@pytest.mark.parametrize("task", ["hang", "spin"])
def test_a_worker_that_does_not_answer_is_stopped_at_the_deadline(spawn, task):
    worker = spawn()
    began = time.monotonic()
    with pytest.raises(WorkerTimeout, match=r"did not answer 'reset' within 0.5 s"):
        reset(worker, task, timeout=0.5)
    assert time.monotonic() - began < 5
    with pytest.raises(WorkerDied):
        reset(worker)


@pytest.mark.parametrize(("task", "ending"), [("crash", "killed by SIGABRT"), ("leave", "it exited with code 7")])
def test_a_worker_that_ends_says_how(spawn, task, ending):
    with pytest.raises(WorkerDied, match=ending) as caught:
        reset(spawn(), task)
    if task == "leave":
        assert "I have had enough" in str(caught.value)


def test_a_request_ends_when_another_thread_kills_the_worker(spawn):
    worker = spawn()
    killer = threading.Timer(0.3, worker.kill)
    killer.start()
    began = time.monotonic()
    with pytest.raises(WorkerDied, match="killed by SIGKILL"):
        reset(worker, "hang")
    killer.join()
    assert time.monotonic() - began < 5


HOST = """
import sys, os
from pathlib import Path
from lerobot_ops.evaluation.sandbox import SandboxConfig, process
worker = process.start("noisy", SandboxConfig(), {}, Path(sys.executable), Path(sys.argv[1]), 0)
print(worker._channel._process.pid, flush=True)
worker.request({"op": "reset", "task": sys.argv[2], "seed": 1})
"""


@pytest.mark.parametrize("task", ["hang", "spin"])
def test_a_worker_does_not_outlive_a_host_that_was_killed(noisy_path, task):
    host = subprocess.Popen([sys.executable, "-c", HOST, noisy_path, task], stdout=subprocess.PIPE, text=True)
    worker = int(host.stdout.readline())
    time.sleep(0.5)
    assert alive(worker)
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    until = time.monotonic() + 10
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(worker)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_sees_nothing_of_our_environment_but_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MESA_GL_VERSION_OVERRIDE", "4.5")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    variables = process.environment(SandboxConfig(), tmp_path, tmp_path)
    assert "secret" not in variables.values()
    assert variables["MESA_GL_VERSION_OVERRIDE"] == "4.5"
    assert variables["MUJOCO_GL"] == "osmesa"
    assert (variables["OMP_NUM_THREADS"], variables["LP_NUM_THREADS"]) == ("1", "0")
    assert variables["HOME"] == str(tmp_path)
    assert process.environment(SandboxConfig(gl="egl"), tmp_path, tmp_path)["MUJOCO_GL"] == "egl"
    assert set(variables) - set(os.environ) <= {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", *process.ONE_CORE}

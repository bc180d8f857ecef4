"""The hardened container, looked at from outside and from inside."""

import json
import signal
import subprocess
import sys
import time

import docker
import numpy as np
import pytest

from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation.sandbox import SandboxConfig, WorkerDied, WorkerTimeout, gpu, open_sandbox
from lerobot_ops.evaluation.sandbox.docker import DEADLINE_LABEL, container_options, sweep
from lerobot_ops.evaluation.sandbox.engine import LABEL, connect
from lerobot_ops.evaluation.sandbox.recipe import recipe

IMAGE = "observation.image"

PROBE = """
import json, os, socket
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/1/status").read_text().splitlines())
def refused(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
print(json.dumps({
    "uid": os.getuid(),
    "environ": dict(item.split("=", 1) for item in Path("/proc/1/environ").read_text().split("\\0") if item),
    "capabilities": status["CapEff"].strip() + status["CapBnd"].strip(),
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "seccomp": status["Seccomp"].strip(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "write_root": refused(lambda: Path("/opt/guest/x").write_text("")),
    "write_tmp": refused(lambda: Path("/tmp/x").write_text("")),
    "connect": refused(lambda: socket.create_connection(("1.1.1.1", 53), 1)),
    "mounts": sorted({line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}),
    "setuid": [str(path) for path in Path("/usr/bin").iterdir() if path.lstat().st_mode & 0o6000],
}))
"""


@pytest.fixture
def engine(docker_sandbox):
    client = connect()
    yield client
    client.close()


def container_of(worker):
    return worker._channel._container


def play(worker, task="button-press-topdown-v3", seed=4):
    first = worker.request({"op": "reset", "task": task, "seed": seed, "observe": [IMAGE]})["observation"]
    played = worker.request({"op": "expert", "steps": 500, "cameras": []})
    return {**first, **{f"all.{k}": v for k, v in played["observations"].items()}, "actions": played["actions"],
            "rewards": np.array(played["rewards"])}  # fmt: skip


def test_a_worker_can_do_nothing_but_answer(docker_sandbox, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    sandbox = open_sandbox("metaworld", SandboxConfig(type="docker", memory_gb=1.5, labels={"flow": "weekly"}))
    with sandbox.spawn({}) as worker:
        container = container_of(worker)
        seen = json.loads(container.exec_run(["python", "-c", PROBE]).output)
        host = container.attrs["HostConfig"] if container.reload() is None else None
    assert seen["uid"] == 65534
    assert set(seen["capabilities"]) == {"0"}
    assert (seen["no_new_privileges"], seen["seccomp"]) == ("1", "2")
    assert seen["interfaces"] == ["lo"]
    assert seen["connect"] == "OSError"
    assert seen["write_root"] == "OSError"
    assert seen["write_tmp"] is None
    assert seen["setuid"] == []
    assert not [path for path in seen["mounts"] if path.startswith(("/home", "/root", "/work", "/var"))]
    assert set(seen["environ"]) == {
        *("PATH", "HOME", "HOSTNAME", "LANG", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS", "GLIBC_TUNABLES"),
    }
    assert host["Memory"] == host["MemorySwap"] == 1.5 * 2**30
    assert (host["PidsLimit"], host["NanoCpus"]) == (128, 1e9)
    assert host["Binds"] is None
    assert container.labels["flow"] == "weekly"
    assert int(container.labels[DEADLINE_LABEL]) > time.time() + 23 * 3600


def test_the_same_seeds_give_the_same_episodes_as_anywhere_else(docker_sandbox, venv_sandbox):
    hello = {"cameras": [IMAGE]}
    with docker_sandbox.spawn(hello) as inside, venv_sandbox.spawn(hello) as outside:
        for task in ("button-press-topdown-v3", "door-open-v3"):
            contained, free = play(inside, task), play(outside, task)
            assert contained.keys() == free.keys()
            for key, value in contained.items():
                if key == IMAGE:
                    # Another Mesa may round a pixel otherwise.
                    assert np.abs(value.astype(int) - free[key]).mean() < 1
                else:
                    np.testing.assert_array_equal(value, free[key], err_msg=key)
        assert inside.info["features"] == outside.info["features"]


@pytest.mark.parametrize("library", ["egl", "osmesa"])
def test_both_libraries_render_in_the_image(docker_sandbox, library):
    sandbox = open_sandbox("metaworld", SandboxConfig(type="docker", gl=library))
    with sandbox.spawn({"cameras": [IMAGE]}) as worker:
        assert worker.info["render"]["library"] == library


def test_a_container_goes_with_its_worker(docker_sandbox, engine):
    worker = docker_sandbox.spawn({})
    name = container_of(worker).id
    worker.close()
    with pytest.raises(docker.errors.NotFound):
        engine.containers.get(name)


def test_a_worker_that_is_killed_says_so_and_another_can_start(docker_sandbox):
    worker = docker_sandbox.spawn({})
    container_of(worker).kill()
    with pytest.raises(WorkerDied, match="killed by SIGKILL"):
        worker.request({"op": "reset", "task": "reach-v3", "seed": 1})
    with docker_sandbox.spawn({}) as another:
        assert another.request({"op": "reset", "task": "reach-v3", "seed": 1})["instruction"] == "Reach a goal position"


def test_a_worker_that_hangs_is_stopped_at_the_deadline(docker_sandbox, engine):
    worker = docker_sandbox.spawn({})
    container = container_of(worker)
    container.pause()
    with pytest.raises(WorkerTimeout, match=r"within 0.5 s"):
        worker.request({"op": "reset", "task": "reach-v3", "seed": 1}, timeout=0.5)
    with pytest.raises(docker.errors.NotFound):
        engine.containers.get(container.id)


def test_a_worker_that_needs_too_much_memory_says_so(docker_sandbox):
    sandbox = open_sandbox("metaworld", SandboxConfig(type="docker", memory_gb=0.1))
    with pytest.raises(WorkerDied, match=r"ran out of memory \(raise sandbox.memory_gb\)"):  # noqa: PT012
        worker = sandbox.spawn({"cameras": [IMAGE]})
        worker.request({"op": "reset", "task": "reach-v3", "seed": 1, "observe": [IMAGE]})


HOST = """
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox
worker = open_sandbox("metaworld", SandboxConfig(type="docker")).spawn({"video": True})
print(worker._channel._container.id, flush=True)
worker.request({"op": "reset", "task": "reach-v3", "seed": 1})
worker.request({"op": "expert", "steps": 500, "cameras": ["observation.image"]})
"""


def test_what_a_killed_host_leaves_ends_and_is_swept(docker_sandbox, engine):
    host = subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True)
    container = engine.containers.get(host.stdout.readline().strip())
    time.sleep(1)
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    assert container.wait(timeout=20)["StatusCode"] == 0
    assert container.short_id in sweep(engine)
    with pytest.raises(docker.errors.NotFound):
        container.reload()


def test_a_sweep_takes_what_outlived_its_deadline_and_leaves_the_rest(docker_sandbox, engine):
    def start(deadline):
        labels = {LABEL: "metaworld", DEADLINE_LABEL: str(int(time.time() + deadline))}
        return engine.containers.run(
            docker_sandbox.image, ["100"], entrypoint="sleep", labels=labels, detach=True, network_mode="none"
        )

    expired, running = start(-1), start(60)
    try:
        removed = sweep(engine)
        assert expired.short_id in removed
        assert running.short_id not in removed
    finally:
        running.remove(force=True)


def test_an_image_of_the_users_own_is_known_by_its_digest(docker_sandbox):
    own = open_sandbox("metaworld", SandboxConfig(type="docker", image=docker_sandbox.image))
    assert own.image == docker_sandbox.image
    assert own.image.startswith("sha256:")
    # It is of our recipe, wherever it was built.
    assert own.recipe == docker_sandbox.recipe == recipe("metaworld").digest
    with pytest.raises(SandboxError, match="the image cannot be had"):
        open_sandbox("metaworld", SandboxConfig(type="docker", image="localhost:1/no/such:image"))


def test_auto_is_docker_where_an_engine_answers(docker_sandbox):
    sandbox = open_sandbox("metaworld", SandboxConfig())
    assert (sandbox.kind, sandbox.image) == ("docker", docker_sandbox.image)
    assert sandbox.reason == "a Docker engine answers"


def test_limits_that_the_engine_refuses_are_an_error_of_ours(docker_sandbox):
    with pytest.raises(SandboxError, match="a container cannot be started"):
        open_sandbox("metaworld", SandboxConfig(type="docker", cpus=10_000)).spawn({})


def options_of(gpus, number=0):
    config = SandboxConfig(type="docker", gpus=gpus)
    return container_options("metaworld", config, gpu.container_options(gpus, number))


def test_workers_take_turns_at_the_gpus_that_are_named():
    # What the engine would be asked for; no test here sees a GPU.
    third = options_of("0,3", number=2)
    assert third["device_requests"] == [
        {"Driver": "nvidia", "Count": 0, "DeviceIDs": ["0"], "Capabilities": [["gpu"]], "Options": {}}
    ]
    assert options_of("0,3", number=1)["device_requests"][0]["DeviceIDs"] == ["3"]
    assert third["environment"] == {"NVIDIA_DRIVER_CAPABILITIES": "graphics,utility", "MUJOCO_EGL_DEVICE_ID": "0"}
    everything = options_of("all")
    assert (everything["device_requests"][0]["Count"], "MUJOCO_EGL_DEVICE_ID" in everything["environment"]) == (
        -1,
        False,
    )
    assert gpu.environment("0,3", 1) == {"MUJOCO_EGL_DEVICE_ID": "3"}


def test_a_gpu_opens_nothing_else():
    plain, rendering = options_of("none"), options_of("all")
    assert "device_requests" not in plain
    for options in (plain, rendering):
        options.pop("labels")
        options.pop("environment")
    rendering.pop("device_requests")
    assert plain == rendering


def test_without_nvidias_runtime_auto_is_none(engine):
    if "nvidia" in engine.info()["Runtimes"]:
        pytest.skip("this engine has NVIDIA's runtime")
    assert gpu.chosen("auto", engine) == "none"
    assert gpu.chosen("0", engine) == "0"
    with pytest.raises(SandboxError, match="a container cannot be started"):
        open_sandbox("metaworld", SandboxConfig(type="docker", gpus="all")).spawn({})

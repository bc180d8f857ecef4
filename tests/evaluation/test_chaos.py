"""Evaluations while everything around them is killed: workers, containers, the engine, the evaluating process itself.

The random numbers are seeded; what a kill hits is up to the machine, so what is asserted holds for every course of
events. CHAOS_SEED=n tries another one, and CHAOS_EPISODES=1000 goes on for longer (by default 100).
"""

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path
from queue import Queue

import docker
import pytest

from lerobot_ops.cli import main
from lerobot_ops.errors import OpsError, SandboxError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.pool import ATTEMPTS
from lerobot_ops.evaluation.sandbox.engine import connect
from lerobot_ops.flags import build

SEED, EPISODES = int(os.environ.get("CHAOS_SEED", "0")), int(os.environ.get("CHAOS_EPISODES", "100"))
KILLS, MISHAPS = ("kill", "remove", "kill the worker inside"), ("pause", "stop", "fill", "devour")


@pytest.fixture
def label():
    """Marks the containers of one test; none of them may be left."""
    name = f"chaos-{uuid.uuid4().hex[:8]}"
    yield name
    with closing(connect()) as engine:
        assert of(engine, name, all=True) == []


@pytest.fixture(scope="module")
def calm(docker_sandbox, tmp_path_factory):
    """Records of an evaluation that nobody disturbs."""
    result = evaluate(configured(tmp_path_factory.mktemp("calm") / "result", docker_sandbox.identity))
    return {record.key: record.outcome() for record in result.records}


def configured(output: Path, image: str, label: str = "calm", episodes: int = EPISODES, **sandbox) -> EvalConfig:
    """Random actions in the image, without rendering."""
    limits = {"type": "docker", "image": image, "memory_gb": 1.0}
    values = {
        "policy": {"path": "random"},
        "env": {"type": "metaworld", "task": "button-press-topdown-v3", "episode_length": 200},
        "eval": {"n_episodes": episodes, "batch_size": 2},
        "clips": {"enable": False},
        "sandbox": {**limits, "labels": {"test": label}, **sandbox},
        "output_dir": output,
    }
    return build(EvalConfig, values, source="a test")


def of(engine, label: str, **which):
    return engine.containers.list(filters={"label": f"test={label}"}, ignore_removed=True, **which)


def harm(container, how: str) -> None:
    """Do something to a container; what is done inside is done with the rights of a worker."""
    inside = {
        "kill the worker inside": "kill -KILL -1",
        "stop": "kill -STOP -1",
        "fill": "cat /dev/zero > /tmp/zeros",
        "devour": "exec python -c 'bytearray(4 << 30)'",
    }
    if how == "kill":
        container.kill()
    elif how == "remove":
        container.remove(force=True)
    elif how == "pause":
        container.pause()
    else:
        container.exec_run(["sh", "-c", inside[how]])


class Chaos:
    """After chosen records, and a moment later, harms a running container of the label."""

    def __init__(self, label: str, after: dict[int, str]) -> None:
        self.done: list[str] = []
        self._label, self._after = label, after
        self._chance, self._seen = random.Random(SEED), set()
        # Records wait for harm that was not done yet, so that a slow machine does not kill all that starts.
        self._orders: Queue[str | None] = Queue(maxsize=1)
        self._thread = threading.Thread(target=self._work, name="chaos")

    def on_record(self, record) -> None:
        if record.key not in self._seen:  # an evaluation that is run again tells what it has
            self._seen.add(record.key)
            if how := self._after.get(len(self._seen)):
                self._orders.put(how)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._orders.put(None)
        self._thread.join()

    def _work(self) -> None:
        while how := self._orders.get():
            time.sleep(self._chance.uniform(0, 0.2))
            until = time.monotonic() + 5
            while not self._harm(how) and time.monotonic() < until:
                time.sleep(0.02)

    def _harm(self, how: str) -> bool:
        """Whether there was a container to harm, and it did not end by itself before."""
        with closing(connect()) as engine, suppress(docker.errors.APIError):
            if containers := of(engine, self._label):
                harm(self._chance.choice(containers), how)
                self.done.append(how)
                return True
        return False


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("simulator-")]


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def until_it_ends(config: EvalConfig, **more):
    """The result, and the errors that stopped the evaluation before it was run again."""
    stopped = []
    while True:
        try:
            return evaluate(config, **more), stopped
        except SandboxError as error:
            stopped.append(error)
            assert len(stopped) < 10, stopped


def assert_equal_but_for_errors(result, calm) -> None:
    """Every episode once; as if nobody had disturbed it, or an error that says nothing about the policy."""
    records = result.records
    assert [record.key for record in records] == list(calm)[: len(records)]
    for record in records:
        if record.error is None:
            assert record.outcome() == calm[record.key]
        else:
            assert record.attempt == ATTEMPTS
            assert record.error.startswith("a worker")
    played = [record for record in records if record.error is None]
    assert (result.n_episodes, result.n_errors) == (len(played), len(records) - len(played))


def test_every_episode_is_recorded_once_whatever_is_killed(label, calm, docker_sandbox, tmp_path):
    chance = random.Random(SEED)
    harms = [*KILLS * (EPISODES // 8), *MISHAPS]
    chance.shuffle(harms)
    moments = sorted(chance.sample(range(1, EPISODES - 1), len(harms)))
    before = descriptors()
    with Chaos(label, dict(zip(moments, harms, strict=True))) as chaos:
        patience = {"start_timeout_s": 20, "step_timeout_s": 5}
        config = configured(tmp_path / "result", docker_sandbox.identity, label, **patience)
        result, stopped = until_it_ends(config, on_record=chaos.on_record)
    kills = sum(how in KILLS for how in chaos.done)
    errors = sum(record.error is not None for record in result.records)
    print(f"{kills} kills of {len(chaos.done)} harms, {errors} errors, stopped {len(stopped)} times")
    assert kills >= 0.3 * EPISODES
    assert len(result.records) == EPISODES
    assert_equal_but_for_errors(result, calm)
    assert sum(record.attempt > 1 for record in result.records) > 5
    assert ours() == []
    assert descriptors() <= before + 1


ALONE = """
import sys
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate

if __name__ == "__main__":
    evaluate(EvalConfig.model_validate_json(sys.argv[1]), on_record=lambda record: print(record.episode, flush=True))
"""


def test_containers_of_a_killed_evaluation_end_and_are_removed_at_the_next_start(label, calm, docker_sandbox, tmp_path):
    config = configured(tmp_path / "result", docker_sandbox.identity, label, episodes=20)
    with closing(connect()) as engine:
        with subprocess.Popen([sys.executable, "-c", ALONE, config.model_dump_json()], stdout=subprocess.PIPE) as host:
            for _ in range(5):
                assert host.stdout.readline()
            attentive, frozen = of(engine, label)
            frozen.pause()
            host.send_signal(signal.SIGKILL)
        assert attentive.wait(timeout=20)["StatusCode"] == 0
        frozen.reload()
        assert frozen.status == "paused"
        assert_equal_but_for_errors(evaluate(config), calm)
        for container in (attentive, frozen):
            with pytest.raises(docker.errors.NotFound):
                container.reload()


@pytest.fixture(scope="module")
def second_engine(docker_sandbox):
    """An engine that a test may stop, and that knows the image."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("a Docker engine of our own needs root and dockerd: apt-get install -y docker.io")
    memory = Path("/dev/shm")
    # In memory it is ready, and gone, in no time. A socket's path must be short.
    room = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    engine = SecondEngine((memory if room else Path("/tmp")) / f"engine-{uuid.uuid4().hex[:8]}")
    try:
        engine.start()
        saved = subprocess.Popen(["docker", "save", docker_sandbox.identity], stdout=subprocess.PIPE)
        load = ["docker", "-H", engine.address, "load"]
        subprocess.run(load, stdin=saved.stdout, check=True, capture_output=True, timeout=120)
        assert saved.wait(timeout=10) == 0
        # Some machines cannot give containers of a second engine their control groups.
        tried = ["docker", "-H", engine.address, "run", "--rm", "--network=none", "--cpus=1", "--entrypoint=true"]
        tried.append(docker_sandbox.identity)
        ran = subprocess.run(tried, capture_output=True, text=True, check=False, timeout=60)
        if ran.returncode:
            pytest.skip(f"a second engine cannot run a container here: {ran.stderr.strip()}")
        yield engine
    finally:
        engine.remove()


class SecondEngine:
    """A Docker engine beside the one that runs here, for tests that stop one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self.address = folder, f"unix://{folder}/socket"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command = ["dockerd", "--host", self.address, "--bridge=none", "--iptables=false"]
        for option, name in {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}.items():
            command += [option, str(self._folder / name)]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < until, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(how)
        self._process.wait(timeout=60)
        beneath = self._folder / "exec" / "containerd" / "containerd.pid"
        if beneath.exists():  # it was killed, so it did not clean up
            with suppress(ProcessLookupError):
                os.kill(int(beneath.read_text()), signal.SIGKILL)
            beneath.unlink()

    def remove(self) -> None:
        if self._process.poll() is None:
            self.stop(signal.SIGKILL)
        for process in Path("/proc").glob("[0-9]*"):  # what a killed engine left
            with suppress(OSError):
                if str(self._folder).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(str(self._folder))]):
            subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            docker.DockerClient(self.address, version="auto").close()
        except docker.errors.DockerException:
            return False
        return True


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_stops_midway_is_a_clear_error_and_nothing_is_lost(
    second_engine, docker_sandbox, calm, tmp_path, monkeypatch, capsys, how
):
    monkeypatch.setenv("DOCKER_HOST", second_engine.address)
    config = configured(tmp_path / "result", docker_sandbox.identity, episodes=20)
    told = []

    def stop_after_five(record):
        told.append(record)
        if len(told) == 5:
            second_engine.stop(how)

    with pytest.raises(OpsError, match="no Docker engine answers") as caught:
        evaluate(config, on_record=stop_after_five)
    assert "fix:" in str(caught.value)
    assert ours() == []
    second_engine.start()
    with closing(connect()) as engine:
        left = engine.containers.list(all=True)
        main(["images", "prune"])
        pruned = capsys.readouterr().out
        assert all(f"container {container.short_id}  removed" in pruned for container in left)
        told.clear()
        result = evaluate(config, on_record=told.append)
        assert engine.containers.list(all=True) == []
    assert len(told) == len(result.records) == 20
    assert_equal_but_for_errors(result, calm)

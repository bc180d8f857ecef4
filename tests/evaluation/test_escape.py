"""A hostile benchmark (hostile_benchmark.py) attacks from inside a worker: what stops it, and what its host says of it.

What attacks the host's end of the stream runs in plain processes, where it has most freedom; what attacks the machine
runs in the real image.
"""

import gc
import io
import json
import os
import re
import sys
import tarfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lerobot_ops.errors import SandboxError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox, process
from lerobot_ops.evaluation.sandbox.engine import connect
from lerobot_ops.flags import build

HERE = Path(__file__).parent
IMAGE = "observation.image"
MB = 1 << 20

ON_THE_STREAM = {
    "header": "does not begin a message",
    "gigabytes": "does not begin a message",
    "words": "does not begin a message",
    "endless stdout": "does not begin a message",
    "more than asked": "it has 20971520 bytes, where at most",
    "garbage": "cannot be read",
    "nested": "cannot be read",
    "giant map": "cannot be read",
    "huge shape": "cannot be read",
    "negative shape": "an array of dtype '<f4' and shape",
    "objects": "an array of dtype 'O'",
    "no map": "must be a map, not list",
    "many lists": "cannot be read",
    "nested lists": "cannot be read|more than 65536 items",
    "list as id": r"answers request \[1, 2, 3\]",
    "early": "answers request 3, and this is request 2",
    "drip": "did not answer 'reset' within 1 s",
    "endless stderr": "did not answer 'reset' within 1 s",
    "spin": "did not answer 'reset' within 1 s",
    "closed": "it closed its stream",
    "exit 255": "it exited with code 255",
    "signal 35": "killed by signal 35",
    "terminal": r"ValueError in a worker: �\[2J�]0;pwned� �gnp.exe",
    "long error": r"ValueError in a worker: … x{4000}$",
    "no error": "its error is .*, not a map",
}
IN_THE_ANSWER = {
    "extra key": "observation lacks, or has too much: observation.secret",
    "missing key": "observation lacks, or has too much: .*observation.state",
    "dtype": r"observation.\w+ is float64 \(.*\), not ",
    "shape": r"observation.state is float32 \(3,\), not float32 \(2,\)",
    "not finite": "observation.state holds a number that is not finite",
    "image size": r"observation.image is uint8 \(6, 4, 3\), not uint8 \(4, 6, 3\)",
    "no array": r"observation.state is \[0.0, 0.0\], not float32",
    "nan reward": "its rewards are not all finite numbers",
    "infinite reward": "its rewards are not all finite numbers",
    "text as reward": "its rewards are not all finite numbers",
    "text as success": "its success is 'yes', not true or false",
    "number as success": "its success is 1, not true or false",
    "too many steps": "its steps is 99, not a whole number from 1 to 2",
    "too few steps": "it played 1 of 2 steps, and the episode is not over",
    "rewards lack": "its rewards are not 2 numbers",
    "no number": "its steps is '2', not a whole number",
    "unasked frames": "it sends frames that nobody asked for",
    "done as number": "its done is 1, not true or false",
    "nothing": "its done is None|its steps is None",
    "twice": "it answers request 2, and this is request 3",
}
IN_HELLO = {
    "path": r"a feature 'observation.images.../../../etc/cron.d/x', which is not",
    "separator": "a feature 'observation.a/b', which is not",
    "endless shape": "is too large for a message",
    "object dtype": "it has a feature of dtype 'object'",
    "shape of texts": "has no shape",
}
ON_THE_MACHINE = {
    "fork bomb": "did not answer 'reset' within 3 s",
    "thread bomb": "can't start new thread|did not answer 'reset' within 3 s",
    # A crowded machine may not even be through with it in 3 s.
    "memory bomb": r"ran out of memory \(raise sandbox.memory_gb\)|killed by SIGKILL|did not answer",
    "fill tmp": "No space left on device",
    "fill shm": "No space left on device",
    "daemon": "it exited with code 0|killed by",
    "gigabytes": "does not begin a message",
    "endless stdout": "does not begin a message",
    "endless stderr": "did not answer 'reset' within 3 s",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A folder with the hostile benchmark as a third party would install it."""
    folder = tmp_path_factory.mktemp("third-party")
    (folder / "hostile_benchmark.py").write_bytes((HERE / "hostile_benchmark.py").read_bytes())
    info = folder / "hostile_benchmark-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-benchmark\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lerobot_ops.envs]\nhostile = hostile_benchmark:BENCHMARK\n")
    return folder


@pytest.fixture
def spawn(package):
    def start(timeout: float = 60.0, **options):
        config = SandboxConfig(type="process", start_timeout_s=60, step_timeout_s=timeout)
        hello = {"cameras": [IMAGE], "options": options}
        return process.start("hostile", config, hello, Path(sys.executable), Path(f"{package}:{HERE.parents[1]}"), 0)

    return start


def play(worker, task: str) -> None:
    worker.request({"op": "reset", "task": task, "seed": 1, "observe": [IMAGE]})
    worker.request({"op": "step", "actions": np.zeros((2, 2), np.float32), "observe": [IMAGE]})


def peak_memory() -> int:
    """The most bytes that this process has had since the last call."""
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(peak.split()[1])


def threads_and_descriptors() -> tuple[int, int]:
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(("attack", "told"), {**ON_THE_STREAM, **IN_THE_ANSWER}.items())
def test_an_attack_on_the_stream_is_told_and_costs_little(spawn, attack, told):
    patient = attack not in ("drip", "endless stderr", "spin")
    before, _, began = threads_and_descriptors(), peak_memory(), time.monotonic()
    memory = peak_memory()
    with pytest.raises(SandboxError) as caught, spawn(60.0 if patient else 1.0) as worker:
        play(worker, attack)
    text = str(caught.value)
    assert re.search(told, text)
    assert len(text) < 20_000
    assert all(sign.isprintable() or sign in "\n\t" for sign in text)
    assert peak_memory() - memory < 64 * MB
    assert time.monotonic() - began < 30
    assert threads_and_descriptors() == before


@pytest.mark.parametrize(("features", "told"), IN_HELLO.items())
def test_a_worker_that_describes_itself_badly_does_not_start(spawn, features, told):
    with pytest.raises(SandboxError, match=told):
        spawn(features=features)


def test_the_benchmark_plays_when_it_does_not_attack(spawn):
    with spawn() as worker:
        play(worker, "after spin")


@pytest.fixture(scope="module")
def image(docker_sandbox, package):
    """The real image with the hostile benchmark in it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        recipe = f"FROM {docker_sandbox.identity}\nCOPY hostile /opt/guest\n".encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(recipe)
        tar.addfile(entry, io.BytesIO(recipe))
        tar.add(package, "hostile")
    content.seek(0)
    with closing(connect()) as engine:
        built, _ = engine.images.build(fileobj=content, custom_context=True, rm=True)
        yield built.id
        engine.images.remove(built.id, force=True)


@pytest.fixture
def config(image, package, monkeypatch, tmp_path):
    """An evaluation of some tasks of the hostile benchmark, one episode each."""
    monkeypatch.syspath_prepend(str(package))

    def of(tasks: list[str]) -> EvalConfig:
        values = {
            "env": {"type": "hostile", "task": ",".join(tasks)},
            "policy": {"path": "zero"},
            "eval": {"n_episodes": 1, "batch_size": 2},
            "clips": {"enable": False},
            "sandbox": {"type": "docker", "image": image, "memory_gb": 0.5, "step_timeout_s": 3},
            "output_dir": tmp_path / "result",
        }
        return build(EvalConfig, values, source="a test")

    return of


def test_an_attack_on_the_machine_is_an_error_of_its_episode_and_the_next_one_plays(config):
    pairs = [task for attack in ON_THE_MACHINE for task in (attack, f"after {attack}")]
    before = threads_and_descriptors()
    peak_memory()
    memory = peak_memory()
    result = evaluate(config(pairs))
    told = {record.task: record.error for record in result.records}
    assert list(told) == pairs
    for attack, expected in ON_THE_MACHINE.items():
        assert re.search(expected, told[attack]), (attack, told[attack])
        assert told[f"after {attack}"] is None
    assert (result.n_episodes, result.n_errors) == (len(pairs) // 2, len(pairs) // 2)
    assert peak_memory() - memory < 128 * MB
    with closing(connect()) as engine:
        ancestors = engine.containers.list(all=True, filters={"label": "lerobot-ops=hostile"})
    assert ancestors == []
    assert threads_and_descriptors()[0] <= before[0]
    assert threads_and_descriptors()[1] <= before[1] + 1


def test_a_container_that_floods_its_stream_is_gone_soon_after_its_deadline(image, package, monkeypatch):
    """The engine waits a minute for somebody to read what a container has written, unless the stream is closed."""
    monkeypatch.syspath_prepend(str(package))
    sandbox = open_sandbox("hostile", SandboxConfig(type="docker", image=image, labels={"test": "flood"}))
    worker = sandbox.spawn({})
    began = time.monotonic()
    with pytest.raises(SandboxError, match="did not answer 'reset' within 1 s"):
        worker.request({"op": "reset", "task": "endless stderr", "seed": 1}, timeout=1)
    assert time.monotonic() - began < 30
    with closing(connect()) as engine:
        assert engine.containers.list(all=True, filters={"label": "test=flood"}) == []


def test_no_way_out_of_the_container_is_open(config):
    with pytest.raises(SandboxError, match="every episode ended in an error") as caught:
        evaluate(config(["probe"]))
    findings = json.loads(re.search(r"\{.*\}", str(caught.value)).group())
    assert len(findings) > 35
    assert [attempt for attempt, refusal in findings.items() if refusal is None] == []

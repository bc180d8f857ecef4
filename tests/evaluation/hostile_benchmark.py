"""A benchmark that attacks: each task tries one thing. test_escape.py puts it into sandboxes; run it nowhere else."""

import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import numpy as np

from lerobot_ops.envs import Benchmark, Step

STATE = {"dtype": "float32", "shape": [2], "names": None}
IMAGE = {"dtype": "video", "shape": [4, 6, 3], "names": ["height", "width", "channel"]}
MB = 1 << 20


class Env:
    """Plays well, but for what the task says."""

    fps, action_dim, max_steps = 10, 2, 4

    def __init__(self, features: str = "") -> None:
        self.features = {"observation.state": STATE, "observation.image": IMAGE}
        FEATURES.get(features, lambda features: None)(self.features)

    def reset(self, task: str, seed: int, number: int = 0) -> None:
        self.task, self.count = task, 0
        RESETS.get(task, lambda: None)()

    def step(self, action) -> Step:
        self.count += 1
        if self.task in ANSWERS:
            say(ANSWERS[self.task]())
            time.sleep(1000)
        return STEPS.get(self.task, lambda last: Step(1.0, False, False, last))(self.count == self.max_steps)

    def observe(self, cameras):
        seen = {"observation.state": np.zeros(2, np.float32)}
        seen |= {key: np.zeros((4, 6, 3), np.uint8) for key in cameras}
        return OBSERVATIONS.get(self.task, lambda seen: seen)(seen)

    def expert_action(self):
        return np.zeros(2, np.float32)

    def render(self, size):
        return np.zeros((size, size, 3), np.uint8)

    def close(self) -> None:
        pass


# ---- what is written on the stream -----------------------------------------------------------------------------------


def loop():
    """The local variables of the worker's loop: its stream, and the number of the request."""
    frame = sys._getframe()
    while "replies" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals


def write(data: bytes) -> None:
    stream = loop()["replies"]
    stream.write(data)
    stream.flush()


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def say(message: object) -> None:
    write(framed(msgpack.packb(message)))


def and_wait(data: bytes):
    def attack() -> None:
        write(data)
        time.sleep(1000)

    return attack


def gigabytes() -> None:
    write((600 * MB).to_bytes(4, "big"))
    for _ in range(600):
        write(bytes(MB))
    time.sleep(1000)


def drip() -> None:
    write((1000).to_bytes(4, "big"))
    while True:
        time.sleep(0.1)
        write(b"x")


def early() -> None:
    """Answer the request that comes next, before it is asked."""
    say({"id": loop()["number"] + 1, "steps": 1, "rewards": [9.0], "success": True, "done": True})


def twice() -> None:
    say({"id": loop()["number"], **begun()})


def endless(descriptor: int) -> None:
    while True:
        os.write(descriptor, b"all work and no play makes a worker a dull process\n" * 1000)


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(1000)


def ignore_the_end() -> None:
    """Say that nothing more will come, and go on."""
    socket.socket(fileno=os.dup(loop()["replies"].fileno())).shutdown(socket.SHUT_WR)
    time.sleep(1000)


def packed(dtype: str, shape: list[int], data: bytes) -> msgpack.ExtType:
    head = msgpack.packb([dtype, shape])
    return msgpack.ExtType(1, bytes([len(head)]) + head + data)


def array(dtype: str, shape: list[int], data: bytes) -> bytes:
    return framed(msgpack.packb({"a": packed(dtype, shape, data)}))


def begun() -> dict:
    observation = {
        "observation.state": packed("<f4", [2], bytes(8)),
        "observation.image": packed("|u1", [4, 6, 3], bytes(72)),
    }
    known = {"instruction": "go", "init_state": None, "max_steps": 4, "memory": 1, "frames": None}
    return {"observation": observation, **known}


def answered(**changes) -> dict:
    good = {"steps": 2, "rewards": [1.0, 1.0], "success": False, "done": False, "frames": None}
    return {"id": loop()["number"], **good, "observation": begun()["observation"], **changes}


def fail(text: str):
    def attack() -> None:
        raise ValueError(text)

    return attack


def spin() -> None:
    while True:
        pass


RESETS = {
    "header": and_wait(b"\xff\xff\xff\xff"),
    "gigabytes": gigabytes,
    "more than asked": and_wait(framed(bytes(20 * MB))),
    "garbage": and_wait(framed(b"\xc1" * 64)),
    "words": and_wait(b"Gym has been unmaintained since 2022\n"),
    "no map": and_wait(framed(b"\x93\x01\x02\x03")),
    "nested": and_wait(framed(b"\x81\xa1a" + b"\x91" * 100_000)),
    "many lists": and_wait(framed(b"\x81\xa1a\xdd" + (500_000).to_bytes(4, "big") + b"\x90" * 500_000)),
    "nested lists": and_wait(framed(b"\x81\xa1a" + b"\xdc\xff\x00" * 400 + b"\x90" * 500_000)),
    "giant map": and_wait(framed(b"\xdf\xff\xff\xff\xff\xa1a")),
    "objects": and_wait(array("O", [1], bytes(8))),
    "negative shape": and_wait(array("<f4", [-1, -2], bytes(8))),
    "huge shape": and_wait(array("<f4", [0, 1 << 62, 1 << 62], b"")),
    "list as id": and_wait(framed(msgpack.packb({"id": [1, 2, 3]}))),
    "drip": drip,
    "early": early,
    "twice": twice,
    "endless stdout": lambda: endless(loop()["replies"].fileno()),
    "endless stderr": lambda: endless(2),
    "exit 255": lambda: os._exit(255),
    "signal 35": lambda: end_by(35),
    "closed": ignore_the_end,
    "spin": spin,
    "terminal": fail("\x1b[2J\x1b]0;pwned\x07 \u202egnp.exe"),
    "long error": fail("x" * 100_000),
    "no error": lambda: say({"id": loop()["number"], "error": ["ConfigError"]}),
}
OBSERVATIONS = {
    "extra key": lambda seen: {**seen, "observation.secret": np.zeros(2, np.float32)},
    "missing key": lambda seen: {},
    "dtype": lambda seen: {key: value.astype("f8") for key, value in seen.items()},
    "shape": lambda seen: {**seen, "observation.state": np.zeros(3, np.float32)},
    "not finite": lambda seen: {**seen, "observation.state": np.array([0, np.nan], np.float32)},
    "image size": lambda seen: {**seen, "observation.image": np.zeros((6, 4, 3), np.uint8)},
    "no array": lambda seen: {**seen, "observation.state": [0.0, 0.0]},
}
STEPS = {
    "nan reward": lambda last: Step(float("nan"), False, False, last),
    "infinite reward": lambda last: Step(float("inf"), False, False, last),
    "text as reward": lambda last: Step("1.0", False, False, last),
    "text as success": lambda last: Step(1.0, "yes", False, last),
    "number as success": lambda last: Step(1.0, 1, False, last),
}
ANSWERS = {
    "too many steps": lambda: answered(steps=99, rewards=[1.0] * 99),
    "too few steps": lambda: answered(steps=1, rewards=[1.0]),
    "rewards lack": lambda: answered(rewards=[1.0]),
    "no number": lambda: answered(steps="2"),
    "unasked frames": lambda: answered(frames=[[1, 2], [3]]),
    "done as number": lambda: answered(done=1),
    "nothing": lambda: {"id": loop()["number"]},
}
FEATURES = {
    "path": lambda features: features.update({"observation.images.../../../etc/cron.d/x": IMAGE}),
    "separator": lambda features: features.update({"observation.a/b": STATE}),
    "endless shape": lambda features: features.update({"observation.big": {**STATE, "shape": [1 << 40]}}),
    "object dtype": lambda features: features.update({"observation.big": {**STATE, "dtype": "object"}}),
    "shape of texts": lambda features: features.update({"observation.big": {**STATE, "shape": ["1"]}}),
}

# ---- what is done to the machine -------------------------------------------------------------------------------------


def refused(action) -> str | None:
    """The name of the error that an attempt meets; None when it succeeds."""
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return None


def system_call(name: str, *arguments) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def call(number: int, *arguments) -> None:
    system_call("syscall", number, *arguments)


def abstract_socket() -> None:
    for name in ("\0docker", "\0/containerd-shim", "\0/tmp/.X11-unix/X0"):
        with socket.socket(socket.AF_UNIX) as one:
            if one.connect_ex(name) == 0:
                return
    raise ConnectionError


def attempts() -> dict:
    """Every way out that is tried, and how it was refused."""
    return {
        "tcp": lambda: socket.create_connection(("1.1.1.1", 443), 1),
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("8.8.8.8", 53)),
        "name": lambda: socket.getaddrinfo("pypi.org", 443),
        "host's loopback": lambda: socket.create_connection(("127.0.0.1", int(os.environ.get("PORT", "22"))), 1),
        "packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3),
        "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "docker's socket": lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"),
        "abstract sockets": abstract_socket,
        "root of 1": lambda: Path("/proc/1/root/etc/shadow").read_text(),
        "kernel's image": lambda: Path("/proc/kcore").open("rb").read(4096)[0],
        "shadow": lambda: Path("/etc/shadow").read_text(),
        "own code": lambda: Path(__file__).write_text(""),
        "root": lambda: Path("/pwned").write_text(""),
        "home": lambda: Path("/root/pwned").write_text(""),
        "devices": lambda: os.mknod("/tmp/disk", 0o660 | 0o060000, os.makedev(254, 0)),
        "disk": lambda: Path("/dev/vda").open("rb"),
        "kernel's memory": lambda: Path("/dev/mem").open("rb"),
        "kernel's log": lambda: Path("/dev/kmsg").open("rb"),
        "core pattern": lambda: Path("/proc/sys/kernel/core_pattern").write_text("|/tmp/x"),
        "sysrq": lambda: Path("/proc/sysrq-trigger").write_text("b"),
        "cgroups": lambda: (next(Path("/sys/fs/cgroup").rglob("release_agent"))).write_text("/tmp/x"),
        "limits": lambda: next(Path("/sys/fs/cgroup").rglob("memory*max*")).write_text("max"),
        "sysfs": lambda: Path("/sys/kernel/uevent_helper").write_text("/tmp/x"),
        "mount": lambda: system_call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "remount": lambda: system_call("mount", b"none", b"/", None, 32, None),
        "unshare": lambda: system_call("unshare", 0x10000000),
        "namespace": lambda: system_call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0),
        "chroot": lambda: os.chroot("/tmp"),
        "become root": lambda: os.setuid(0),
        "setgid": lambda: os.setgid(0),
        "trace": trace_others,
        "keys": lambda: call(250, 0, -3, 1),
        "kernel module": lambda: call(175, b"", 0, b""),
        "bpf": lambda: call(321, 0, 0, 0),
        "clock": lambda: time.clock_settime(time.CLOCK_REALTIME, 0),
        "reboot": lambda: system_call("reboot", 0x01234567),
        "priority": lambda: os.nice(-10),
        "host's processes": other_processes,
        "programs in /tmp": program_in_tmp,
        "setuid programs": setuid_programs,
        "swap": lambda: system_call("swapoff", b"/dev/vda"),
        "more locked memory": lambda: __import__("resource").setrlimit(8, (-1, -1)),
    }


def other_processes() -> None:
    """Kill whatever is not of this container."""
    for process in Path("/proc").glob("[0-9]*"):
        if b"lerobot_ops" not in (process / "cmdline").read_bytes() and process.name != "1":
            os.kill(int(process.name), signal.SIGTERM)
            return
    raise PermissionError


def trace_others() -> None:
    """Attach to any process that is not of this container."""
    own = {int(process.name) for process in Path("/proc").glob("[0-9]*")}
    for number in set(range(1, 5000)) - own:
        if refused(lambda number=number: system_call("ptrace", 16, number, 0, 0)) is None:
            return
    raise PermissionError


def program_in_tmp() -> None:
    Path("/tmp/program").write_text("#!/bin/sh\n")
    Path("/tmp/program").chmod(0o755)
    subprocess.run("/tmp/program", check=True)


def setuid_programs() -> None:
    for folder in ("/bin", "/sbin", "/usr"):
        for path in Path(folder).rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o6000:
                return
    raise PermissionError


def probe() -> None:
    raise RuntimeError(json.dumps({name: refused(attempt) for name, attempt in attempts().items()}))


def fork_bomb() -> None:
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


def thread_bomb() -> None:
    import threading

    while True:
        threading.Thread(target=time.sleep, args=(1000,)).start()


def memory_bomb() -> None:
    kept = []
    while True:
        block = mmap.mmap(-1, 64 * MB)
        block.write(bytes(64 * MB))
        kept.append(block)


def fill(folder: str) -> None:
    with open(f"{folder}/zeros", "wb") as file:
        while True:
            file.write(bytes(MB))


def daemon() -> None:
    """Leave a process behind that has nothing to do with the worker any more."""
    if os.fork() == 0:
        os.setsid()
        for name in range(3, 100):
            try:
                os.close(name)
            except OSError:
                continue
        while True:
            signal.pause()
    os._exit(0)


RESETS |= {
    "probe": probe,
    "fork bomb": fork_bomb,
    "thread bomb": thread_bomb,
    "memory bomb": memory_bomb,
    "fill tmp": lambda: fill("/tmp"),
    "fill shm": lambda: fill("/dev/shm"),
    "daemon": daemon,
}
attacks = sorted({*RESETS, *OBSERVATIONS, *STEPS, *ANSWERS})
BENCHMARK = Benchmark("hostile", {name: f"Try {name}" for name in [*attacks, *(f"after {n}" for n in attacks)]}, Env)

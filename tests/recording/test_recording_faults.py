"""What goes wrong while an arm is recorded: it is limp then, what was saved stays, and the message says what to do."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lerobot_ops.errors import DeviceError, OpsError
from lerobot_ops.motors.simulator import Fault
from lerobot_ops.recording.operator import Event, Schedule, Take
from lerobot_ops.recording.record import record
from lerobot_ops.recording.safety import EmergencyStopError
from tests.recording.arms import CAMERA, PATIENT, Arms
from tests.recording.test_record import flawless, lengths, wait_until_limp

Harm = Callable[["Arms"], None]
RETRIES = 8
"""Readings are repeated so often: enough on a busy machine, and a fault is noticed within a second."""


class Harming(Schedule):
    """Records an episode, and does harm in the second one."""

    def __init__(self, harm: Callable[[], None], frames: int | None = None) -> None:
        super().__init__([Take(6), Take(frames)])
        self._harm: Callable[[], None] | None = harm
        self.episodes = 0

    def phase(self, name: str) -> None:
        super().phase(name)
        self.episodes += name == "recording"

    def event(self) -> Event | None:
        event = super().event()
        if self.episodes == 2 and self._frame == 6 and self._harm is not None:
            harm, self._harm = self._harm, None
            harm()
        return event


def fault(kind: str, **more: object) -> Harm:
    return lambda arms: arms.follower.fault(Fault(kind, **more))


BUS = {
    "no_reply": (fault("no_reply"), "no answer"),
    "one motor silent": (fault("no_reply", motors=("gripper",)), "gripper"),
    "corrupt_checksum": (fault("corrupt_checksum"), "answer"),
    "wrong_length": (fault("wrong_length"), "answer"),
    "late_reply": (fault("late_reply", delay_s=0.5), "answer"),
    "overload": (fault("overload", motors=("elbow_flex",)), "overload"),
    "overheat": (fault("overheat", motors=("elbow_flex",)), "overheated|°C"),
    "voltage_drop": (fault("voltage_drop"), r"4\.4 V"),
    "leader unplugged": (lambda arms: arms.leader.unplug(), "leader"),
}


@pytest.mark.parametrize("kind", BUS)
def test_faults_of_the_bus(arms: Arms, kind: str) -> None:
    harm, said = BUS[kind]
    robot = arms.robot(cameras={}, num_read_retries=RETRIES)
    teleop = {**arms.teleop(), "num_read_retries": RETRIES}
    config = arms.config(robot=robot, teleop=teleop, dataset={"episode_time_s": 30})
    schedule = Harming(lambda: harm(arms))
    with pytest.raises(DeviceError, match=said) as raised:
        record(config, schedule)
    assert arms.limp
    assert raised.value.fix
    assert "1 episodes are safe" in schedule.said[-1]
    assert lengths(config.dataset.place) == [6]
    assert flawless(config.dataset.place)


def test_an_arm_that_is_unplugged_lets_go_when_it_is_plugged_in_again(arms: Arms) -> None:
    config = arms.config(robot=arms.robot(cameras={}), dataset={"episode_time_s": 30})
    with pytest.raises(DeviceError) as raised:
        record(config, Harming(arms.follower.unplug))
    assert raised.value.fix
    assert not arms.limp
    arms.follower.plug_in()
    wait_until_limp(arms)
    assert lengths(config.dataset.place) == [6]


@pytest.mark.parametrize("kind", ["freeze", "stall", "unplug"])
def test_faults_of_a_camera(arms: Arms, kind: str) -> None:
    control = arms.folder / "control"
    camera = {**CAMERA, "control": str(control), "frozen_after_s": 0.4}
    safety = {**PATIENT, "max_camera_age_ms": 400}
    config = arms.config(robot=arms.robot(cameras={"front": camera}), safety=safety, dataset={"episode_time_s": 30})
    with pytest.raises(DeviceError, match="front"):
        record(config, Harming(lambda: _write(control, kind)))
    assert arms.limp
    assert lengths(config.dataset.place) == [6]


def _write(control: Path, word: str) -> None:
    control.write_text(word)


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file grows beyond `free` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk(arms: Arms) -> None:
    limits = full_disk(2_000)
    config = arms.config()
    try:
        with pytest.raises(OpsError) as raised:
            record(config, Harming(limits.__enter__, frames=10))
        assert arms.limp
    finally:
        limits.__exit__(None, None, None)
    assert "room" in str(raised.value.fix)
    assert lengths(config.dataset.place) == [6]
    assert record(arms.config(resume=True, dataset={"num_episodes": 1})).episodes == 2
    assert flawless(config.dataset.place)


def test_too_little_space_for_an_episode_is_told_before_it(arms: Arms) -> None:
    with pytest.raises(OpsError, match="too little space"):
        record(arms.config(dataset={"min_free_gb": 1e6}))
    assert arms.limp


def test_the_emergency_stop(arms: Arms) -> None:
    schedule: Harming
    at: dict[str, bool] = {}

    def press() -> None:
        schedule.emergency()
        at["limp"] = arms.limp

    schedule = Harming(lambda: _in_a_thread(press))
    with pytest.raises(EmergencyStopError, match="the torque is off"):
        record(arms.config(dataset={"episode_time_s": 30}), schedule)
    assert at["limp"]
    assert arms.limp


def _in_a_thread(what: Callable[[], None]) -> None:
    thread = threading.Thread(target=what)
    thread.start()
    thread.join()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heeded, also where these tests are a job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals(arms: Arms, number: signal.Signals) -> None:
    config = arms.config(robot=arms.robot(cameras={}), dataset={"episode_time_s": 30})
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    expected = KeyboardInterrupt if number is signal.SIGINT else SystemExit
    with pytest.raises(expected):
        record(config, Harming(lambda: os.kill(os.getpid(), number)))
    assert arms.limp
    assert lengths(config.dataset.place) == [6]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_or_stands_still(arms: Arms, number: signal.Signals) -> None:
    """The watchdog lets go of the arm; a kill is noticed at once, whatever its patience is."""
    flags = [f"--robot.{k}={v}" for k, v in arms.robot(cameras={}).items()]
    flags += [f"--teleop.{k}={v}" for k, v in arms.teleop().items()]
    patience = "5000" if number is signal.SIGKILL else "1000"
    command = [sys.executable, "-m", "lerobot_ops.cli", "teleoperate", *flags, f"--safety.watchdog_ms={patience}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        until = time.monotonic() + 30
        while arms.limp:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(process.pid, number)
        try:
            wait_until_limp(arms)
        finally:
            process.kill()


def test_cameras_that_cannot_be_encoded_in_time_lose_no_frame_silently(arms: Arms) -> None:
    """The episode ends with what to do; it is not saved with a gap."""
    camera = {**CAMERA, "width": 640, "height": 480}
    slow = {"vcodec": "hevc", "preset": "placebo"}
    dataset = {"rgb_encoder": slow, "backlog_s": 0.05, "encoder_queue_maxsize": 1, "fps": 100, "episode_time_s": 30}
    config = arms.config(robot=arms.robot(cameras={"front": camera}), dataset=dataset)
    with pytest.raises(OpsError, match="cannot be encoded as fast as they come"):
        record(config)
    assert arms.limp
    assert not config.dataset.place.exists()


def test_a_dry_run_never_switches_the_torque_on(arms: Arms) -> None:
    torques: list[bool] = []

    class Looking(Schedule):
        def event(self) -> Event | None:
            torques.append(not arms.limp)
            return super().event()

    result = record(arms.config(dry_run=True, dataset={"num_episodes": 1}), Looking())
    assert result.frames == 15
    assert not any(torques)

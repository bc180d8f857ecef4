"""An operator at a real terminal: keys, the line that says what happens, and the terminal as it was afterwards."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.recording.operator import Status
from lerobot_ops.recording.terminal import status_line
from lerobot_ops.teleoperators.keyboard import HELD_S
from lerobot_ops.teleoperators.kinematics import Kinematics
from tests.recording.arms import Arms
from tests.recording.test_record import lengths, wait_until_limp

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Screen:
    """`lerobot-ops record` in a terminal of 100 columns."""

    def __init__(self, arms: Arms, teleop: dict[str, object] | None = None, **dataset: object) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.shown = ""
        config = arms.folder / "record.yaml"
        asked = {"dataset": {"episode_time_s": 60, **dataset}, **({"teleop": teleop} if teleop else {})}
        config.write_text(yaml.safe_dump(arms.values(**asked)))
        command = f"{sys.executable} -m lerobot_ops.cli record --config_path={config}; echo code=$?; sleep 60"
        self.process = subprocess.Popen(
            ["sh", "-c", command],  # a shell, which lives on, is what a terminal belongs to
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def wait_for(self, text: str) -> None:
        """Read until `text` appears behind what was seen before."""
        until = time.monotonic() + 60
        while text not in COLOURS.sub("", self.shown):
            assert time.monotonic() < until, self.shown
            if select.select([self.master], [], [], 0.1)[0]:
                self.shown += os.read(self.master, 65536).decode(errors="ignore")
        self.shown = ""

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ended(self) -> int:
        """The exit code."""
        until = time.monotonic() + 60
        while (found := re.search(r"code=(\d+)", self.shown)) is None:
            assert time.monotonic() < until, self.shown
            if select.select([self.master], [], [], 0.05)[0]:
                self.shown += os.read(self.master, 65536).decode(errors="ignore")
        return int(found[1])

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def screens(arms: Arms) -> Iterator[list[Screen]]:
    screens: list[Screen] = []
    yield screens
    for screen in screens:
        screen.close()


def test_keys_save_redo_and_stop(arms: Arms, screens: list[Screen]) -> None:
    screen = Screen(arms, reset_time_s=60)
    screens.append(screen)
    screen.wait_for("3 to record")
    screen.wait_for("RECORDING  1/3")
    screen.press("r")
    screen.wait_for("is not kept")
    screen.wait_for("RESET")
    screen.press("\x1b[C")
    screen.wait_for("RECORDING  1/3")
    screen.press("n")
    screen.wait_for("RESET  2/3")
    screen.press("n")
    screen.wait_for("RECORDING  2/3")
    screen.press("q")
    assert screen.ended() == 0
    assert "2 episodes" in screen.shown
    assert termios.tcgetattr(screen.slave) == screen.before
    assert len(lengths(arms.folder / "wave")) == 2


def test_space_stops_the_arm(arms: Arms, screens: list[Screen]) -> None:
    screen = Screen(arms)
    screens.append(screen)
    screen.wait_for("RECORDING")
    assert not arms.limp
    screen.press(" ")
    assert screen.ended() == 1
    assert arms.limp
    assert "emergency stop: the torque is off" in screen.shown
    assert termios.tcgetattr(screen.slave) == screen.before


def test_a_killed_session_gives_the_terminal_back(arms: Arms, screens: list[Screen]) -> None:
    screen = Screen(arms)
    screens.append(screen)
    screen.wait_for("RECORDING")
    assert not termios.tcgetattr(screen.slave)[3] & termios.ECHO
    children = f"/proc/{screen.process.pid}/task/{screen.process.pid}/children"
    os.kill(int(Path(children).read_text().split()[0]), signal.SIGKILL)
    wait_until_limp(arms)
    until = time.monotonic() + 20
    while not termios.tcgetattr(screen.slave)[3] & termios.ECHO:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_held_key_moves_the_gripper_ahead_in_a_straight_line(arms: Arms, screens: list[Screen]) -> None:
    urdf = Path(__file__).parents[1] / "data/arm.urdf"
    bent = {"shoulder_lift": -30.0, "elbow_flex": 40.0, "wrist_flex": 30.0}
    arms.follower.hand(lambda _: bent)
    screen = Screen(arms, {"type": "keyboard_ee", "end_effector": {"urdf_path": str(urdf)}}, num_episodes=1)
    screens.append(screen)
    screen.wait_for("RECORDING")
    began = time.monotonic()
    for _ in range(10):
        screen.press("w")
        time.sleep(0.05)
    held = time.monotonic() - began + HELD_S
    time.sleep(0.5)
    screen.press("n")
    assert screen.ended() == 0
    kinematics = Kinematics(urdf, "gripper_frame_link")
    actions = LeRobotDataset(arms.folder / "wave").column("action")
    places = np.array([kinematics.forward(row[:5])[:3, 3] for row in actions])
    assert 0.03 < places[-1, 0] - places[0, 0] < 0.1 * held + 0.01  # metres per second, and a tick
    assert (np.diff(places[:, 0]) > -1e-6).all()
    assert np.abs(places[:, 1:] - places[0, 1:]).max() < 1e-4


@pytest.mark.parametrize("columns", [20, 60, 100, 200])
def test_the_line_fits_the_terminal(columns: int) -> None:
    status = Status(
        phase="recording",
        seconds=12.34,
        limit_s=60,
        frame=370,
        rate=30.01,
        late_ms=7.5,
        overruns=1,
        skipped=0,
        ages_ms={"state": 3, "front": 21, "wrist": 140},
        episode=2,
        number=3,
        wanted=5,
        backlog=7,
        leader="policy",
        hottest=41,
        dry_run=True,
    )
    plain = COLOURS.sub("", status_line(status, columns))
    assert len(plain) < columns
    assert plain.startswith("RECORDING")
    if columns == 200:
        for text in ("3/5", "12.3/60 s", "30.0 Hz", "front 21 ms", "41 °C", "7 frames wait", "EMERGENCY"):
            assert text in plain

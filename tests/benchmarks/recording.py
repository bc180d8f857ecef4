"""A recording measured from the motors' side, ours and LeRobot's on the same ports.

`python -m tests.benchmarks.recording [MINUTES]` (0.5 by default). Simulated SO-101 leader and follower at 1 Mbaud are
in this process, the recorder is in one of its own. The moments at which goals reach the follower say how punctual a
loop is; our recorder's own report is beside. With two 640x480 cameras at 30 Hz first, both sides showing the same test
pattern, then without any. Then faults: how long after each of them no motor of the follower holds any more, with the
settings as they are by default. Prints JSON; `LEROBOT_PEER_PYTHON` names the Python that has LeRobot, `--faults`
measures these alone.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_ops.datasets.info import load_info
from lerobot_ops.motors.simulator import SimulatedArm
from lerobot_ops.motors.simulator.packets import SYNC_WRITE
from lerobot_ops.recording.provenance import Provenance
from tests.recording.arms import Arms, simulated_arms

FPS = 30
GOAL_POSITION = 42
CAMERAS = {name: {"type": "pattern", "width": 640, "height": 480, "fps": FPS, "seed": seed} for seed, name in
           enumerate(("front", "wrist"))}  # fmt: skip


class Goals:
    """When goals reached an arm, in seconds."""

    def __init__(self, arm: SimulatedArm) -> None:
        self.times: list[float] = []
        handle = arm._chain.handle

        def noted(request: Any, now: float, baudrate: int) -> Any:
            if request.instruction == SYNC_WRITE and request.parameters[0] == GOAL_POSITION:
                self.times.append(now)
            return handle(request, now, baudrate)

        arm._chain.handle = noted  # type: ignore[method-assign]

    def punctuality(self, frames: int) -> dict[str, float]:
        """Of the last so many goals: how far intervals are from the period, in ms."""
        between = np.diff(self.times[-frames:])
        away = 1000 * np.abs(between - 1 / FPS)
        return {
            "goals": len(self.times),
            "rate_hz": round(float(1 / between.mean()), 3),
            "off_ms_mean": round(float(away.mean()), 3),
            "off_ms_p99": round(float(np.quantile(away, 0.99)), 3),
            "off_ms_max": round(float(away.max()), 3),
        }


def flags(arms: Arms, root: Path, seconds: float, cameras: dict[str, Any]) -> list[str]:
    """What both recorders understand."""
    shown = {"robot.type": "so101_follower", "robot.port": arms.follower.port, "robot.id": "follower"}
    shown |= {"teleop.type": "so101_leader", "teleop.port": arms.leader.port, "teleop.id": "leader"}
    shown |= {"robot.calibration_dir": str(arms.folder), "teleop.calibration_dir": str(arms.folder)}
    shown |= {"dataset.repo_id": "bench/wave", "dataset.root": str(root), "dataset.single_task": "wave"}
    shown |= {"dataset.num_episodes": "1", "dataset.episode_time_s": str(seconds), "dataset.reset_time_s": "0"}
    shown |= {"dataset.fps": str(FPS), "dataset.push_to_hub": "false"}
    if cameras:
        shown["robot.cameras"] = json.dumps(cameras)
    return [f"--{name}={value}" for name, value in shown.items()]


def measured(arms: Arms, command: list[str], frames: int, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a recorder; how punctual its goals were, and the processor time that it took."""
    goals = Goals(arms.follower)
    log = arms.folder / "log.txt"
    with log.open("w") as output:
        own = {**os.environ, **(environment or {})}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=own)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return {"failed": log.read_text()[-600:]}
    return {**goals.punctuality(frames), "cpu_s": round(usage.ru_utime + usage.ru_stime, 2)}


def ours(seconds: float, cameras: dict[str, Any]) -> dict[str, Any]:
    """Our recorder."""
    with fresh() as arms:
        root = arms.folder / "wave"
        command = [sys.executable, "-m", "lerobot_ops.cli", "record", *flags(arms, root, seconds, cameras)]
        result = measured(arms, command, round(seconds * FPS))
        if "failed" in result:
            return result
        report = Provenance.load(root).episodes[0]
        timing = report.timing
        wanted = round(seconds * FPS)
        return {
            **result,
            "frames_missing": wanted - load_info(root).total_frames,
            "jitter_ms_p99": round(timing.jitter_ms_p99, 3),
            "jitter_ms_max": round(timing.jitter_ms_max, 3),
            "overruns_percent": round(100 * timing.overruns / timing.ticks, 3),
            "skipped": timing.skipped,
            "loop_cpu_percent": round(100 * timing.cpu, 1),
            "frames_waiting_at_most": report.backlog,
            "camera_repeats": report.repeated,
            "save_s": round(report.save_s, 3),
        }


def lerobot(seconds: float, cameras: dict[str, Any], python: Path) -> dict[str, Any]:
    """LeRobot's recorder, encoding while it records as ours does; it finds `peer_camera` as a package."""
    with fresh() as arms:
        root = arms.folder / "wave"
        plugin = "lerobot_camera_pattern"
        shutil.copy(Path(__file__).with_name("peer_camera.py"), arms.folder / f"{plugin}.py")
        about = arms.folder / f"{plugin}-1.dist-info" / "METADATA"
        about.parent.mkdir()
        about.write_text(f"Metadata-Version: 2.1\nName: {plugin}\nVersion: 1\n")
        command = [str(python.with_name("lerobot-record")), *flags(arms, root, seconds, cameras)]
        command += ["--play_sounds=false", "--dataset.streaming_encoding=true"]
        wanted = round(seconds * FPS)
        result = measured(arms, command, wanted, {"PYTHONPATH": str(arms.folder)})
        return result if "failed" in result else {**result, "frames_missing": wanted - load_info(root).total_frames}


def limp_after(harm: Callable[[Arms, subprocess.Popen[bytes]], None]) -> float | str:
    """Milliseconds from some harm, in the middle of a teleoperation, until no motor of the follower holds."""
    with fresh() as arms:
        kept = [flag for flag in flags(arms, arms.folder, 60, {}) if not flag.startswith("--dataset")]
        command = [sys.executable, "-m", "lerobot_ops.cli", "teleoperate", "--fps=30", *kept]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                _until(lambda: not arms.limp, 30)
                time.sleep(1.5)
                if arms.limp:
                    return "it was limp before"
                began = time.perf_counter()
                harm(arms, process)
                _until(lambda: arms.limp, 10)
                return round(1000 * (time.perf_counter() - began), 1)
            except TimeoutError:
                return "not within 10 s"
            finally:
                process.send_signal(signal.SIGCONT)
                process.kill()


def faults() -> dict[str, float | str]:
    """Every fault that can happen while USB is plugged in."""
    kinds = ("no_reply", "corrupt_checksum", "wrong_length", "late_reply", "overload", "overheat", "voltage_drop")
    found = {kind: limp_after(lambda arms, _, kind=kind: arms.follower.fault(kind)) for kind in kinds}
    found["leader unplugged"] = limp_after(lambda arms, _: arms.leader.unplug())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGSTOP):
        found[number.name] = limp_after(lambda _, process, number=number: process.send_signal(number))
    return found


@contextlib.contextmanager
def fresh() -> Iterator[Arms]:
    """Arms that nobody has used, with a line as slow as a real one; they answer at once, whatever else runs here."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with _before_others():  # the arms' threads begin here, and stay so
            arms = stack.enter_context(simulated_arms(Path(folder), timing=True, latency_s=0.001))
        yield arms


@contextlib.contextmanager
def _before_others() -> Iterator[None]:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))
    except OSError:  # only root may
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _until(what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.001)


def main() -> None:
    arguments = [each for each in sys.argv[1:] if each != "--faults"]
    seconds = 60 * float(arguments[0]) if arguments else 30.0
    report: dict[str, Any] = {}
    if "--faults" not in sys.argv:
        python = os.environ.get("LEROBOT_PEER_PYTHON")
        for what, cameras, long in (("two cameras", CAMERAS, seconds), ("no camera", {}, min(seconds, 60))):
            mine = report[f"ours, {what}"] = ours(long, cameras)
            print(json.dumps(report), file=sys.stderr)
            if python is None:
                continue
            peer = report[f"lerobot, {what}"] = lerobot(long, cameras, Path(python))
            if "failed" not in mine and "failed" not in peer:
                compared = ("off_ms_mean", "off_ms_p99", "off_ms_max", "cpu_s")
                report[f"lerobot / ours, {what}"] = {name: round(peer[name] / mine[name], 2) for name in compared}
            print(json.dumps(report), file=sys.stderr)
    report["limp after ms"] = faults()
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Evaluation of one ACT checkpoint on Meta-World against LeRobot's `lerobot-eval`, in one run.

`python tests/benchmarks/compare_evaluation.py --work=DIR --peer=PYTHON`: PYTHON is the interpreter of an environment
with LeRobot (`pip install 'lerobot[metaworld]==0.6.1'`, Python 3.12), by default $LEROBOT_PEER_PYTHON. Both sides play
the same tasks and seeds, cut after the same number of steps; the faster side goes on with further seeds, so that its
start does not decide. Seconds are those of the evaluation: without LeRobot's imports and the making of its policy, but
with our containers' start and the loading of the checkpoint. Memory is the largest sum over the command, its
descendants and its containers. `--only=TEXT` chooses cases, `--sandbox=venv` runs ours without containers, and
`--markdown=FILE` writes the tables.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TASKS = "button-press-topdown-v3,window-close-v3"
STEPS = 200
"""After which an episode is cut. What a step costs does not depend on it."""


@dataclass(frozen=True)
class Case:
    """One checkpoint on both sides, episodes of each task, and how many times LeRobot's rate is wanted."""

    what: str
    action_steps: int
    ours: int
    peer: int
    wanted: float | None
    film: bool = False


CASES = [
    Case("10 action steps", 10, 6, 1, 8),
    Case("100 action steps", 100, 24, 1, 30),
    Case("1 action step: every frame is rendered", 1, 1, 1, 1.3),
    Case("10 action steps, LeRobot with its videos", 10, 6, 1, None, film=True),
]
MOST_MEMORY = 0.5
RENDERED = 100
MOST_OVERHEAD = 0.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("LEROBOT_PEER_PYTHON"), help="without it only our figures")
    parser.add_argument("--work", type=Path, required=True, help="where the checkpoints are, or are made")
    parser.add_argument("--only", default="", help="cases whose name holds this; `overhead` is one too")
    parser.add_argument("--sandbox", default="docker", choices=["docker", "venv"])
    parser.add_argument("--markdown", type=Path, help="where to write the tables")
    options = parser.parse_args()
    checkpoints = options.work / "checkpoints"
    if not checkpoints.exists():
        call("make", [sys.executable, str(HERE / "ours_evaluation.py"), "make", str(checkpoints)])
    warm_up(options.sandbox)
    lines = []
    chosen = [case for case in CASES if options.only in case.what]
    if chosen:
        lines += [
            "| ACT 480x480 | episodes/h here | LeRobot 0.6.1 | ratio | wanted "
            "| peak memory here | LeRobot | ratio | wanted | shared episodes |",
            "|-|-|-|-|-|-|-|-|-|-|",
            *(row(case, checkpoints, options) for case in chosen),
        ]
    if options.only in "overhead":
        lines += ["", *overhead(options.sandbox)]
    table = "\n".join(lines) + "\n"
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


def row(case: Case, checkpoints: Path, options: argparse.Namespace) -> str:
    """A case on both sides, as a line of the table."""
    checkpoint = str(checkpoints / f"act_{case.action_steps}")
    with tempfile.TemporaryDirectory() as folder:
        label = uuid.uuid4().hex
        play = ["play", checkpoint, TASKS, case.ours, STEPS, f"{folder}/ours", options.sandbox, label]
        ours = call(f"ours, {case.what}", [sys.executable, str(HERE / "ours_evaluation.py"), *map(str, play)], label)
        cells = [case.what, f"{rate(ours):,.0f}"]
        if not options.peer:
            return f"| {' | '.join(cells)} | | | | {ours['peak_mb']:,.0f} MB | | | | |"
        lerobot = [checkpoint, TASKS, case.peer, STEPS, f"{folder}/peer", *(["--film"] if case.film else [])]
        command = [options.peer, str(HERE / "peer_evaluation.py"), *map(str, lerobot)]
        peer = call(f"LeRobot, {case.what}", command)
    cells += [f"{rate(peer):,.0f}", f"{rate(ours) / rate(peer):.3g}", f"≥ {case.wanted:g}" if case.wanted else ""]
    cells += [f"{ours['peak_mb']:,.0f} MB", f"{peer['peak_mb']:,.0f} MB"]
    cells += [f"{ours['peak_mb'] / peer['peak_mb']:.2f}", f"≤ {MOST_MEMORY:g}", agreement(ours, peer)]
    return f"| {' | '.join(cells)} |"


def rate(found: dict) -> float:
    """Episodes an hour."""
    return 3600 * sum(len(successes) for successes, _ in found["outcomes"].values()) / found["eval_s"]


def agreement(ours: dict, peer: dict) -> str:
    """What the episodes that both sides played say."""
    apart, count = 0.0, 0
    for task, (successes, rewards) in peer["outcomes"].items():
        our_successes, our_rewards = ours["outcomes"][task]
        if our_successes[: len(successes)] != successes:
            return f"other successes in {task}"
        pairs = list(zip(rewards, our_rewards, strict=False))
        count += len(pairs)
        apart = max([apart, *(abs(one - other) / max(1, abs(one)) for one, other in pairs)])
    return f"{count}: equal successes, rewards within {apart:.0e}"


def overhead(sandbox: str) -> list[str]:
    """What a sandbox and its protocol add to a step that is rendered."""
    found = call("overhead", [sys.executable, str(HERE / "ours_evaluation.py"), "render", str(RENDERED), sandbox])
    share = 1 - found["alone_s"] / found["inside_s"]
    return [
        "| a step and its frame | seconds |",
        "|-|-|",
        f"| in a process that does nothing else | {found['alone_s']:.4f} |",
        f"| in a sandbox ({sandbox}), until the host has the frame | {found['inside_s']:.4f} |",
        f"| share of sandbox and protocol, wanted ≤ {MOST_OVERHEAD:.0%} | {share:.1%} |",
    ]


def warm_up(sandbox: str) -> None:
    """Build what is built once."""
    from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox

    open_sandbox("metaworld", SandboxConfig(type=sandbox))


def call(what: str, command: list[str], label: str = "") -> dict:
    """Run a side; its figures and the peak of its memory."""
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl"}
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(command, stdout=said, stderr=complained, env=variables)
        with watched(process.pid, label) as peak:
            process.wait()
        said.seek(0), complained.seek(0)
        lines = [line for line in said if line.startswith("RESULT ")]
        if not lines:
            sys.exit(f"{' '.join(command)} failed:\n{complained.read()[-3000:]}")
    found = json.loads(lines[-1].removeprefix("RESULT ")) | {"peak_mb": peak[0] / 2**20}
    figures = {key: value for key, value in found.items() if key != "outcomes"}
    print(f"{what}: {figures}, the whole command {time.perf_counter() - begin:.1f} s", file=sys.stderr, flush=True)
    return found


@contextlib.contextmanager
def watched(pid: int, label: str) -> Iterator[list[int]]:
    """The largest memory, in bytes, of a process, its descendants, and the containers with `label`."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            peak[0] = max(peak[0], sum(map(memory, tree(pid) | contained(label))))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def tree(root: int) -> set[int]:
    """A process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, size = {root}, 0
    while len(found) > size:
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def contained(label: str) -> set[int]:
    """The processes, as this machine numbers them, of the containers with a label."""
    if not label:
        return set()
    import docker

    found: set[int] = set()
    with contextlib.suppress(docker.errors.DockerException), contextlib.closing(docker.from_env()) as client:
        for container in client.containers.list(filters={"label": f"benchmark={label}"}, ignore_removed=True):
            with contextlib.suppress(docker.errors.APIError):
                found |= {int(process[1]) for process in container.top()["Processes"] or ()}
    return found


def memory(pid: int) -> int:
    """Bytes of a process: pages that it shares with others count in part, or wholly where that may not be seen."""
    for file, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError):
            for line in Path("/proc", str(pid), file).read_text().splitlines():
                if line.startswith(field):
                    return 1024 * int(line.split()[1])
    return 0  # it has ended


if __name__ == "__main__":
    main()

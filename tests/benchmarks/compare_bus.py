"""Bus cycles against LeRobot's, in one run on one simulated arm with the timing of 1 Mbaud.

`python tests/benchmarks/compare_bus.py --peer=PYTHON`: PYTHON is the interpreter of an environment with LeRobot
(`pip install 'lerobot[feetech]==0.6.1'`, Python 3.12). The arm is a process of its own, the sides take turns, each time
in a new process; the table gives medians and the ratio. `--repeats=N` (3), `--seconds=S` (60) at 100 Hz, and
`--markdown=FILE` writes the table.
A third side, `bare`, writes the same bytes and reads as many as come back, without looking at them: what it takes and
misses is the pty's and the machine's doing.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


class Arm:
    """`lerobot-ops simulate-arm` for the block."""

    def __init__(self, folder: Path, latency_ms: float) -> None:
        command = [sys.executable, "-c", "from lerobot_ops.cli import main; main()", "simulate-arm"]
        command += [f"--directory={folder}", f"--latency_ms={latency_ms}"]
        self.port = str(folder / "so101")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)


def measured(arm: Arm, python: str, side: str, seconds: float, rate: str) -> dict[str, float]:
    command = [python, str(HERE / "bus_cycles.py"), side, arm.port, str(seconds), rate]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if rate == "lost":
        process.stdout.readline()
        arm.say("fault no_reply")
    output = process.communicate("\n", timeout=seconds + 120)[0]
    if rate == "lost":
        arm.say("clear")
    return json.loads(output.splitlines()[-1])


ROWS = [
    # what, run, figure, format, whether more is better
    ("cycles without pause", "0", "cycles_per_s", "{:.0f}/s", True),
    ("a cycle, median", "0", "p50_ms", "{:.2f} ms", False),
    ("a cycle, 99th percentile", "0", "p99_ms", "{:.2f} ms", False),
    ("answers to an earlier question taken for new ones", "0", "stale_percent", "{:.1f}%", None),
    ("CPU of the process without pause", "0", "cpu_percent", "{:.0f}%", False),
    ("at 100 Hz: a cycle, median", "100", "p50_ms", "{:.2f} ms", False),
    ("at 100 Hz: a cycle, 99th percentile", "100", "p99_ms", "{:.2f} ms", False),
    ("at 100 Hz: CPU of the process", "100", "cpu_percent", "{:.1f}%", False),
    ("at 100 Hz: cycles missed of 6,000", "100", "missed", "{:.0f}", None),
    ("at 100 Hz: answers to an earlier question", "100", "stale_percent", "{:.1f}%", None),
    ("at 100 Hz: answers lost", "100", "lost", "{:.0f}", None),
    ("a reading that nobody answers", "lost", "unanswered_ms", "{:.0f} ms", False),
    ("CPU while it waits for that", "lost", "unanswered_cpu_percent", "{:.0f}%", False),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="interpreter of an environment with LeRobot")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--latency_ms", type=float, default=0.0)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    sides = {"ours": sys.executable, "bare": sys.executable}
    if options.peer:
        sides["lerobot"] = options.peer
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        arm = Arm(Path(folder), options.latency_ms)
        try:
            for number in range(options.repeats):
                for rate in ("0", "100", "lost"):
                    for side, python in sides.items():
                        if (side, rate) == ("bare", "lost"):
                            continue
                        seconds = 5.0 if rate == "0" else options.seconds
                        found = measured(arm, python, side, seconds, rate)
                        runs.setdefault((side, rate), []).append(found)
                        print(number, side, rate, found, file=sys.stderr, flush=True)
        finally:
            arm.close()
    table = "\n".join(
        ["| what | here | LeRobot 0.6.1 | ratio | bare |", "|-|-|-|-|-|", *(row(runs, *each) for each in ROWS)]
    )
    print(table)
    if options.markdown:
        options.markdown.write_text(f"{table}\n")


def row(
    runs: dict[tuple[str, str], list[dict[str, float]]], what: str, rate: str, figure: str, form: str, more: bool | None
) -> str:
    medians = {
        side: statistics.median(each[figure] for each in found) for (side, of), found in runs.items() if of == rate
    }
    ours, peer, bare = (medians.get(side) for side in ("ours", "lerobot", "bare"))
    stale = [each["stale_percent"] for each in runs.get(("lerobot", rate), []) if "stale_percent" in each]
    if figure in ("p50_ms", "p99_ms") and stale and statistics.median(stale) > 1:
        more = None  # how soon an old answer is there says nothing
    ratio = "" if not ours or not peer or more is None else f"{ours / peer if more else peer / ours:.3g}"
    shown = ["" if value is None else form.format(value) for value in (ours, peer)]
    return f"| {what} | {' | '.join(shown)} | {ratio} | {'' if bare is None else form.format(bare)} |"


if __name__ == "__main__":
    main()

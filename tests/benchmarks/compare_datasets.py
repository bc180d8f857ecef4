"""Datasets against LeRobot, in one run on the same data.

`python tests/benchmarks/compare_datasets.py --peer=PYTHON --work=DIR`: PYTHON is the interpreter of an environment with
LeRobot (`pip install 'lerobot[dataset]==0.6.1'`, Python 3.12), which writes the data into DIR once. Every case runs
alternately on both sides, each time in a new process; the table gives medians and the ratio. `--only=TEXT` chooses
cases, `--repeats=N` (3) says how often, `--markdown=FILE` writes the table.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import scenes

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """What is compared: a case of both sides (or ours alone), one of its figures, and what it has to reach."""

    what: str
    ours: str
    peer: str | None
    figure: str
    target: float
    """With a peer the ratio that we want to be better by; without one the largest value allowed."""


CASES = [
    *(
        case
        for name, about in (("two_cameras", "two 256x256 cameras"), ("one_camera", "480x480 camera"))
        for case in (
            Case(f"delete 5 episodes, {about}", f"delete:{name}", f"delete:{name}", "s", 100),
            Case(f"split 80/20, {about}", f"split:{name}", f"split:{name}", "s", 100),
            Case(f"merge with itself, {about}", f"merge:{name}", f"merge:{name}", "s", 3),
            Case(f"merge with itself, {about}: memory", f"merge:{name}", None, "peak_mb", 300),
            Case(
                f"batches of 8, 2 threads (2 workers there), {about}",
                f"threads:{name}",
                f"loader:{name}",
                "frames_per_s",
                3,
            ),
            Case(f"batches: the first, {about}", f"threads:{name}", f"loader:{name}", "first_s", 5),
            Case(f"batches, decoded cache, {about}", f"threads cached:{name}", f"loader:{name}", "frames_per_s", 10),
            Case(
                f"batches by torch's DataLoader on both sides, {about}",
                f"loader:{name}",
                f"loader:{name}",
                "frames_per_s",
                1,
            ),
            Case(f"torch's DataLoader: the first batch, {about}", f"loader:{name}", f"loader:{name}", "first_s", 1),
        )
    ),
    Case("open 2,000 episodes, cold", "construct:table", "construct:table", "cold_s", 5),
    Case("open 2,000 episodes, warm", "construct:table", "construct:table", "warm_s", 5),
    Case("items without video", "plain items:table", "plain items:table", "items_per_s", 1),
    Case("items without video, 100 actions", "windows:table", "windows:table", "items_per_s", 50),
    Case("random frames, torchcodec there", "frames:one_camera", "frames torchcodec:one_camera", "items_per_s", 2.5),
    Case("random frames, PyAV there", "frames:one_camera", "frames pyav:one_camera", "items_per_s", 5),
    Case("images in parquet, 100 actions", "images:images", "images:images", "items_per_s", 50),
    Case("record 480x480 (streaming there)", "record:one_camera", "record:one_camera", "frames_per_s", 1),
    Case("record: the slowest add_frame", "record:one_camera", "record:one_camera", "slowest_add_s", 1),
    Case("save 60 s of two cameras", "save", None, "s", 1),
    Case("record in time: latest frame", "save", None, "latest_frame_s", 1),
    Case("an episode of 10 frames, the last of 10,000 (ms)", "append", None, "last_ms", 100),
    Case("import the reader and the editor", "import", None, "s", 1),
    Case("lerobot-ops edit --help", "help", None, "s", 0.5),
    Case("validate 100,000 rows", "validate", None, "s", 5),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the interpreter that has LeRobot; without it only our figures")
    parser.add_argument("--work", type=Path, required=True, help="where the data is, or is made")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    options = parser.parse_args()
    chosen = [case for case in CASES if options.only in case.what]
    if options.peer:
        make_data(options.peer, options.work)
    found: dict[str, list[dict]] = {}
    for _ in range(options.repeats):
        for side, name in dict.fromkeys(side for case in chosen for side in sides(case, options.peer)):
            found.setdefault(f"{side} {name}", []).append(run(side, name, options))
    table = markdown(chosen, found, bool(options.peer))
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


def sides(case: Case, peer: Path | None) -> list[tuple[str, str]]:
    return [("ours", case.ours)] + ([("peer", case.peer)] if case.peer and peer else [])


def make_data(peer: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for name in scenes.DATASETS:
        if not (work / name).exists():
            print(f"LeRobot writes {name} …", file=sys.stderr)
            made = work / ".making"
            shutil.rmtree(made, ignore_errors=True)
            call([str(peer), str(HERE / "peer_datasets.py"), f"make:{name}", str(made)])
            (made / name).rename(work / name)


def run(side: str, case: str, options: argparse.Namespace) -> dict:
    interpreter = options.peer if side == "peer" else sys.executable
    found = call([str(interpreter), str(HERE / f"{side}_datasets.py"), case, str(options.work)])
    print(f"{side} {case}: {found}", file=sys.stderr)
    return found


def call(arguments: list[str]) -> dict:
    """Run a case with a directory of its own for what it writes; its figures."""
    with tempfile.TemporaryDirectory() as out:
        home = {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": f"{out}/home", "HF_DATASETS_CACHE": f"{out}/cache"}
        done = subprocess.run([*arguments, out], capture_output=True, text=True, env=os.environ | home)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not lines:
            sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
        return json.loads(lines[-1].removeprefix("RESULT "))


def markdown(chosen: list[Case], found: dict[str, list[dict]], compared: bool) -> str:
    lines = ["| what | here | LeRobot 0.6.1 | ratio | wanted |", "|-|-|-|-|-|"]
    for case in chosen:
        ours = median(found[f"ours {case.ours}"], case.figure)
        if case.peer is None:
            lines.append(f"| {case.what} | {said(ours, case.figure)} | | | ≤ {said(case.target, case.figure)} |")
        elif compared:
            peer = median(found[f"peer {case.peer}"], case.figure)
            ratio = ours / peer if case.figure.endswith("per_s") else peer / ours
            cells = (case.what, said(ours, case.figure), said(peer, case.figure), f"{ratio:.3g}", f"≥ {case.target:g}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def median(figures: list[dict], name: str) -> float:
    return statistics.median(figure[name] for figure in figures)


def said(value: float, figure: str) -> str:
    if figure.endswith("per_s"):
        return f"{value:,.0f}/s"
    unit = {"_mb": " MB", "_ms": " ms"}.get(figure[-3:], " s")
    return f"{value:.3g}{unit}" if unit != " MB" else f"{value:.0f}{unit}"


if __name__ == "__main__":
    main()

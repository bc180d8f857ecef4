"""Training against LeRobot's `lerobot-train`, in one run on the same data, weights, batches and threads.

`python tests/benchmarks/compare_training.py --work=DIR --peer=PYTHON`: PYTHON is the interpreter of an environment with
LeRobot (`pip install 'lerobot[dataset,training,diffusion]==0.6.1'`, Python 3.12), by default $LEROBOT_PEER_PYTHON. Data
and first weights are made into DIR once, by us, in LeRobot's formats. Both commands run in turns, with their defaults
but for ImageNet's weights and the small ACT's size, and nothing is tracked on either side. What every column is:

- steps/s: one over the median time between two steps, without the first ones;
- first step: seconds from the command's start to the end of its first step, and until it begins;
- peak memory: of the whole process tree; pages that processes share count in part, so workers are not charged twice;
- losses: a run on both sides in which random numbers are drawn from the step's number and nothing is dropped out, since
  dropout draws in another order: the largest relative difference over its first steps, and over all of them, as
  rounding that differs grows with every step.

Whatever was measured is kept in DIR/results, and a run that was interrupted goes on; `--fresh` measures again.
`--only=TEXT` chooses cases, `--quick` runs each once and shorter, `--device=cuda` adds the GPU's memory and
utilisation, `--markdown=FILE` writes the table. Where other programs compute, too, take `--threads=1` and compare CPU
seconds: threads that wait for one another count as busy.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import scenes
from compare_evaluation import tree

HERE = Path(__file__).parent
BATCH = 8
WARM_UP = 2
"""Steps that steps/s leaves out."""
SMALL = {"dim_model": 64, "n_heads": 4, "dim_feedforward": 256, "n_encoder_layers": 1, "use_vae": "false"}


@dataclass(frozen=True)
class Case:
    """What is trained on what, for how many steps, and what it has to reach."""

    what: str
    kind: str
    data: str
    steps: int
    faster: float | None
    policy: dict[str, object] = field(default_factory=dict)
    cached: bool = False
    """Ours reads decoded frames; the peer's figures are those of the same case without."""
    random: str | None = None
    """The option without which random numbers are drawn in the same order on both sides."""

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.data}"

    def options(self, dropout: bool) -> list[str]:
        chosen = {"type": self.kind, "pretrained_backbone_weights": "null", **self.policy}
        if self.random and not dropout:
            chosen[self.random] = 0
        return [f"--policy.{name}={value}" for name, value in chosen.items()]


CASES = [
    Case("ACT, 480x480", "act", "one_camera", 8, 1.2, random="dropout"),
    Case("Diffusion, 480x480", "diffusion", "one_camera", 6, 1.2),
    Case("small ACT, 96x96 images", "act", "small_images", 60, 2, SMALL, random="dropout"),
    Case("small ACT, 96x96 images, decoded cache", "act", "small_images", 60, 4, SMALL, cached=True, random="dropout"),
    Case("small ACT, 96x96 video", "act", "small_camera", 60, None, SMALL, random="dropout"),
]
SOONER = 4
MOST_MEMORY = 1.0
EQUAL_STEPS, MOST_APART = 10, 1e-5
"""The first steps, and how far their losses may be apart, relative to them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("LEROBOT_PEER_PYTHON"), help="without it only our figures")
    parser.add_argument("--work", type=Path, required=True, help="where data, weights and results are, or are made")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of a computation, and those (there processes) for data")
    parser.add_argument("--quick", action="store_true", help="one round of half the steps")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.rounds = 1 if options.quick else options.rounds
    if options.fresh:
        shutil.rmtree(options.work / "results", ignore_errors=True)
    said(f"load of this machine before: {os.getloadavg()[0]:.1f}")
    lines = [*header(options.device), *(row(case, options) for case in CASES if options.only in case.what)]
    table = "\n".join(lines) + "\n"
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


def header(device: str) -> list[str]:
    columns = ["", "steps/s here", "LeRobot 0.6.1", "ratio", "wanted"]
    columns += ["first step here", "LeRobot", "ratio", "wanted", "begins here", "LeRobot", "ratio", "wanted"]
    columns += ["peak memory here", "LeRobot", "ratio", "wanted", "losses", "CPU s a step here", "LeRobot"]
    columns += [] if device == "cpu" else ["GPU memory here", "LeRobot", "GPU busy here", "LeRobot"]
    return [f"| {' | '.join(columns)} |", "|" + "-|" * len(columns)]


def row(case: Case, options: argparse.Namespace) -> str:
    """A case on both sides, as a line of the table."""
    make_data(case.data, options.work / "data")
    sides = ["ours", "peer"] if options.peer else ["ours"]
    agreed = agreement(case, options)  # first, so that the bytecode of both sides has been written
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side in sides:
            runs[side].append(measured(case, side, f"round_{number}", options, dropout=True))
    ours, peer = figures(runs["ours"]), figures(runs.get("peer", []))
    cells = [case.what, *compared(ours, peer, "steps_per_s", "{:.3g}", case.faster)]
    cells += compared(ours, peer, "first_s", "{:.1f} s", SOONER, smaller=True)
    cells += compared(ours, peer, "begun_s", "{:.1f} s", SOONER, smaller=True)
    cells += compared(ours, peer, "peak_mb", "{:,.0f} MB", MOST_MEMORY)
    cells += [agreed, f"{ours['cpu_s']:.3g}", f"{peer['cpu_s']:.3g}" if peer else ""]
    if options.device != "cpu":
        for name, shown in (("gpu_mb", "{:,.0f} MB"), ("gpu_busy", "{:.0f}%")):
            cells += [shown.format(ours[name]), shown.format(peer[name]) if peer else ""]
    return f"| {' | '.join(cells)} |"


def compared(
    ours: dict, peer: dict, name: str, shown: str, wanted: float | None, *, smaller: bool = False
) -> list[str]:
    """Our figure, the peer's, their ratio, and what is wanted with a mark of whether it is reached."""
    cells = [shown.format(ours[name]), shown.format(peer[name]) if peer else ""]
    ratio = (peer[name] / ours[name] if smaller else ours[name] / peer[name]) if peer else float("nan")
    cells.append(f"{ratio:.2f}" if peer else "")
    if wanted is None:
        return [*cells, ""]
    most = name == "peak_mb"
    reached = ratio <= wanted if most else ratio >= wanted
    verdict = "" if not peer else " yes" if reached else " NO"
    return [*cells, f"{'≤' if most else '≥'} {wanted:g}{verdict}"]


def figures(runs: list[dict]) -> dict[str, float]:
    """The medians over the runs of one side; none without any."""
    return {
        name: statistics.median(run[name] for run in runs) for name in (runs[0] if runs else ()) if name != "losses"
    }


def agreement(case: Case, options: argparse.Namespace) -> str:
    """How far apart the losses of both sides are when they draw the same random numbers."""
    if not options.peer:
        return ""
    ours, peer = (measured(case, side, "equal", options, dropout=False)["losses"] for side in ("ours", "peer"))
    apart = [abs(one - other) / max(1e-9, abs(other)) for one, other in zip(ours, peer, strict=True)]
    first = apart[:EQUAL_STEPS]
    verdict = "yes" if max(first) <= MOST_APART else "NO"
    later = f", {len(apart)} within {max(apart):.0e}" if len(apart) > len(first) else ""
    return f"{len(first)} within {max(first):.0e} {verdict}{later}"


def measured(case: Case, side: str, turn: str, options: argparse.Namespace, *, dropout: bool) -> dict:
    """The figures of a run of one side, from its file if it was run before."""
    label = "cached" if case.cached and side == "ours" else side
    how = f"{options.device}_{options.threads}{'_quick' * options.quick}"
    kept = options.work / "results" / f"{case.name}_{how}_{label}_{turn}.json"
    if not kept.exists():
        weights = make_weights(case, options.work / "weights", dropout)
        found = call(case, side, weights, options, dropout)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
        said(f"{label}, {case.what}, {turn}: " + ", ".join(f"{n} {v:.4g}" for n, v in found.items() if n != "losses"))
    return json.loads(kept.read_text())


def call(case: Case, side: str, weights: Path, options: argparse.Namespace, dropout: bool) -> dict:
    """Run a side's command and give its figures."""
    steps = max(4, case.steps // 2) if options.quick else case.steps
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        flags = [
            f"--dataset.root={options.work / 'data' / case.data}",
            f"--policy.device={options.device}",
            f"--output_dir={folder}/out",
            f"--batch_size={BATCH}",
            f"--steps={steps}",
            f"--save_freq={steps}",
            f"--num_workers={options.threads}",
        ]
        interpreter = options.peer if side == "peer" else sys.executable
        if side == "peer":
            flags += ["--dataset.repo_id=peer/data", f"--policy.path={weights}", "--policy.push_to_hub=false"]
            flags += ["--env_eval_freq=0", "--wandb.enable=false"]
        else:
            flags += [*case.options(dropout), f"--policy.pretrained_path={weights}", "--tracking.enable=false"]
        if case.cached and side == "ours":
            flags.append(f"--dataset.frame_cache={options.work / 'frames'}")
        watched_file = Path(folder, "steps.json")
        seeded = [] if dropout else ["--seeded"]
        command = [str(interpreter), str(HERE / f"{side}_training.py"), str(watched_file), *seeded, *flags]
        home = {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": f"{folder}/home", "HF_DATASETS_CACHE": f"{folder}/cache"}
        variables = os.environ | home | {"OMP_NUM_THREADS": str(options.threads), "TMPDIR": folder}
        variables |= {"PYTHONPYCACHEPREFIX": str(options.work / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        begin = time.time()
        with open(f"{folder}/said", "w+") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=variables, cwd=folder)
            with watched(process.pid, options.device != "cpu") as seen:
                process.wait()
            if process.returncode or not watched_file.exists():
                output.seek(0)
                sys.exit(f"{' '.join(command)} failed:\n{output.read()[-3000:]}")
        found = json.loads(watched_file.read_text())
    between = [after - before for before, after in zip(found["ends"], found["ends"][1:], strict=False)]
    burnt = (found["cpu"][-1] - found["cpu"][WARM_UP - 1]) / (len(found["cpu"]) - WARM_UP)
    return {
        "steps_per_s": 1 / statistics.median(between[WARM_UP - 1 :]),
        "first_s": found["ends"][0] - begin,
        "begun_s": found["begun"] - begin,
        "cpu_s": burnt,
        **seen,
        "losses": found["losses"],
    }


@contextlib.contextmanager
def watched(pid: int, gpu: bool) -> Iterator[dict[str, float]]:
    """The most memory that a process and its descendants had, in megabytes, and what the GPU was doing meanwhile."""
    seen: dict[str, float] = {"peak_mb": 0.0}
    busy, over = [], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            seen["peak_mb"] = max(seen["peak_mb"], sum(map(memory, tree(pid))) / 2**10)
            if gpu:
                query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
                used, held = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[0].split(",")
                busy.append(float(used))
                seen["gpu_mb"] = max(seen.get("gpu_mb", 0.0), float(held))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        if gpu:
            # from the first kernel on
            working = busy[next((place for place, share in enumerate(busy) if share), 0) :]
            seen["gpu_busy"] = statistics.mean(working) if working else 0.0


def memory(pid: int) -> int:
    """The most kilobytes that a process has had; pages that it shares with others now count in part."""
    found: dict[str, int] = {}
    for file in ("smaps_rollup", "status"):
        with contextlib.suppress(OSError):
            for line in Path("/proc", str(pid), file).read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("Pss", "VmHWM", "VmRSS"):
                    found[name] = int(value.split()[0])
    resident = found.get("VmRSS", 0)
    return found.get("Pss", resident) + found.get("VmHWM", resident) - resident


def make_data(name: str, folder: Path) -> None:
    """A dataset with an AV1 camera, or images, written by us."""
    if (folder / name).exists():
        return
    from lerobot_ops.datasets.writing.writer import DatasetWriter

    said(f"writing {name} …")
    made = folder / f".{name}"
    shutil.rmtree(made, ignore_errors=True)
    with DatasetWriter.create(made, fps=scenes.DATASETS[name]["fps"], features=scenes.features(name)) as writer:
        for episode in range(scenes.DATASETS[name]["episodes"]):
            for frame in scenes.frames(name, episode):
                writer.add_frame(frame)
            writer.save_episode()
    made.rename(folder / name)


def make_weights(case: Case, folder: Path, dropout: bool) -> Path:
    """A checkpoint from which both sides begin: random weights after one step."""
    target = folder / f"{case.name}{'' if dropout else '_equal'}"
    if not target.exists():
        said(f"making the weights of {target.name} …")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as run:
            flags = [*case.options(dropout), f"--dataset.root={folder.parent / 'data' / case.data}"]
            flags += [f"--output_dir={run}/run", "--policy.device=cpu", "--steps=1", "--tracking.enable=false"]
            subprocess.run([str(Path(sys.executable).with_name("lerobot-ops")), "train", *flags], check=True)
            (Path(run) / "run/pretrained_model").rename(target)
    return target


def said(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

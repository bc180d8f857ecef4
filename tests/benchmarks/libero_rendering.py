"""Episodes per hour of LIBERO's first spatial task at 256x256, by OpenGL library and number of workers.

`python tests/benchmarks/libero_rendering.py [--episodes=10] [--sandbox=docker] [--markdown=FILE]`: the policy sends
zeros, so that every episode lasts 280 steps. Both cameras are rendered after every step, as LeRobot does; or only when
a policy that sends ten actions at a time asks again; or not at all, as an evaluation of `--policy.path=zero` does. The
first episode of a worker, in which the scene is loaded, is played before the clock starts.
"""

import argparse
import threading
import time
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np

from lerobot_ops import envs
from lerobot_ops.evaluation.sandbox import SandboxConfig, Worker, open_sandbox

TASK = envs.tasks("libero", "libero_spatial")[0]
STEPS = envs.benchmark("libero").limits[TASK]
CAMERAS = ["observation.images.image", "observation.images.image2"]
SIZE = {"observation_height": 256, "observation_width": 256}
MODES = {"after every step": 1, "every 10 steps": 10, "never": 0}


def play(worker: Worker, number: int, steps: int, every: int) -> None:
    """One episode of zeros whose cameras are seen every so many steps; 0: never."""
    cameras = CAMERAS if every else []
    worker.request({"op": "reset", "task": TASK, "seed": 1000 + number, "number": number, "observe": cameras})
    chunk = every or 10
    for _ in range(0, steps, chunk):
        worker.request({"op": "step", "actions": np.zeros((chunk, 7), np.float32), "observe": cameras})


def episodes_per_hour(
    sandbox_type: Literal["docker", "venv"], gl: Literal["egl", "osmesa"], workers: int, every: int, episodes: int
) -> float:
    """Play the episodes on so many workers, a free worker beginning the next."""
    sandbox = open_sandbox("libero", SandboxConfig(type=sandbox_type, gl=gl))
    hello = {"cameras": CAMERAS if every else [], "options": SIZE}
    spawned = [sandbox.spawn(hello) for _ in range(workers)]
    numbers, ready = count(), threading.Barrier(workers + 1)

    def run(worker: Worker) -> None:
        play(worker, 0, 2 * (every or 10), every)
        ready.wait()
        while (number := next(numbers)) < episodes:
            play(worker, number, STEPS, every)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in spawned]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    for worker in spawned:
        worker.close()
    return episodes * 3600 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--sandbox", choices=["docker", "venv"], default="docker")
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    lines = [
        f"| OpenGL, workers | {' | '.join(f'both cameras {mode}' for mode in MODES)} |",
        "|-|" + "-|" * len(MODES),
    ]
    print("\n".join(lines), flush=True)
    for gl in ("egl", "osmesa"):
        for workers in (1, 2):
            rates = [
                episodes_per_hour(arguments.sandbox, gl, workers, every, arguments.episodes) for every in MODES.values()
            ]
            lines.append(f"| {gl}, {workers} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |")
            print(lines[-1], flush=True)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

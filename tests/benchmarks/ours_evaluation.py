"""Our side of the evaluation benchmarks.

`ours_evaluation.py make FOLDER` writes the checkpoints: ACT as LeRobot sizes it, with random weights, once for each
number of action steps. `ours_evaluation.py play CHECKPOINT TASKS EPISODES STEPS OUT SANDBOX LABEL` evaluates one of
them. `ours_evaluation.py render STEPS SANDBOX` renders every step of an episode in a sandbox and beside it. Each prints
one line of figures.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_ops.large_pages import ASKING, ask_for_large_pages

ACTION_STEPS = (1, 10, 100)
TASK, SEED, IMAGE = "button-press-topdown-v3", 1000, "observation.image"


def make(folder: str) -> dict[str, Any]:
    import torch

    from lerobot_ops.policies.act.config import ACTConfig
    from lerobot_ops.policies.checkpoint import save_checkpoint
    from lerobot_ops.policies.policy import make_processors
    from lerobot_ops.policies.registry import make_policy

    torch.manual_seed(0)
    stats = {
        "observation.image": moments((3, 1, 1), 0.5, 0.25),
        "observation.state": moments((4,), 0.3, 0.3),
        "action": moments((4,), 0.0, 0.5),
    }
    for count in ACTION_STEPS:
        config = ACTConfig(
            input_features={
                "observation.image": {"type": "VISUAL", "shape": [3, 480, 480]},
                "observation.state": {"type": "STATE", "shape": [4]},
            },
            output_features={"action": {"type": "ACTION", "shape": [4]}},
            n_action_steps=count,
            pretrained_backbone_weights=None,
        )
        processors = make_processors(config, stats, "cpu")
        save_checkpoint(Path(folder, f"act_{count}"), make_policy(config), *processors)
    return {}


def moments(shape: tuple[int, ...], mean: float, std: float) -> dict[str, np.ndarray]:
    return {"mean": np.full(shape, mean, np.float32), "std": np.full(shape, std, np.float32)}


def play(checkpoint: str, tasks: str, episodes: str, steps: str, out: str, sandbox: str, label: str) -> dict[str, Any]:
    from lerobot_ops.evaluation.config import EvalConfig
    from lerobot_ops.evaluation.evaluate import evaluate
    from lerobot_ops.flags import build

    values = {
        "policy": {"path": checkpoint},
        "env": {"type": "metaworld", "task": tasks, "episode_length": int(steps)},
        "eval": {"n_episodes": int(episodes)},
        "seed": SEED,
        "clips": {"enable": False},
        "sandbox": {"type": sandbox, "labels": {"benchmark": label}},
        "output_dir": out,
    }
    begin = time.perf_counter()
    result = evaluate(build(EvalConfig, values, source="the benchmark"))
    seconds = time.perf_counter() - begin
    outcomes: dict[str, list[list[Any]]] = {}
    for record in result.records:
        successes, rewards = outcomes.setdefault(record.task, [[], []])
        successes.append(record.success)
        rewards.append(record.sum_reward)
    return {"eval_s": seconds, "outcomes": outcomes}


def render(steps: str, sandbox: str) -> dict[str, Any]:
    """Seconds of a step and its frame: in a sandbox, as the host waits for it, and in a process that does nothing else.

    They take turns, step by step, so that other work of the machine meets both.
    """
    from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox

    guest = open_sandbox("metaworld", SandboxConfig(type="venv"))._python
    command = [str(guest), __file__, "loop"]
    one_core = {"PYTHONPATH": str(Path(__file__).parents[2]), "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", **ASKING}
    inside, alone = [], []
    with (
        open_sandbox("metaworld", SandboxConfig(type=sandbox)).spawn({"cameras": [IMAGE]}) as worker,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | one_core
        ) as process,
    ):
        worker.request({"op": "reset", "task": TASK, "seed": SEED, "observe": [IMAGE]})
        for action in np.random.default_rng(0).uniform(-1, 1, (int(steps), 4)).astype(np.float32):
            begin = time.perf_counter()
            worker.request({"op": "step", "actions": action[None], "observe": [IMAGE]})
            inside.append(time.perf_counter() - begin)
            print(json.dumps(action.tolist()), file=process.stdin, flush=True)
            alone.append(float(process.stdout.readline()))
        process.stdin.close()
    return {"inside_s": statistics.median(inside), "alone_s": statistics.median(alone)}


def loop() -> None:
    """Play the actions that come on stdin, and say how long each step took with its frame."""
    from lerobot_ops.envs import benchmark, make_env

    benchmark("metaworld").prepare_rendering(True)
    env = make_env("metaworld")
    env.reset(TASK, SEED)
    env.observe([IMAGE])
    for line in sys.stdin:
        action = np.array(json.loads(line), np.float32)
        begin = time.perf_counter()
        env.step(action)
        env.observe([IMAGE])
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    ask_for_large_pages()  # as the command does
    found = {"make": make, "play": play, "render": render, "loop": loop}[sys.argv[1]](*sys.argv[2:])
    print("RESULT " + json.dumps(found), flush=True)
    os._exit(0)

"""Meta-World's scripted experts on all fifty tasks, in the sandbox: is the benchmark all right, how far can one get?

`python tests/benchmarks/experts.py --work=DIR` prints a Markdown table of the success of each task, with its 95% Wilson
interval. Nothing is rendered. `--episodes=N` (20) of each task, `--sandbox=venv` without containers. With `--alone`
the episodes are also played by a loop over Meta-World's own environments and experts, without a line of ours: a task
whose experts fail there with the same seeds fails of itself.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.metrics import Score, score_of
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox
from lerobot_ops.flags import build

SEED = 1000
GOOD = 90.0
ENOUGH = 45

ALONE = """
import json, os, sys, warnings
os.environ["MUJOCO_GL"] = "disable"
warnings.filterwarnings("ignore")
import metaworld
from metaworld.policies import ENV_POLICY_MAP
seed, episodes, tasks = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
solved = {}
for task in tasks:
    benchmark = metaworld.MT1(task, seed=42)
    env = benchmark.train_classes[task]()
    env.set_task(benchmark.train_tasks[0])
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    solved[task] = []
    for number in range(episodes):
        env.seed(seed + number)
        observation, _ = env.reset()
        expert, success, over = ENV_POLICY_MAP[task](), False, False
        while not (success or over):
            action = expert.get_action(observation).clip(-1, 1)
            observation, _, _, over, info = env.step(action)
            success = bool(info["success"])
        solved[task].append(success)
print(json.dumps(solved))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where the records go")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--sandbox", default="docker", choices=["docker", "venv"])
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    values = {
        "policy": {"path": "expert"},
        "env": {"type": "metaworld", "task": "easy,medium,hard,very_hard"},
        "eval": {"n_episodes": options.episodes},
        "seed": SEED,
        "clips": {"enable": False},
        "sandbox": {"type": options.sandbox},
        "output_dir": options.work / f"experts-{options.sandbox}-{options.episodes}",
    }
    config = build(EvalConfig, values, source="the benchmark")
    records = evaluate(config).records
    scores = {task: score_of(records, [task]) for task in config.env.tasks()}
    print("| group | task | solved | 95% interval | steps, on average |\n|-|-|-|-|-|")
    for group, tasks in config.env.groups().items():
        for task in tasks:
            print(line(group, task, scores[task]))
    everything = score_of(records, scores)
    good = sum((score.pc_success or 0) >= GOOD for score in scores.values())
    print(f"\n{everything.summary()}. {good} of {len(scores)} tasks at {GOOD:g}% or more (wanted: {ENOUGH}).")
    if options.alone:
        compare(records, options.episodes, list(scores))


def line(group: str, task: str, score: Score) -> str:
    interval = f"{score.ci_low:.0f} to {score.ci_high:.0f}%"
    solved = f"{score.n_successes} of {score.n_episodes}"
    return f"| {group} | `{task}` | {solved} | {interval} | {score.avg_steps:.0f} |"


def compare(records: list, episodes: int, tasks: list[str]) -> None:
    """Say where Meta-World's own loop has other outcomes for the same seeds."""
    python = open_sandbox("metaworld", SandboxConfig(type="venv"))._python
    command = [str(python), "-c", ALONE, str(SEED), str(episodes), *tasks]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    other = {}
    for task, solved in found.items():
        ours = [record.success for record in records if record.task == task]
        if ours != solved:
            other[task] = f"{sum(ours)} here, {sum(solved)} there"
    print(f"\nMeta-World's own loop, the same seeds: {other or 'the same outcome in every episode'}.")


if __name__ == "__main__":
    sys.exit(main())

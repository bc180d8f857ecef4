"""LeRobot's side of the evaluation benchmarks; run by the interpreter that has it.

`peer_evaluation.py CHECKPOINT TASKS EPISODES STEPS OUT [--film]` runs `lerobot-eval` on Meta-World tasks with EPISODES
of each, cut after STEPS, and prints one line of figures. Nothing else of LeRobot is changed, but that without `--film`
it makes no videos, for which it has no flag.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])

import lerobot.envs.metaworld as metaworld
import lerobot.scripts.lerobot_eval as lerobot_eval


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("tasks")
    parser.add_argument("episodes", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--film", action="store_true")
    options = parser.parse_args()
    cut_after(options.steps)
    options.out.mkdir(parents=True, exist_ok=True)  # LeRobot makes it for its videos only
    if not options.film:
        make_no_videos()
    sys.argv = [
        "lerobot-eval",
        f"--policy.path={options.checkpoint}",
        "--policy.device=cpu",
        "--env.type=metaworld",
        f"--env.task={options.tasks}",
        f"--eval.n_episodes={options.episodes}",
        "--seed=1000",
        f"--output_dir={options.out}",
    ]
    lerobot_eval.main()
    found = json.loads((options.out / "eval_info.json").read_text())
    outcomes = {
        task["task_group"]: [task["metrics"]["successes"], task["metrics"]["sum_rewards"]] for task in found["per_task"]
    }
    print("RESULT " + json.dumps({"eval_s": found["overall"]["eval_s"], "outcomes": outcomes}), flush=True)


def cut_after(steps: int) -> None:
    """End episodes early; LeRobot's own `env.episode_length` does nothing here."""

    class Cut(metaworld.MetaworldEnv):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            self._max_episode_steps = steps

    metaworld.MetaworldEnv = Cut


def make_no_videos() -> None:
    evaluate = lerobot_eval.eval_policy_all

    def without_videos(**options):
        return evaluate(**{**options, "max_episodes_rendered": 0, "videos_dir": None})

    lerobot_eval.eval_policy_all = without_videos


if __name__ == "__main__":
    main()

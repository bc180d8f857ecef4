"""What LeRobot 0.6.1 shows of Meta-World; run by the interpreter that has it: `record_lerobot_metaworld.py OUT`.

It plays through LeRobot's own `make_env` and keeps, as `metaworld_lerobot` in tests/data has it:
`states.npz`: `TASK|SEED|actions` (n, 4) float32, `|rewards` (n,), `|ends` (n, 2: terminated, truncated), and, first and
after every action, `|agent_pos` (n + 1, 4) that LeRobot shows and `|state` (n + 1, 39) that Meta-World gave it;
`|small` (2, 24, 24, 3): the first and the last picture, made small.
`sees.json`: keys, dtypes and shapes of what the policy gets. `TASK_SEED_STEP.png`: some of the pictures.
"""

import json
import os
import sys
import warnings
import zlib
from pathlib import Path

os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = "egl"

import numpy as np
import torch
from lerobot.envs import make_env, preprocess_observation
from lerobot.envs.configs import MetaworldEnv
from lerobot.envs.metaworld import TASK_DESCRIPTIONS
from PIL import Image

SHAKEN = 12
"""Random actions for each of the fifty tasks."""
SOLVED = {
    "button-press-topdown-v3": (1000, 1001),
    "drawer-open-v3": (1000, 1001),
    "reach-v3": (1000, 1001),
    "window-close-v3": (1000, 1001),
}
"""Episodes that the scripted expert plays to their end, by task."""
FRAMES = {
    ("button-press-topdown-v3", 1000): (30,),
    ("drawer-open-v3", 1000): (0, 1),
    ("reach-v3", 1001): (20,),
    ("window-close-v3", 1000): (0,),
}
"""Steps whose picture is kept."""
IDLE = ("button-press-topdown-v3", 7)
"""The task and seed of an episode that nobody solves."""

warnings.filterwarnings("ignore")


class Recorder:
    """One task in LeRobot's vector environment; listens to what the simulator tells LeRobot's wrapper."""

    def __init__(self, task: str, out: Path) -> None:
        self.task, self.out = task, out
        self.env = make_env(MetaworldEnv(task=task), n_envs=1, use_async_envs=False)[task][0]
        self.single = self.env.envs[0].unwrapped
        self.heard: list[np.ndarray] = []
        shown = self.single._format_raw_obs

        def listen(raw: np.ndarray) -> dict:
            self.heard.append(raw.copy())
            return shown(raw)

        self.single._format_raw_obs = listen

    def episode(self, seed: int, actions, most: int) -> dict[str, np.ndarray]:
        """`actions(state, step)` decides until the episode ends or `most` steps are over."""
        self.heard.clear()
        observation, _ = self.env.reset(seed=[seed])
        rows: dict[str, list] = {"agent_pos": [], "small": [], "actions": [], "rewards": [], "ends": []}
        step, over = 0, False
        while True:
            self._keep(observation, seed, step)
            rows["agent_pos"].append(observation["agent_pos"][0].copy())
            rows["small"].append(small(observation["pixels"][0]))
            if over or step == most:
                break
            action = np.asarray(actions(self.heard[step], step), np.float32)
            observation, reward, terminated, truncated, _ = self.env.step(action[None])
            rows["actions"].append(action)
            rows["rewards"].append(reward[0])
            rows["ends"].append([terminated[0], truncated[0]])
            step, over = step + 1, bool(terminated[0] or truncated[0])
        rows["small"] = rows["small"][:: len(rows["small"]) - 1]  # the first and the last one
        rows["state"] = self.heard[: step + 1]  # a solved episode is followed by a reset of LeRobot's own
        return {f"{self.task}|{seed}|{name}": np.array(values) for name, values in rows.items()}

    def sees(self) -> dict:
        """Keys, dtypes and shapes of LeRobot's observation of this task, as its policies get it."""
        observation, _ = self.env.reset(seed=[0])
        tensors = preprocess_observation(observation)
        picture = torch.from_numpy(observation["pixels"]).permute(0, 3, 1, 2).float() / 255
        assert torch.equal(tensors["observation.image"], picture)
        found = {key: [str(value.dtype).removeprefix("torch."), list(value.shape)] for key, value in tensors.items()}
        return found | {"task": list(self.env.call("task_description"))}

    def _keep(self, observation: dict, seed: int, step: int) -> None:
        if step in FRAMES.get((self.task, seed), ()):
            picture = Image.fromarray(observation["pixels"][0])
            picture.save(self.out / f"{self.task}_{seed}_{step}.png", optimize=True)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    states: dict[str, np.ndarray] = {}
    for task in sorted(TASK_DESCRIPTIONS):
        draw = np.random.default_rng(zlib.crc32(task.encode()))
        shaken = draw.uniform(-1, 1, (SHAKEN, 4)).astype(np.float32)
        recorder = Recorder(task, out)
        states |= recorder.episode(5, lambda _, step, shaken=shaken: shaken[step], SHAKEN)
        for seed in SOLVED.get(task, ()):
            expert = type(recorder.single.expert_policy)()
            states |= recorder.episode(seed, lambda state, _, e=expert: np.clip(e.get_action(state), -1, 1), 500)
        if task == IDLE[0]:
            states |= last_step(recorder.episode(IDLE[1], lambda *_: np.zeros(4), 600))
            (out / "sees.json").write_text(json.dumps(recorder.sees(), indent=1) + "\n")
        recorder.env.close()
        print(task, flush=True)
    np.savez_compressed(out / "states.npz", **states)


def small(picture: np.ndarray) -> np.ndarray:
    """A picture (480, 480, 3) as the means of its squares of 20 pixels, uint8 (24, 24, 3)."""
    return picture.reshape(24, 20, 24, 20, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def last_step(episode: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An episode of equal actions, as their number and what the last one led to."""
    steps = next(len(values) for key, values in episode.items() if key.endswith("actions"))
    kept = {f"last|{key}": values[-1] for key, values in episode.items() if not key.endswith("actions")}
    return {**kept, "last|steps": np.array(steps)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

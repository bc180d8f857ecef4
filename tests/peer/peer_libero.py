"""Records what LeRobot's own LIBERO environment shows to a policy; run with a Python that has LeRobot and hf-libero.

LIBERO_CONFIG_PATH=… MUJOCO_GL=egl python peer_libero.py OUTPUT_FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.envs.configs import LiberoEnv
from lerobot.envs.utils import preprocess_observation

STEPS, SIZE, SEED = 20, 64, 7
# Fixtures alone are placed at random; a stove that is turned on at random; poses instead of changes.
EPISODES = {
    "spatial": ("libero_spatial", 0, "relative"),
    "moka_pots": ("libero_10", 8, "relative"),
    "absolute": ("libero_goal", 3, "absolute"),
}


def record(suite: str, task_id: int, control_mode: str) -> dict[str, np.ndarray]:
    config = LiberoEnv(
        task=suite,
        task_ids=[task_id],
        observation_height=SIZE,
        observation_width=SIZE,
        control_mode=control_mode,
    )
    env = config.create_envs(n_envs=1)[suite][task_id]
    process, _ = config.get_env_processors()
    rng = np.random.default_rng(3)
    if control_mode == "relative":
        actions = rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32)
    else:
        pose = np.array([-0.1, 0.05, 1.1, 3.0, 0.1, 0.05, -1], dtype=np.float32)
        actions = pose + np.linspace(0, 1, STEPS, dtype=np.float32)[:, None] * np.float32(
            [0.1, 0.1, -0.1, 0.1, 0, 0, 0]
        )
    states, frames, rewards = [], [], []

    def see(raw: dict, image: bool) -> None:
        seen = process(preprocess_observation(raw))
        states.append(seen["observation.state"][0].numpy())
        if image:
            pictures = [seen[f"observation.images.{name}"][0] for name in ("image", "image2")]
            frames.append([(picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for picture in pictures])

    raw, _ = env.reset(seed=SEED)
    see(raw, image=True)
    for step, action in enumerate(actions, start=1):
        raw, reward, *_ = env.step(action[None])
        rewards.append(reward[0])
        see(raw, image=step % 10 == 0)
    task = env.envs[0].unwrapped.task
    env.close()
    return {
        "task": np.array(task),
        "actions": actions,
        "states": np.array(states),
        "frames": np.array(frames),
        "rewards": np.array(rewards),
    }


for name, episode in EPISODES.items():
    np.savez_compressed(Path(sys.argv[1]) / f"{name}.npz", **record(*episode))

"""Policies of every kind, measured, act as when they are stepped one frame at a time with every frame rendered."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lerobot_ops.errors import ConfigError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.flags import build
from lerobot_ops.policies.checkpoint import load_checkpoint, save_checkpoint
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.policies.registry import make_policy, policy_types

TASK, SEED, EPISODES, STEPS, SIZE = "button-press-topdown-v3", 1000, 2, 9, 32
FEATURES = {
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [4]},
        "observation.environment_state": {"type": "ENV", "shape": [39]},
        "observation.image": {"type": "VISUAL", "shape": [3, SIZE, SIZE]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [4]}},
}
POLICIES = '''
"""Small policies with random weights, as a third party would add them."""

from typing import Literal
import torch
from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.policies.policy import Policy
from lerobot_ops.processors.features import FeatureType, NormalizationMode

CHUNK, SEEN = 8, 4 + 39 + 3


def look(batch):
    """(..., 46): the states and the colours' means, zero without a camera."""
    state = batch["observation.state"]
    colours = torch.zeros(*state.shape[:-1], 3)
    if "observation.image" in batch:
        colours = batch["observation.image"].mean(dim=(-2, -1))
    return torch.cat([state, batch["observation.environment_state"], colours], dim=-1)


class Config(PolicyConfig):
    n_action_steps: int = 1
    n_actions = property(lambda self: self.n_action_steps)
    normalization = property(lambda self: {FeatureType.ACTION: NormalizationMode.MEAN_STD})
    def policy_class(self):
        return {"window": Window, "recurrent": Recurrent, "watchful": Watchful, "sociable": Sociable}[self.type]


class WindowConfig(Config):
    type: Literal["window"] = "window"


class SociableConfig(Config):
    type: Literal["sociable"] = "sociable"


class RecurrentConfig(Config):
    type: Literal["recurrent"] = "recurrent"
    keeps_memory = property(lambda self: True)


class WatchfulConfig(Config):
    type: Literal["watchful"] = "watchful"
    keeps_memory = property(lambda self: True)


class Window(Policy):
    """Reads the last observations."""
    def __init__(self, config, *, pretrained_backbone=True):
        super().__init__(config)
        self.head = torch.nn.Linear(config.n_obs_steps * SEEN, CHUNK * 4)
    def predict_chunk(self, batch):
        seen = look(batch)
        return self.head(seen.reshape(len(seen), -1)).unflatten(-1, (CHUNK, 4))


class Sociable(Window):
    """Minds who else is there."""
    def predict_chunk(self, batch):
        return super().predict_chunk(batch) + batch["observation.state"][:1, :1, None]


class Recurrent(Policy):
    """Has a state that every observation changes, and draws its noise from torch."""
    def __init__(self, config, *, pretrained_backbone=True):
        super().__init__(config)
        self.cell, self.head = torch.nn.GRUCell(SEEN, 16), torch.nn.Linear(16, 4)
    def reset(self):
        super().reset()
        self.hidden = None
    def select_action(self, batch):
        self.hidden = self.cell(look(batch), self.hidden)
        return self.head(self.hidden)


class Watchful(Policy):
    """Looks at every frame, although it only plans at every third."""
    def __init__(self, config, *, pretrained_backbone=True):
        super().__init__(config)
        self.head = torch.nn.Linear(SEEN, 3 * 4)
    def reset(self):
        super().reset()
        self.total = 0
    def select_action(self, batch):
        self.total = self.total + look(batch)
        if not self.queue:
            self.queue.extend(self.head(self.total).unflatten(-1, (3, 4)).unbind(dim=1))
        return self.queue.popleft()
'''


@pytest.fixture(scope="module", autouse=True)
def third_party(tmp_path_factory):
    folder = tmp_path_factory.mktemp("third-party")
    (folder / "small_policies.py").write_text(POLICIES)
    info = folder / "small_policies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-policies\nVersion: 1.0\n")
    names = ("window", "recurrent", "watchful", "sociable")
    lines = [f"{name} = small_policies:{name.capitalize()}Config" for name in names]
    (info / "entry_points.txt").write_text("[lerobot_ops.policies]\n" + "\n".join(lines) + "\n")
    sys.path.insert(0, str(folder))
    policy_types.cache_clear()
    yield
    sys.path.remove(str(folder))
    policy_types.cache_clear()


ACT = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "use_vae": False}
KINDS = {
    "a chunk from three observations": {"type": "window", "n_obs_steps": 3, "n_action_steps": 5},
    "a window longer than the chunk": {"type": "window", "n_obs_steps": 4, "n_action_steps": 2},
    "one step at a time": {"type": "window", "n_obs_steps": 1, "n_action_steps": 1},
    "two observations for every step": {"type": "window", "n_obs_steps": 2, "n_action_steps": 1},
    "a temporal ensemble": {
        "type": "act",
        "chunk_size": 4,
        "n_action_steps": 1,
        "temporal_ensemble_coeff": 0.01,
        **ACT,
    },
    "recurrent": {"type": "recurrent"},
    "every frame, but few plans": {"type": "watchful"},
}
WITH_CAMERA = ["a window longer than the chunk", "every frame, but few plans"]


def checkpoint(folder: Path, values: dict, *, camera: bool = True) -> Path:
    torch.manual_seed(2)  # every kind then moves the arm to where rewards differ
    inputs = {name: f for name, f in FEATURES["input_features"].items() if camera or f["type"] != "VISUAL"}
    extra = {"pretrained_backbone_weights": None} if values["type"] == "act" else {}
    config = policy_types()[values["type"]].model_validate({**FEATURES, "input_features": inputs, **values, **extra})
    numbers = {"mean": 0.1, "std": 0.5, "min": -2.0, "max": 2.0}
    stats = {
        name: {
            number: np.full((3, 1, 1) if len(f.shape) == 3 else f.shape, value, np.float32)
            for number, value in numbers.items()
        }
        for name, f in {**config.input_features, **config.output_features}.items()
    }
    save_checkpoint(folder, make_policy(config), *make_processors(config, stats, "cpu"))
    return folder


def configured(policy: Path, output: Path, **values) -> EvalConfig:
    usual = {
        "policy": {"path": str(policy)},
        "env": {"task": TASK, "episode_length": STEPS, "image_size": SIZE},
        "eval": {"n_episodes": EPISODES},
        "clips": {"enable": False},
        "sandbox": {"type": "venv"},
        "seed": SEED,
        "output_dir": output,
    }
    return build(EvalConfig, {**usual, **values}, source="a test")


@pytest.fixture(scope="module")
def worker(venv_sandbox):
    with venv_sandbox.spawn({"options": {"image_size": SIZE}, "video": True}) as worker:
        yield worker


@torch.no_grad()
def stepped(worker, path: Path) -> list[float]:
    """The reference: every episode's rewards when each frame is rendered and shown to the policy in turn."""
    policy, pre, post = (
        getattr(load_checkpoint(path, "cpu"), name) for name in ("policy", "preprocessor", "postprocessor")
    )
    cameras, totals = list(policy.config.image_features), []
    for seed in range(SEED, SEED + EPISODES):
        policy.reset()
        reply, rewards = worker.request({"op": "reset", "task": TASK, "seed": seed, "observe": cameras}), []
        while len(rewards) < STEPS:
            seen = {name: torch.from_numpy(np.array(value)) for name, value in reply["observation"].items()}
            seen |= {name: seen[name].permute(2, 0, 1).contiguous().float() / 255 for name in cameras}
            action = post.action(policy.select_action(pre({**seen, "task": ""})))
            reply = worker.request({"op": "step", "actions": action.numpy(), "observe": cameras})
            rewards += reply["rewards"]
        totals.append(math.fsum(rewards))
    return totals


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", KINDS)
def test_measured_as_when_stepped_naively(worker, tmp_path, kind):
    path = checkpoint(tmp_path / "pretrained_model", KINDS[kind], camera=kind in WITH_CAMERA)
    result = evaluate(configured(path, tmp_path / "result"))
    assert [record.sum_reward for record in result.records] == stepped(worker, path)
    assert len({record.sum_reward for record in result.records}) == EPISODES


NOISY = {
    "type": "diffusion",
    "n_obs_steps": 2,
    "horizon": 8,
    "n_action_steps": 4,
    "down_dims": [16, 32],
    "num_inference_steps": 2,
}


def outcomes(result):
    return [record.outcome() for record in result.records]


@pytest.mark.parametrize(
    ("values", "batch"),
    [(NOISY, 1), (KINDS["a temporal ensemble"], 4), (KINDS["a window longer than the chunk"], 4)],
)
def test_neither_simulators_nor_order_change_what_a_policy_does(tmp_path, values, batch):
    path = checkpoint(tmp_path / "pretrained_model", values, camera=False)
    runs = [
        evaluate(
            configured(path, tmp_path / f"{count}", eval={"n_episodes": 5, "batch_size": count, "policy_batch": batch})
        )
        for count in (1, 3)
    ]
    assert outcomes(runs[0]) == outcomes(runs[1])
    assert len({record.sum_reward for record in runs[0].records}) == 5


def test_a_batch_that_makes_episodes_depend_on_each_other_is_refused(tmp_path):
    path = checkpoint(tmp_path / "pretrained_model", {"type": "sociable"}, camera=False)
    with pytest.raises(ConfigError, match=r"depend on their place in a batch[\s\S]*policy_batch=1"):
        evaluate(configured(path, tmp_path / "result", eval={"policy_batch": 2}))
    assert not (tmp_path / "result").exists()

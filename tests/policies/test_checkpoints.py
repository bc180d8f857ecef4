"""Loading policies: what does not fit is refused with a reason."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save

from lerobot_ops.errors import CheckpointError, ConfigError
from lerobot_ops.policies import load_policy, make_policy, parse_policy_config, policy_types
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.device import best_device
from lerobot_ops.policies.weights import read_tensors, write_tensors


def without(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda tensors: tensors.pop(name)


def reshaped(tensors: dict[str, np.ndarray]) -> None:
    tensors["model.action_head.weight"] = np.zeros((7, 64), np.float32)


def additional(tensors: dict[str, np.ndarray]) -> None:
    tensors["model.action_head.scale"] = np.zeros(4, np.float32)


def renamed(tensors: dict[str, np.ndarray]) -> None:
    tensors["model.action_haed.bias"] = tensors.pop("model.action_head.bias")
    reshaped(tensors)


def older(tensors: dict[str, np.ndarray]) -> None:
    tensors["normalize_inputs.buffer_observation_state.mean"] = np.zeros(4, np.float32)


@pytest.fixture
def copy(act_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(act_checkpoint, tmp_path / "copy")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("model.action_head.bias"), r"missing \(1\): model\.action_head\.bias"),
        (reshaped, r"another shape \(1\): model.action_head.weight \(7, 64\) in place of \(4, 64\)"),
        (additional, r"unexpected \(1\): model\.action_head\.scale"),
        (renamed, r"missing[\s\S]*unexpected[\s\S]*did you mean 'model.action_head.bias'"),
        (older, "lerobot-ops migrate"),
    ],
)
def test_weights_that_do_not_fit(copy: Path, damage: Callable[[dict[str, np.ndarray]], None], message: str) -> None:
    tensors = load_file(copy / "model.safetensors")
    damage(tensors)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_policy(copy)


def test_damaged_or_missing_files(copy: Path, tmp_path: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(copy)
    weights.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_policy(copy)
    (copy / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(copy)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load_policy(tmp_path / "nowhere")


def test_a_configuration_of_another_kind(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"unknown policy type 'pi0'"):
        parse_policy_config({**config, "type": "pi0"})
    with pytest.raises(CheckpointError, match=r"dim_modle: unknown parameter; did you mean 'dim_model'"):
        parse_policy_config({**config, "dim_modle": 3})


INPUTS = {"observation.environment_state": {"type": "ENV", "shape": [3]}}
OUTPUTS = {"action": {"type": "ACTION", "shape": [2]}}


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"observation.state": {"type": "STATE", "shape": [3]}}, OUTPUTS, "see its surroundings"),
        ({**INPUTS, "observation.effort": {"type": "STATE", "shape": [3]}}, OUTPUTS, "cannot read this input"),
        ({**INPUTS, "observation.depth": {"type": "VISUAL", "shape": [1, 8, 8]}}, OUTPUTS, "cannot read this input"),
        (INPUTS, {}, "needs an action"),
    ],
)
def test_features_that_act_cannot_use(inputs: dict, outputs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(ACTConfig(input_features=inputs, output_features=outputs))


def test_an_unusable_device() -> None:
    assert best_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="cannot be used"):
        best_device("abacus")


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[None]:
    """An installed package that adds the policy `still`."""
    (tmp_path / "still_policy.py").write_text(PLUGIN)
    info = tmp_path / "still_policy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: still-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lerobot_ops.policies]\nstill = still_policy:StillConfig\n")
    sys.path.insert(0, str(tmp_path))
    policy_types.cache_clear()
    yield
    sys.path.remove(str(tmp_path))
    policy_types.cache_clear()


PLUGIN = """
from typing import Literal
import torch
from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.policies.policy import Policy

class Still(Policy):
    def __init__(self, config, *, pretrained_backbone=True):
        super().__init__(config)
        self.offset = torch.nn.Parameter(torch.zeros(config.action_dim))
    def predict_chunk(self, batch):
        return self.offset.expand(1, 1, -1)

class StillConfig(PolicyConfig):
    type: Literal["still"] = "still"
    @property
    def n_actions(self):
        return 1
    def policy_class(self):
        return Still
"""


@pytest.mark.usefixtures("plugin")
def test_an_installed_package_adds_a_policy() -> None:
    config = policy_types()["still"](output_features=OUTPUTS)
    assert make_policy(config).select_action({}).shape == (1, 2)


def test_weights_do_not_depend_on_who_asks(copy: Path) -> None:
    one, other = load_policy(copy), load_policy(copy)
    assert all(torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in one.state_dict())
    assert not one.training


def test_tensors_are_written_as_safetensors_own_save_writes_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "weights": torch.randn(5, 6).T,
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        'ünïcode "quoted"': torch.randn(3),
        **{str(dtype): torch.randint(0, 2, (3,)).to(dtype) for dtype in (torch.bool, torch.uint8, torch.int8)},
        **{str(dtype): torch.randint(0, 99, (3, 1)).to(dtype) for dtype in (torch.int16, torch.int32, torch.int64)},
        **{str(dtype): torch.randn(7).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
    }
    write_tensors(tmp_path / "tensors.safetensors", tensors)
    written = (tmp_path / "tensors.safetensors").read_bytes()
    assert written == save({name: tensor.contiguous() for name, tensor in tensors.items()})
    loaded = read_tensors(tmp_path / "tensors.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_weights_that_a_checkpoint_gives_are_not_drawn(copy: Path) -> None:
    before = torch.get_rng_state()
    policy = load_policy(copy)
    assert torch.equal(torch.get_rng_state(), before)
    stored = load_file(copy / "model.safetensors")
    assert all(np.array_equal(value.numpy(), stored[name]) for name, value in policy.state_dict().items())

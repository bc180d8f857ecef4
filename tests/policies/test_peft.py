"""Adapters: a small part is trained beside a pretrained policy, saved alone, loaded with its base, and merged."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lerobot_ops.config import merged
from lerobot_ops.errors import CheckpointError, ConfigError
from lerobot_ops.flags import build
from lerobot_ops.policies import load_policy
from lerobot_ops.policies.checkpoint import load_checkpoint
from lerobot_ops.policies.config import PeftConfig
from lerobot_ops.policies.conversion import ConversionConfig, merge_adapter
from lerobot_ops.policies.inference import PolicyRunner
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.pretrained import first_policy
from lerobot_ops.policies.registry import based, parse_policy_config
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.policies.reference import ACT, DATA, DIFFUSION, VQBET, rebuild
from tests.policies.test_migration import predicted
from tests.training.conftest import TINY
from tests.training.lessons import record

pytest.importorskip("peft", reason="pip install 'lerobot-ops[peft]'")

ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}


def configured(run: Path, base: Path | str, data: Path, **values: Any) -> TrainConfig:
    usual = {"policy": {"path": str(base), "optimizer_lr": 1e-2}, "peft": {"r": 2}, "dataset": {"root": data}}
    usual |= {"output_dir": run, "steps": 6, "save_freq": 3, "batch_size": 4, "num_threads": 1}
    return build(TrainConfig, merged(usual, values), source="the test")


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("lessons") / "data")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, lessons: Path) -> Path:
    """A trained ACT, small and without a camera."""
    values = {"dataset": {"root": lessons}, "policy": TINY, "steps": 2, "batch_size": 4, "num_threads": 1}
    run = tmp_path_factory.mktemp("base") / "run"
    return train(build(TrainConfig, values | {"output_dir": run}, source="the test")).checkpoint


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, base: Path, lessons: Path) -> Path:
    """The checkpoint of an adapter that was trained on it."""
    return train(configured(tmp_path_factory.mktemp("adapted") / "run", base, lessons)).checkpoint


def test_only_the_adapter_is_trained_and_saved(base: Path, adapted: Path) -> None:
    names = {path.name for path in adapted.iterdir()}
    assert names >= ADAPTER_FILES
    assert "model.safetensors" not in names
    entry = json.loads((adapted / "adapter_config.json").read_text())
    assert (entry["peft_type"], entry["r"], entry["base_model_name_or_path"]) == ("LORA", 2, str(base))
    assert json.loads((adapted / "config.json").read_text())["use_peft"] is True
    policy, plain = load_policy(adapted).state_dict(), load_policy(base).state_dict()
    for name, tensor in plain.items():
        layer, _, kind = name.rpartition(".")
        assert torch.equal(policy[name] if name in policy else policy[f"{layer}.base_layer.{kind}"], tensor)
    moved = load_file(adapted / "adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for name, tensor in moved.items() if "lora_B" in name)
    before, after = predicted(base), predicted(adapted)
    assert (before - after).abs().max() > 1e-3


def test_the_evaluator_acts_with_the_adapter_merged_into_its_base(adapted: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    observation = {"observation.state": generator.random(4), "observation.environment_state": generator.random(6)}
    acted = PolicyRunner.from_checkpoint(adapted).act(observation)
    loaded = load_checkpoint(adapted)
    batch = loaded.preprocessor({name: torch.from_numpy(value).float() for name, value in observation.items()})
    expected = loaded.postprocessor.action(loaded.policy.predict_chunk(batch))[0].numpy()
    np.testing.assert_allclose(acted, expected, rtol=1e-5, atol=1e-5)
    command = [sys.executable, "-m", "lerobot_ops.cli", "merge-adapter", str(adapted), str(tmp_path / "plain")]
    subprocess.run(command, check=True, capture_output=True)
    assert not ADAPTER_FILES & {path.name for path in (tmp_path / "plain").iterdir()}
    torch.testing.assert_close(predicted(tmp_path / "plain"), predicted(adapted), rtol=1e-5, atol=1e-5)
    with pytest.raises(CheckpointError, match="no adapter"):
        merge_adapter(ConversionConfig(path=str(tmp_path / "plain"), output=tmp_path / "again"))


def test_interrupted_and_resumed_is_as_if_it_had_not_been(base: Path, lessons: Path, tmp_path: Path) -> None:
    values = {"ema": {"enable": True}, "peft": {"full_training_modules": ["action_head"], "target_modules": "linear1"}}
    whole = train(configured(tmp_path / "whole", base, lessons, **values))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    config = configured(tmp_path / "run", base, lessons, **values, log_freq=5)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_metrics=stop)
    resumed = train(config.altered("resume", True))
    for name in ("pretrained_model", "pretrained_model_ema", "training_state"):
        for file in (whole.output_dir / "checkpoints/000006" / name).iterdir():
            if file.name != "log_window.json":
                again = resumed.output_dir / "checkpoints/000006" / name / file.name
                assert again.read_bytes() == file.read_bytes(), file
    assert "base_model.model.model.action_head.weight" in load_file(whole.checkpoint / "adapter_model.safetensors")


def test_an_adapter_goes_on_being_trained(adapted: Path, base: Path, lessons: Path, tmp_path: Path) -> None:
    further = train(configured(tmp_path / "run", adapted, lessons, peft=None)).checkpoint
    entry = json.loads((further / "adapter_config.json").read_text())
    assert (entry["r"], entry["base_model_name_or_path"]) == (2, str(base))
    assert not torch.equal(predicted(further), predicted(adapted))
    with pytest.raises(ConfigError, match=r"adapter already[\s\S]*merge-adapter"):
        train(configured(tmp_path / "other", adapted, lessons))


REFERENCES = [ACT, DIFFUSION, VQBET, DATA / "multi_task_dit_reference"]


def with_adapter(reference: Path, folder: Path, **values: Any) -> Policy:
    path = str(rebuild(reference, folder / "base"))
    return first_policy(parse_policy_config(based({"path": path})), PeftConfig(**values)).train()


def learnable(policy: Policy, folder: Path) -> dict[str, bool]:
    """Which of the trained parameters get a gradient from a batch of made-up numbers."""
    loaded = load_checkpoint(folder / "base")
    config, generator = policy.config, torch.Generator().manual_seed(0)
    seen = {}
    for name, feature in config.input_features.items():
        steps = [] if config.observation_delta_indices is None else [config.n_obs_steps]
        seen[name] = torch.rand(2, *steps, *feature.shape, generator=generator)
    length = len(config.action_delta_indices)
    actions = torch.rand(2, length, config.action_dim, generator=generator)
    batch = loaded.preprocessor({**seen, "action": actions, "task": ["pull", "push"]})
    torch.manual_seed(0)
    for parameter in policy.adapter.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    policy({**batch, "action_is_pad": torch.zeros(2, length, dtype=torch.bool)})[0].backward()
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in trained.items()}


@pytest.mark.parametrize("reference", REFERENCES, ids=["act", "diffusion", "vqbet", "multi_task_dit"])
def test_every_policy_has_layers_for_it(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA)  # Multi-task DiT names its CLIP by a relative path
    policy = with_adapter(reference, tmp_path, r=2)
    found = learnable(policy, tmp_path)
    assert len(found) > 20
    assert all(found.values()), [name for name, learns in found.items() if not learns]
    share = sum(p.numel() for p in policy.adapter.parameters()) / sum(p.numel() for p in policy.parameters())
    assert share < 0.05


def test_statistics_of_frozen_normalisations_stay(tmp_path: Path) -> None:
    policy = with_adapter(DIFFUSION, tmp_path, r=2)
    before = {name: value.clone() for name, value in policy.named_buffers()}
    learnable(policy, tmp_path)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in policy.named_buffers())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_modules": ["linear9"]}, r"did you mean 'linear2' or 'linear1'"),
        ({"target_modules": ["linear1", "lineer2"]}, r"lineer2[\s\S]*did you mean"),
        ({"target_modules": r".*\.(linear1"}, "no regular expression"),
        ({"target_modules": ["norm1"]}, r"cannot be put into these layers"),
        ({"full_training_modules": ["action_haed"]}, "did you mean 'action_head'"),
    ],
)
def test_layers_that_are_not_there(base: Path, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        first_policy(parse_policy_config(based({"path": str(base)})), PeftConfig(**values))


def test_layers_are_chosen_as_in_lerobot(base: Path) -> None:
    def chosen(targets: Any) -> set[str]:
        policy = first_policy(parse_policy_config(based({"path": str(base)})), PeftConfig(target_modules=targets))
        return {name.partition(".lora_A")[0] for name, _ in policy.named_parameters() if "lora_A" in name}

    assert chosen(["linear1", "action_head"]) == chosen(r".*linear1|.*action_head")
    assert len(chosen("all-linear")) > len(chosen(None)) > len(chosen("linear1")) > 0
    with pytest.raises(ConfigError, match=r"peft\.method_type"):
        build(TrainConfig, {"peft": {"method_type": "IA3"}}, source="the test")


def test_without_a_base_there_is_nothing_to_adapt(base: Path, lessons: Path, tmp_path: Path) -> None:
    fresh = build(TrainConfig, {"policy": TINY, "peft": {}, "dataset": {"root": lessons}}, source="the test")
    with pytest.raises(ConfigError, match=r"there is none[\s\S]*--policy.path"):
        train(fresh.altered("output_dir", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_adapter_finds_its_base_and_no_other(
    base: Path, lessons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    moved = shutil.copytree(base, tmp_path / "base")
    adapter = train(configured(Path("run"), "base", lessons)).checkpoint
    assert str(tmp_path).encode() not in b"".join(path.read_bytes() for path in adapter.iterdir())
    expected = predicted(adapter)
    beside = shutil.copytree(adapter, tmp_path / "elsewhere/adapter")
    shutil.copytree(base, beside / "base")
    shutil.rmtree(moved)
    assert torch.equal(predicted(beside), expected)
    with pytest.raises(CheckpointError, match=r"base that it was trained on is not found[\s\S]*base"):
        load_policy(adapter)
    weights = load_file(beside / "base/model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, beside / "base/model.safetensors")
    with pytest.raises(CheckpointError, match="other weights than when the adapter was trained"):
        load_policy(beside)


def test_a_damaged_adapter(adapted: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapted, tmp_path / "copy")
    tensors = load_file(copy / "adapter_model.safetensors")
    name = next(iter(tensors))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, copy / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=rf"missing \(1\): {name}"):
        load_policy(copy)
    (copy / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="its configuration is missing"):
        load_policy(copy)

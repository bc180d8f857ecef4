"""Training that goes on from a checkpoint: `policy.path`, with fields on top, and other names of observations."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lerobot_ops.datasets.describing.describe import InfoConfig, info
from lerobot_ops.errors import CheckpointError, ConfigError
from lerobot_ops.flags import parse
from lerobot_ops.hub.checkpoints import weights_digest
from lerobot_ops.hub.publish import PublishConfig, publish
from lerobot_ops.policies.inference import PolicyRunner
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.hub.hub_server import TOKEN, pointed_at, serving
from tests.training.conftest import TINY
from tests.training.lessons import CAMERA, record

Configured = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny ACT."""
    folder = tmp_path_factory.mktemp("base")
    flags = ["--batch_size=4", "--steps=2", "--num_threads=1", f"--output_dir={folder}/run"]
    flags += [f"--policy.{name}={json.dumps(value)}" for name, value in TINY.items()]
    return train(parse(TrainConfig, [f"--dataset.root={record(folder / 'data')}", *flags])).checkpoint


def going_on(place: Path | str, *flags: str) -> TrainConfig:
    return parse(TrainConfig, [f"--policy.path={place}", "--batch_size=4", "--steps=1", "--num_threads=1", *flags])


def test_the_configuration_is_the_checkpoints_with_flags_on_top(base: Path, dataset: Path, tmp_path: Path) -> None:
    config = going_on(base, "--policy.n_action_steps=2", f"--dataset.root={dataset}", f"--output_dir={tmp_path}/run")
    assert (config.policy.type, config.policy.dim_model, config.policy.n_action_steps) == ("act", 16, 2)
    assert config.policy.input_features.keys() == {"observation.state", "observation.environment_state"}
    result = train(config)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, result.checkpoint))
    change = max((after[name] - before[name]).abs().max().item() for name in before)
    assert 0 < change < 2e-3  # one step of Adam
    manifest = json.loads((result.checkpoint / "manifest.json").read_text())
    assert manifest["base_digest"] == weights_digest(base)
    assert str(base).encode() not in b"".join(path.read_bytes() for path in result.checkpoint.iterdir())


def test_a_configuration_file_says_the_same(base: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(f"policy: {{path: {base}, dropout: 0.2}}\nsteps: 3\n")
    config = parse(TrainConfig, [f"--config_path={tmp_path}/train.yaml", "--policy.dropout=0.3"])
    assert (config.policy.pretrained_path, config.policy.dropout, config.steps) == (str(base), 0.3, 3)
    again = TrainConfig.model_validate(config.model_dump(mode="json"))
    assert again.policy == config.policy


def test_a_checkpoint_on_the_hub_is_noted_by_its_commit(
    base: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {"kind": "checkpoint", "path": base, "repo_id": "team/act", "hub": {"target": "huggingface"}}
    with serving() as hub:
        pointed_at(hub, tmp_path / "hf", monkeypatch, token=TOKEN)
        publish(PublishConfig.model_validate(values))
        config = going_on("team/act", f"--dataset.root={dataset}", f"--output_dir={tmp_path}/run")
        repository = hub.repositories["models/team/act"]
        commit = repository.branches["main"]
        assert (config.policy.pretrained_path, config.policy.pretrained_revision) == ("team/act", commit)
        repository.commit({"config.json": b"{}"})  # what is pushed later changes nothing
        train(config)
    assert config.identity("")["policy"]["pretrained_path"] == weights_digest(base)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy.type=diffusion"], "of another type"),
        (["--policy.dim_model=32"], r"of another shape \(\d+\)"),
        (["--policy.n_encoder_layers=2"], r"missing \(\d+\): model\.encoder\.layers\.1"),
        (["--policy.chunk_siez=2"], "chunk_siez: unknown parameter"),
        (["--rename_map={observation.stat: observation.state}"], "did you mean 'observation.state'"),
        (["--rename_map={action: observation.state}"], "rename_map is for observations"),
        (["--rename_map={observation.state: observation.joints}"], r"feature that the dataset does not have"),
    ],
)
def test_what_does_not_fit_is_said(base: Path, dataset: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=message):
        train(going_on(base, f"--dataset.root={dataset}", f"--output_dir={tmp_path}/run", *flags))
    assert not (tmp_path / "run").exists()


def test_a_dataset_of_another_robot_is_refused(base: Path, dataset: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    config["output_features"]["action"]["shape"] = [7]
    (tmp_path / "seven").mkdir()
    (tmp_path / "seven/config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"other actions than the dataset's[\s\S]*\(4,\)[\s\S]*\(7,\)"):
        train(going_on(tmp_path / "seven", f"--dataset.root={dataset}", f"--output_dir={tmp_path}/run"))


def test_names_of_the_dataset_become_names_of_the_policy(filmed: Path, tmp_path: Path) -> None:
    """The camera is `front` in the dataset, `top` for the policy; the checkpoint knows both."""
    top = "observation.images.top"
    values = [f"--policy.{name}={json.dumps(value)}" for name, value in TINY.items()]
    values += [f"--dataset.root={filmed}", "--dataset.eval_split=0.5", "--steps=2", "--batch_size=2", "--num_threads=1"]
    renamed = train(parse(TrainConfig, [*values, f"--rename_map={{{CAMERA}: {top}}}", f"--output_dir={tmp_path}/run"]))
    plain = train(parse(TrainConfig, [*values, f"--output_dir={tmp_path}/plain"]))
    config = json.loads((renamed.checkpoint / "config.json").read_text())
    assert top in config["input_features"]
    assert CAMERA not in config["input_features"]
    weights = [load_file(result.checkpoint / "model.safetensors") for result in (renamed, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    seen = {CAMERA: np.full((64, 64, 3), 90, np.uint8)}
    seen |= {"observation.state": np.ones(4), "observation.environment_state": np.ones(6)}
    expected = PolicyRunner.from_checkpoint(plain.checkpoint).act(seen)
    runner = PolicyRunner.from_checkpoint(renamed.checkpoint)
    assert runner.cameras == [CAMERA]
    np.testing.assert_array_equal(runner.act(seen), expected)
    elsewhere = PolicyRunner.from_checkpoint(renamed.checkpoint, rename_map={"pixels": top})
    np.testing.assert_array_equal(elsewhere.act({**seen, "pixels": seen[CAMERA]}), expected)
    with pytest.raises(ConfigError, match=r"did you mean 'observation.images.top'"):
        PolicyRunner.from_checkpoint(renamed.checkpoint, rename_map={"pixels": "observation.images.tap"})


def test_from_the_command_line(base: Path, dataset: Path, tmp_path: Path) -> None:
    flags = [f"--policy.path={base}", f"--dataset.root={dataset}", f"--output_dir={tmp_path}/run", "--steps=1"]
    command = [sys.executable, "-m", "lerobot_ops.cli", "train", *flags, "--tracking.enable=false", "--peft.r=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = info(InfoConfig(root=tmp_path / "run"))
    assert "adapter rank" in text
    assert "base digest" in text

"""Old checkpoints, whose normaliser lies among the weights, and adapters that become plain checkpoints."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lerobot_ops.errors import ArtifactError, CheckpointError
from lerobot_ops.policies.checkpoint import load_checkpoint
from lerobot_ops.policies.conversion import ConversionConfig, migrate
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR
from tests.policies.reference import ACT, DIFFUSION, VQBET, Draws, rebuild

STATISTICS = {"MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max")}


class Alike(Draws):
    """Random numbers that are the same for every policy."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def randn(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        return torch.randn(tuple(shape), generator=self.generator)

    def choose(self, probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities.argmax(-1, keepdim=True)


def aged(checkpoint: Path, prefix: str = "") -> Path:
    """The checkpoint as LeRobot would have written it before it had processors."""
    config = json.loads((checkpoint / "config.json").read_text())
    tensors = load_file(checkpoint / "model.safetensors")
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    stats = load_file(next(checkpoint.glob(f"{PREPROCESSOR}_step_*_normalizer_processor.safetensors")))
    places = {"input_features": ["normalize_inputs"], "output_features": ["normalize_targets", "unnormalize_outputs"]}
    for side, modules in places.items():
        for name, feature in config[side].items():
            for statistic in STATISTICS.get(config["normalization_mapping"].get(feature["type"], ""), ()):
                for module in modules:
                    buffer = f"{module}.buffer_{name.replace('.', '_')}.{statistic}"
                    tensors[buffer] = stats[f"{name}.{statistic}"]
    save_file(tensors, checkpoint / "model.safetensors")
    for file in checkpoint.glob("policy_*processor*"):
        file.unlink()
    return checkpoint


def predicted(checkpoint: Path) -> torch.Tensor:
    """What it does in a made-up observation, in the dataset's units."""
    loaded = load_checkpoint(checkpoint)
    config, generator = loaded.policy.config, np.random.default_rng(0)
    steps = config.n_obs_steps
    seen = {
        name: generator.random((2, *([steps] if steps > 1 else []), *feature.shape), dtype=np.float32)
        for name, feature in config.input_features.items()
    }
    batch = loaded.preprocessor({name: torch.from_numpy(value) for name, value in seen.items()})
    options = {"draws": Alike()} if config.is_random else {}
    return loaded.postprocessor.action(loaded.policy.predict_chunk(batch, **options))


@pytest.mark.parametrize(
    ("reference", "prefix"),
    [(ACT, ""), (DIFFUSION, ""), (VQBET, ""), (ACT, "_orig_mod.")],
    ids=["act", "diffusion", "vqbet", "compiled"],
)
def test_an_old_checkpoint_predicts_the_same_when_it_is_migrated(reference: Path, prefix: str, tmp_path: Path) -> None:
    expected = predicted(rebuild(reference, tmp_path / "today"))
    old = aged(rebuild(reference, tmp_path / "old"), prefix)
    with pytest.raises(CheckpointError, match=f"lerobot-ops migrate {old}"):
        load_checkpoint(old)
    new = migrate(ConversionConfig(path=str(old), output=tmp_path / "new"))
    assert torch.equal(predicted(new), expected)
    assert not any("normalize" in name for name in load_file(new / "model.safetensors"))
    assert (new / "train_config.json").exists() == (old / "train_config.json").exists()


@pytest.fixture
def old(act_checkpoint: Path, tmp_path: Path) -> Path:
    return aged(shutil.copytree(act_checkpoint, tmp_path / "old"))


def changed(old: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(old / "model.safetensors")
    change(tensors)
    save_file(tensors, old / "model.safetensors")


MEAN = "normalize_inputs.buffer_observation_state.mean"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(MEAN), r"lack observation\.state\.mean"),
        (lambda t: t.update({MEAN: np.full(4, np.inf, np.float32)}), "never trained"),
        (lambda t: t.update({MEAN.replace("state", "effort"): t[MEAN]}), "does not name"),
        (lambda t: t.update({"unnormalize_outputs.buffer_action.std": np.zeros(4, np.float32)}), "differ"),
        (lambda t: t.pop("model.action_head.bias"), r"missing \(1\): model\.action_head\.bias"),
    ],
)
def test_what_cannot_be_migrated(old: Path, tmp_path: Path, change: Callable, message: str) -> None:
    changed(old, change)
    with pytest.raises(CheckpointError, match=message):
        migrate(ConversionConfig(path=str(old), output=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_there_is_nothing_to_migrate_in_a_checkpoint_of_today(act_checkpoint: Path, old: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to migrate"):
        migrate(ConversionConfig(path=str(act_checkpoint), output=tmp_path / "new"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        migrate(ConversionConfig(path=str(old), output=tmp_path / "taken"))


def test_from_the_command_line(old: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lerobot_ops.cli", "migrate", str(old), str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "new")
    assert {f"{PREPROCESSOR}.json", f"{POSTPROCESSOR}.json"} <= {path.name for path in (tmp_path / "new").iterdir()}

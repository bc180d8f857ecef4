from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lerobot_ops.config import merged
from lerobot_ops.flags import build
from lerobot_ops.training.config import TrainConfig
from tests.training.lessons import record

TINY = {"type": "act", "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1}
TINY |= {"n_vae_encoder_layers": 1, "latent_dim": 4, "chunk_size": 5, "n_action_steps": 5}
TINY |= {"pretrained_backbone_weights": None, "optimizer_lr": 1e-3}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes without a camera."""
    return record(tmp_path_factory.mktemp("datasets") / "vectors")


@pytest.fixture(scope="session")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes with video."""
    return record(tmp_path_factory.mktemp("datasets") / "filmed", (7, 9), camera="video")


@pytest.fixture
def configured(dataset: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A tiny ACT trained for a few steps, with whatever a test changes."""

    def configure(**values: Any) -> TrainConfig:
        usual = {"dataset": {"root": dataset}, "policy": TINY, "output_dir": tmp_path / "run", "num_threads": 1}
        usual |= {"batch_size": 4, "steps": 12, "log_freq": 4, "save_freq": 5}
        return build(TrainConfig, merged(usual, values), source="the test")

    return configure

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.policies.reference import ACT, rebuild


@pytest.fixture(scope="session")
def act_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeRobot's ACT checkpoint."""
    return rebuild(ACT, tmp_path_factory.mktemp("act") / "pretrained_model")


@pytest.fixture(scope="session")
def act_io() -> dict[str, np.ndarray]:
    """What LeRobot's ACT was given and what it computed."""
    with np.load(ACT / "io.npz") as content:
        return {name: content[name] for name in content.files}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)

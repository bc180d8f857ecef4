"""One migrated MLflow database, copied for each test: making it takes a second, copying it nothing."""

import shutil
from pathlib import Path

import pytest

from lerobot_ops.tracking import TrackingConfig
from lerobot_ops.tracking.store import open_client


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(TrackingConfig(uri=f"sqlite:///{path}"))
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Path:
    path = tmp_path / "store" / "mlflow.db"
    path.parent.mkdir()
    return Path(shutil.copy(empty_store, path))

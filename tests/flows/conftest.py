"""One temporary Prefect server for all tests of flows and tasks; nothing touches the user's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """An empty server with its own database."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def workspace(prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that flows run in, with results stored in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    return tmp_path

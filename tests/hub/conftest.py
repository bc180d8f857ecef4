"""The stand-in Hub, and huggingface_hub pointed at it as HF_ENDPOINT and HF_HOME would before it is imported."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.hub_server import HubServer, pointed_at, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving() as server:
        pointed_at(server, tmp_path / "hf", monkeypatch)
        yield server

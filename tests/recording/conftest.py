"""Simulated arms for every test that wants some."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recording.arms import Arms, simulated_arms


@pytest.fixture
def arms(tmp_path: Path) -> Iterator[Arms]:
    with simulated_arms(tmp_path) as arms:
        yield arms

"""Meta-World in the sandbox that needs no engine."""

import pytest

from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox


@pytest.fixture(scope="session")
def metaworld():
    return open_sandbox("metaworld", SandboxConfig(type="venv"))

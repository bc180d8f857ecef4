"""What the documentation says is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lerobot_ops.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_flow_that_a_page_shows_exists(page: Path) -> None:
    text = page.read_text()
    commands = set(re.findall(r"^(?:\$ )?lerobot-ops ([a-z][a-z-]*)", text, re.MULTILINE))
    assert commands <= set(COMMANDS)
    flows = set(re.findall(r"python -m flows\.([a-z_]+)", text))
    assert all((ROOT / "flows" / f"{flow}.py").exists() for flow in flows)


def test_the_command_line_answers_help_without_heavy_imports() -> None:
    code = "import sys; from lerobot_ops.cli import main; main(['--help']); print(sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "usage: lerobot-ops" in output
    assert not {"torch", "mlflow", "prefect", "pandas", "pyarrow", "pydantic"} & set(re.findall(r"'([a-z_]+)'", output))

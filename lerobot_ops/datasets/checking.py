"""A validation as a command: what to check, and where its report goes."""

from pathlib import Path

from lerobot_ops.artifacts import write_bytes, write_json
from lerobot_ops.datasets.remote import local_root
from lerobot_ops.datasets.validate import ValidateConfig, ValidationReport, validate

STDOUT = Path("-")


class CheckConfig(ValidateConfig):
    """A validation from the command line."""

    root: Path
    """The dataset: a directory, or OWNER/NAME[@REVISION] on the Hub."""
    json_path: Path | None = None
    """Where to write the findings as JSON; `-` prints them in place of the report."""
    markdown_path: Path | None = None
    """Where to write the report as Markdown, besides printing it."""


def check(config: CheckConfig) -> ValidationReport:
    """Validate a dataset and leave the report where it was asked for."""
    report = validate(local_root(config.root), config=config)
    if config.json_path and config.json_path != STDOUT:
        write_json(config.json_path, report.model_dump(mode="json"))
    if config.markdown_path and config.markdown_path != STDOUT:
        write_bytes(config.markdown_path, report.markdown().encode())
    return report

"""A validation as a command: what to check, and where its report goes."""

from pathlib import Path

from pydantic import ConfigDict, Field

from lerobot_ops.artifacts import write_bytes, write_json
from lerobot_ops.datasets.remote import local_root
from lerobot_ops.datasets.validation.validate import ValidateConfig, ValidationReport, validate


class CheckConfig(ValidateConfig):
    """A validation from the command line."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    root: Path
    """The dataset: a directory, or OWNER/NAME[@REVISION] on the Hub."""
    as_json: bool = Field(default=False, alias="json")
    """Print JSON in place of the report."""
    json_path: Path | None = None
    """Where to write the report as JSON."""
    markdown_path: Path | None = None
    """Where to write the report as Markdown, besides printing it."""


def check(config: CheckConfig) -> ValidationReport:
    """Validate a dataset and leave the report where it was asked for."""
    report = validate(local_root(config.root), config=config)
    if config.json_path:
        write_json(config.json_path, report.model_dump(mode="json"))
    if config.markdown_path:
        write_bytes(config.markdown_path, report.markdown().encode())
    return report

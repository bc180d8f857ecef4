"""Prefect artifacts: Markdown under stable keys, so that every run adds a version to the same page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact


def show(key: str, markdown: str, description: str | None = None) -> None:
    """Put `markdown` on the page of this `key` (lower case, digits, dashes) in Prefect's Artifacts."""
    create_markdown_artifact(markdown, key=key, description=description)


def facts(title: str, values: Mapping[str, Any]) -> str:
    """A heading and a table of two columns."""
    return f"## {title}\n\n" + table(("what", "value"), values.items())


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def success_table(title: str, metrics: Mapping[str, Any]) -> str:
    """Success rates of an evaluation: overall, then task by task, each with its interval."""
    scores = [("all", metrics), *metrics["per_task"].items()]
    rows = [
        (
            name,
            f"{score['pc_success']:.1f} %",
            f"{score['ci_low']:.1f} to {score['ci_high']:.1f}",
            score["n_episodes"],
            score["n_errors"],
        )
        for name, score in scores
        if score["pc_success"] is not None
    ]
    return f"## Success on {title}\n\n" + table(("task", "pc_success", "95 % interval", "episodes", "errors"), rows)

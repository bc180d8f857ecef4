"""Prefect artifacts: Markdown and tables under stable keys, so that every run adds a version to the same page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

if TYPE_CHECKING:
    from tasks.comparing import Change


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


def show_scores(key: str, title: str, metrics: Mapping[str, Any], change: "Change | None" = None) -> None:
    """The table of an evaluation's success rates under this `key`: overall and by task, with interval and change."""
    told = f"Success on {title}" + (f"\n\n{change}" if change else "")
    create_table_artifact(score_rows(metrics, change), key=key, description=told)


def score_rows(metrics: Mapping[str, Any], change: "Change | None" = None) -> list[dict[str, str]]:
    """A row for all tasks together and one for each."""
    scores = [("all", metrics), *metrics["per_task"].items()]
    return [_score_row(name, score, change) for name, score in scores]


def _score_row(name: str, score: Mapping[str, Any], change: "Change | None") -> dict[str, str]:
    rate = score["pc_success"]
    row = {
        "task": name,
        "pc_success": "no episode counts" if rate is None else f"{rate:.1f} %",
        "95 % interval": "" if rate is None else f"{score['ci_low']:.1f} to {score['ci_high']:.1f}",
        "episodes": str(score["n_episodes"]),
        "errors": str(score["n_errors"]),
    }
    if change is not None:
        row |= change.row(name)
    return row

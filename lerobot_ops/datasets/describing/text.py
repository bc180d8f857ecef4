"""Descriptions as text for a terminal: aligned facts, sizes and durations."""

from collections.abc import Iterable, Sequence

_WIDTH = 100


def aligned(rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows of cells as lines whose columns line up."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]


def shortened(names: Sequence[str], width: int = _WIDTH // 2) -> str:
    """`a, b, c … (40 in all)`: as many names as fit into `width` characters."""
    text = ", ".join(names)
    if len(text) <= width:
        return text
    kept: list[str] = []
    for name in names:
        if kept and len(", ".join([*kept, name])) > width:
            break
        kept.append(name)
    return f"{', '.join(kept)} … ({len(names)} in all)"


def clipped(text: str, width: int = _WIDTH) -> str:
    """A text on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 2]} …"


def size_text(count: int) -> str:
    """Bytes in the unit that gives one to three digits before the point."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def duration_text(seconds: float) -> str:
    """`1:02:03`, hours, minutes and seconds; below a minute `12.3 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"

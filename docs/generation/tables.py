"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows under their titles; a `|` or a line break inside a cell is made harmless."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text as it can stand between two bars."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Text in the typewriter face, or nothing."""
    return f"`{text}`" if text else ""

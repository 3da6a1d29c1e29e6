"""slt vocabulary train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sltcore.cli.console import Console
from sltcore.errors import DataError, SltError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Train the labels a decoder writes with."
)


@app.callback()
def group() -> None:
    """Train the labels a decoder writes with."""


@app.command()
def train(
    texts: Annotated[list[Path], typer.Argument(metavar="TEXT...", help="text files, one sentence a line")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="where to write the vocabulary, as JSON")] = Path(
        "vocabulary.json"
    ),
    kind: Annotated[str, typer.Option("--kind", help="characters, or subwords (byte-pair encoding)")] = "characters",
    size: Annotated[int, typer.Option("--size", min=3, max=100_000, help="most labels, for subwords")] = 500,
) -> None:
    """Make a vocabulary of the characters or sub-words of texts, blank first."""
    from sltcore.vocabulary import characters, subwords

    lines = []
    for path in texts:
        try:
            lines += path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise DataError(f"{path} cannot be read: {reason}") from None
    if kind == "characters":
        vocabulary = characters(lines)
    elif kind == "subwords":
        vocabulary = subwords(lines, size)
    else:
        raise SltError(f"--kind is '{kind}', expected characters or subwords")
    out.write_text(json.dumps(vocabulary.to_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    Console().result(f"{out}: {len(vocabulary)} labels")

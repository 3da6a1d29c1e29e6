"""`slt lm`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sltcore.cli.console import Console
from sltcore.errors import DataError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Build n-gram language models from text."
)


@app.callback()
def group() -> None:
    """Build n-gram language models from text."""


@app.command()
def build(
    texts: Annotated[list[Path], typer.Argument(metavar="TEXT...", help="text files, one sentence a line")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="ARPA file to write; gzipped where it ends in .gz")
    ] = Path("lm.arpa.gz"),
    order: Annotated[int, typer.Option("--order", min=1, max=6, help="longest n-gram")] = 3,
    vocabulary: Annotated[
        int | None, typer.Option("--vocabulary", min=1, help="keep only so many of the most frequent words")
    ] = None,
    prune: Annotated[
        list[int] | None,
        typer.Option("--prune", min=0, help="drop n-grams seen at most so often, one value for each order; may repeat"),
    ] = None,
) -> None:
    """Estimate an n-gram model with modified Kneser-Ney smoothing."""
    from slt_ctc_personalization.arpa import write_arpa
    from slt_ctc_personalization.build_lm import estimate

    model = estimate(_lines(texts), order=order, vocabulary=vocabulary, prune=tuple(prune or ()))
    write_arpa(model, out)
    counts = ", ".join(f"{len(rows):,} {n}-grams" for n, rows in enumerate(model.ngrams, 1))
    Console().result(f"{out}: order {order}, {counts}")


def _lines(texts: list[Path]) -> Iterator[str]:
    for path in texts:
        try:
            yield from path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{path} is not UTF-8 text; save it as UTF-8, one sentence a line") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None

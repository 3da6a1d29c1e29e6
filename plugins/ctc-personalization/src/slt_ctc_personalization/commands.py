"""`slt lm` and `slt phrases`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltcore.cli.console import Console, counted
from sltcore.cli.specs import Settings, SpecPath
from sltcore.errors import DataError, SltError

if TYPE_CHECKING:
    from slt_ctc_personalization.phrases.everyday import EverydayWords
    from slt_ctc_personalization.phrases.phrase_check import CheckedPhrase, ListCheck

EXIT_NO_EFFECT = 1
MANY = 1000  # in smaller lists, what all lists need counts for more than their phrases
PIPED_COLUMNS = 10_000  # as wide as it takes where nobody watches

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Build n-gram language models from text."
)
phrases_app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Check lists of phrases."
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
    from slt_ctc_personalization.language_model.arpa import write_arpa
    from slt_ctc_personalization.language_model.build_lm import estimate

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


@phrases_app.callback()
def phrases_group() -> None:
    """Check lists of phrases."""


@phrases_app.command("check")
def check_list(
    spec: SpecPath,
    names: Annotated[
        Path, typer.Argument(metavar="FILE", help="the list: text (one phrase a line), csv, tsv, json or jsonl")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document, with every path of every phrase")] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="most phrases in the table, those with remarks first")
    ] = 100,
    language: Annotated[
        str | None, typer.Option("--language", metavar="CODE", help="whose everyday words to compare with, such as de")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option("--words", metavar="FILE", help="everyday words to compare with, the most frequent first"),
    ] = None,
    settings: Settings = None,
) -> None:
    """Show what a pipeline makes of a list of phrases: their label paths, and what is wrong with them.

    Exit codes: 0 every phrase has an effect (warnings or not), 1 some have none, 2 nothing reads the list.
    """
    from slt_ctc_personalization.phrases.phrase_check import check
    from slt_ctc_personalization.phrases.phrase_findings import NO_EFFECT
    from sltcore.bundle import load
    from sltcore.data import read_phrases

    given = read_phrases(names)
    everyday = _everyday(language, words)
    found = check(load(spec, overrides=settings or ()), given, everyday=everyday)
    if as_json:
        Console().result(json.dumps(_document(found), ensure_ascii=False, indent=1))
    else:
        _show(found, limit)
    if found.count(NO_EFFECT):
        raise typer.Exit(EXIT_NO_EFFECT)


def _everyday(language: str | None, words: Path | None) -> EverydayWords | None:
    from slt_ctc_personalization.phrases.everyday import of_file, of_language

    if language is not None and words is not None:
        raise SltError("--language and --words both name the everyday words; give one of them")
    return of_file(words) if words is not None else of_language(language) if language is not None else None


def _document(found: ListCheck) -> dict[str, Any]:
    return {
        "phrases": [
            {
                "text": phrase.text,
                "status": phrase.status,
                "bonus": round(phrase.bonus, 4),
                "paths": list(phrase.paths),
                "findings": [finding._asdict() for finding in phrase.findings],
            }
            for phrase in found.phrases
        ],
        "remarks": list(found.remarks),
        "seconds": round(found.seconds, 4),
        "bytes": found.bytes,
    }


def _show(found: ListCheck, limit: int) -> None:
    from slt_ctc_personalization.phrases.phrase_check import listed
    from slt_ctc_personalization.phrases.phrase_findings import NO_EFFECT, WARNING

    shown = listed(found.phrases)[:limit]
    if shown:
        Console().result(_table(shown))
    if len(shown) < len(found.phrases):
        Console().result(f"and {len(found.phrases) - len(shown):,} more; see them with --limit or --json")
    for remark in found.remarks:
        Console().warn(remark)
    size = len(found.phrases)
    each = f", {found.bytes / 1e3 / size:.2f} MB per 1,000" if size >= MANY else ""
    Console().result(
        f"{counted(size, 'phrase')}: {found.count(NO_EFFECT)} without effect, {found.count(WARNING)} with warnings; "
        f"ready in {found.seconds:.2f} s, {found.bytes / 1e6:.2f} MB{each}"
    )


def _table(phrases: list[CheckedPhrase]) -> str:
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="")
    for title in ("status", "phrase", "bonus", "labels", "remarks"):
        table.add_column(title, justify="right" if title == "bonus" else "left", overflow="fold")
    for phrase in phrases:
        more = f" (+{len(phrase.paths) - 1})" if len(phrase.paths) > 1 else ""
        remarks = "; ".join(finding.remark for finding in phrase.findings)
        cells = [phrase.status, phrase.text, f"{phrase.bonus:.1f}", f"{''.join(phrase.paths[:1])}{more}", remarks]
        table.add_row(*map(Text, cells))
    watched = sys.stdout.isatty()
    console = RichConsole(width=None if watched else PIPED_COLUMNS, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())

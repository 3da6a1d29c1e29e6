"""`slt rank` and `slt explain-rank`: candidates and a database in, a ranking with reasons out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from sltcore.cli.console import Console, table

if TYPE_CHECKING:
    from slt_sql_rerank.ranking import Ranked

RERANKERS = (
    "weighted",
    "schema-linking",
    "query-plan",
    "linking-plan",
    "plan-linking",
    "first-executable",
    "majority-vote",
    "likelihood",
)
MOST_SHOWN = 100

Database = Annotated[str, typer.Argument(metavar="DATABASE", help="a SQLite file, or a SQLAlchemy URL")]
Candidates = Annotated[
    str, typer.Argument(metavar="CANDIDATES", help="JSONL: question and candidates on each line; - for standard input")
]
By = Annotated[str, typer.Option("--by", metavar="NAME", help=f"the reranker: {', '.join(RERANKERS)}, or a spec file")]
Execute = Annotated[
    bool, typer.Option("--execute", help="also run each best candidate, in the sandbox, and show its rows")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object for each question")]


def rank_command(
    database: Database,
    candidates: Candidates,
    by: By = "weighted",
    execute: Execute = False,
    as_json: AsJson = False,
) -> None:
    """Rank candidates of text-to-SQL against a database; nothing of them is executed unless you ask.

    A line of CANDIDATES is {"question": "...", "candidates": ["SELECT ...", {"sql": "...", "score": -1.2}]}; scores are
    log-probabilities and may be left out.
    """
    console = Console()
    for number, one in enumerate(_ranked(database, candidates, by, execute=execute)):
        if as_json:
            console.result(json.dumps(one.to_dict(), ensure_ascii=False))
            continue
        console.result(("\n" if number else "") + f"{one.id}: {one.question}")
        rows = [[str(place), str(was), _short(sql), why] for place, was, sql, why in one.rows()]
        console.result(table(["place", "was", "candidate", "reasons"], rows))
        for line in one.result_lines():
            console.result(line)


def explain_command(
    database: Database,
    candidates: Candidates,
    question: Annotated[str | None, typer.Option("--id", metavar="ID", help="of one line; all where not given")] = None,
    by: By = "weighted",
    as_json: AsJson = False,
) -> None:
    """Tell every reason of a ranking: links of the question, what each candidate breaks, which clauses it has."""
    console = Console()
    found = [one for one in _ranked(database, candidates, by, execute=False) if question in (None, one.id)]
    if not found:
        from sltcore.errors import DataError

        raise DataError(f"{candidates} has no line with id '{question}'")
    for one in found:
        if as_json:
            console.result(json.dumps(one.to_dict(), ensure_ascii=False, indent=1))
        else:
            console.result("\n".join(one.explained()))


def _ranked(database: str, candidates: str, by: str, *, execute: bool) -> Iterator[Ranked]:
    from slt_sql_rerank.ranking import rank, read_lists

    return rank(database, read_lists(candidates), by=by, execute=execute)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_SHOWN else line[: MOST_SHOWN - 1] + "…"

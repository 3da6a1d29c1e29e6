"""Execution accuracy: the rows of candidate and gold query, on one database or a suite of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from slt_sql_rerank.metrics.spider_text import without_distinct
from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.outcome import Cell, Result
from sltcore.errors import DataError

Row = tuple[Cell, ...]
WIDE = Limits(rows=100_000, cells=1_000_000, result_bytes=50_000_000)
"""For the sandbox of an evaluation, whose gold queries are trusted to be large on purpose."""
YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", re.IGNORECASE)


class Runner(Protocol):
    """What runs statements; `slt_sql_rerank.sandbox.Sandbox` is one."""

    def execute(self, sql: str, deadline: float | None = None, *, database: str | None = None) -> Result:
        """Its rows, or why there are none."""

    def close(self) -> None:
        """End its processes."""


class Execution:
    """Compares the rows of two queries, each run in a sandbox; gold queries run once.

    With several databases a candidate is right when it is right on each (test-suite accuracy).

    **Source**: Zhong, Yu & Klein, "Semantic evaluation for text-to-SQL with distilled test suites", EMNLP 2020,
    arXiv:2010.02840, and its scorer, whose behaviour `official` restates.
    """

    def __init__(self, runner: Runner, *, seconds: float | None = None) -> None:
        """`seconds` is the deadline of one statement; None: the runner's own."""
        self.runner = runner
        self.seconds = seconds
        self._gold: dict[tuple[str, str | None], Result] = {}

    def official(self, candidate: str, gold: str, databases: Sequence[str | None] = (None,)) -> bool:
        """Whether Spider's scorer calls the results equal.

        DISTINCT is cut out of both queries; rows are a bag, but a list where the gold text has "order by" anywhere; columns
        may stand in any order; two empty results are equal whatever their columns; "value" in a candidate is "1". A
        statement that would write is not run, and counts as the empty result it would have there. Unlike there, a deadline
        holds.
        **Raises** `DataError` where the gold query does not run.
        """
        mine = _respaced(candidate.replace("value", "1"))
        label = _respaced(gold)
        ordered = "order by" in label.lower()
        mine, label = (YEAR.sub("2020", without_distinct(text)) for text in (mine, label))
        for database in databases:
            wanted = self._wanted(label, database)
            found = self.runner.execute(mine, self.seconds, database=database)
            if not found.ok and found.code != "write":
                return False
            if not official_rows(_without_halves(wanted.rows), _without_halves(found.rows), ordered=ordered):
                return False
        return True

    def strict(self, candidate: str, gold: str, databases: Sequence[str | None] = (None,)) -> bool:
        """Whether the candidate runs and gives the gold query's rows.

        As `official`, but: both queries run as they stand; order counts where the outermost gold query has ORDER BY; empty
        results must have as many columns; and what is refused is wrong.
        **Raises** `DataError` where the gold query does not run.
        """
        ordered = is_ordered(gold)
        for database in databases:
            wanted = self._wanted(gold, database)
            found = self.runner.execute(candidate, self.seconds, database=database)
            if not found.ok or len(found.columns) != len(wanted.columns):
                return False
            if not same_rows(wanted.rows, found.rows, ordered=ordered):
                return False
        return True

    def close(self) -> None:
        """End the runner's processes."""
        self.runner.close()

    def _wanted(self, gold: str, database: str | None) -> Result:
        if (gold, database) not in self._gold:
            self._gold[gold, database] = self.runner.execute(gold, self.seconds, database=database)
        result = self._gold[gold, database]
        if not result.ok:
            place = f" on database '{database}'" if database else ""
            raise DataError(
                f"the gold query {gold!r} gives no rows{place}: {result.reason}; mend it or leave the item out"
            )
        return result


def official_rows(wanted: Sequence[Row], found: Sequence[Row], *, ordered: bool) -> bool:
    """Whether the scorer calls two results equal: as `same_rows`, but that two empty ones are, and that a row's cells,
    sorted as its text and type, must agree before any order of columns is tried."""
    if not wanted and not found:
        return True
    if len(wanted) != len(found) or len(wanted[0]) != len(found[0]):
        return False
    mine, other = (
        [tuple(sorted(row, key=lambda cell: str(cell) + str(type(cell)))) for row in rows] for rows in (wanted, found)
    )
    if (mine != other) if ordered else (set(mine) != set(other)):
        return False
    return same_rows(wanted, found, ordered=ordered)


def same_rows(wanted: Sequence[Row], found: Sequence[Row], *, ordered: bool) -> bool:
    """Whether some order of columns makes two results equal, as bags of rows, or as lists where `ordered`.

    >>> same_rows([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], ordered=False)
    True
    """
    if len(wanted) != len(found):
        return False
    if not wanted:
        return True
    if len(wanted[0]) != len(found[0]):
        return False
    left, right = list(zip(*wanted, strict=True)), list(zip(*found, strict=True))
    if ordered:
        return Counter(left) == Counter(right)
    return _matches(left, right, [0] * len(wanted), [0] * len(found))


def _matches(
    left: Sequence[tuple[Cell, ...]], right: Sequence[tuple[Cell, ...]], mine: Sequence[int], other: Sequence[int]
) -> bool:
    """Extend a matching of columns under which the rows so far, numbered by their content, are equal bags."""
    if not left:
        return True
    first, rest = left[0], left[1:]
    tried: set[tuple[Cell, ...]] = set()
    for index, column in enumerate(right):
        if column in tried:
            continue
        tried.add(column)
        numbers: dict[tuple[int, Cell], int] = {}
        extended = [numbers.setdefault(key, len(numbers)) for key in zip(mine, first, strict=True)]
        opposite = [numbers.get(key, -1) for key in zip(other, column, strict=True)]
        if Counter(extended) == Counter(opposite) and _matches(
            rest, [*right[:index], *right[index + 1 :]], extended, opposite
        ):
            return True
    return False


def is_ordered(gold: str) -> bool:
    """Whether the outermost query has ORDER BY; by its text where sqlglot cannot parse it."""
    try:
        tree = sqlglot.parse_one(gold, read="sqlite")
    except (SqlglotError, RecursionError):
        return "order by" in gold.lower()
    return isinstance(tree, exp.Query) and tree.args.get("order") is not None


def _respaced(text: str) -> str:
    return text.replace("> =", ">=").replace("< =", "<=").replace("! =", "!=")


def _without_halves(rows: Sequence[Row]) -> list[Row]:
    """Bytes that are no UTF-8 are left out, as the scorer does."""
    return [
        tuple(cell.encode(errors="ignore").decode() if isinstance(cell, str) else cell for cell in row) for row in rows
    ]

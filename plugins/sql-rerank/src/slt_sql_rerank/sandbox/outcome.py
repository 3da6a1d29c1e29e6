"""What became of a statement."""

from __future__ import annotations

from typing import Literal, NamedTuple

Code = Literal["ok", "text", "error", "write", "refused", "limit", "memory", "time", "crash"]
"""`text`: refused before any parser; `error`: no valid SQL here; `write`: would change or reach something; `refused`: a
function, table or kind of statement that is not allowed; `limit`, `memory`, `time`: too large or too slow; `crash`: the
process ended."""

Cell = int | float | str | bytes | None


class Verdict(NamedTuple):
    """Whether a statement may run: it is one query, valid here, and uses nothing that is not allowed.

    `reads` are the (table, column) pairs it reads, in their own spelling and in order, "" for a table of which no column is
    read; those that only a view reads are not among them. `functions` are those it calls.
    """

    ok: bool
    code: Code
    reason: str
    reads: tuple[tuple[str, str], ...] = ()
    functions: tuple[str, ...] = ()


class Result(NamedTuple):
    """Rows of a statement that ran to its end, or why there are none; `seconds` is what the caller waited."""

    ok: bool
    code: Code
    reason: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    seconds: float = 0.0


class Field(NamedTuple):
    """A column as its table declares it: `key` is its place in the primary key from 1, or 0; `made` whether it is generated."""

    name: str
    type: str
    key: int
    notnull: bool
    made: bool


class Declared(NamedTuple):
    """A table or view of a file, the statement that made it, its columns, and its foreign keys: number of the key, other table,
    column here, column there or None for the other's primary key."""

    name: str
    is_view: bool
    sql: str
    columns: tuple[Field, ...]
    keys: tuple[tuple[int, str, str, str | None], ...] = ()

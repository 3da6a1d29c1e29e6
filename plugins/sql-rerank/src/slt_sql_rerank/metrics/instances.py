"""Further databases of one schema, with other rows, on which queries that only look right differ from gold queries."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from slt_sql_rerank.filling import Filling, fill
from slt_sql_rerank.metrics.execution import WIDE
from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.precheck import refusal
from slt_sql_rerank.sandbox.sandbox import Sandbox
from slt_sql_rerank.schema import Column, Schema, from_declared
from sltcore.errors import DataError, SpecError

MOST_VALUES = 2000
"""Of one column that are read from the source."""
LONGEST = 10_000
"""Characters of such a value."""
READ_SECONDS = 30.0
HALF = re.compile("[\ud800-\udfff]")
"""What stands for bytes that are no UTF-8, which no statement can write."""
READING = replace(WIDE, value_bytes=64 << 20, sql_bytes=1 << 20)


def make_instances(
    source: str | Path, folder: str | Path, *, count: int, queries: Iterable[str] = (), rows: int = 30, seed: int = 0
) -> tuple[Path, ...]:
    """Write `count` SQLite files with the tables and views of `source` and random rows, `folder/NAME-fuzzed-NUMBER.sqlite`.

    A column's values are drawn, for each file anew, from a few of the source's own, of the literals that `queries` compare it
    with and their neighbours (one more, one less, a letter more), and of random ones of its type; foreign keys refer to rows
    that are there, but a few; columns that may be NULL sometimes are. A table has up to `rows` rows, and sometimes none.
    Uniqueness and checks hold, as rows that break them are left out, and so are rows of more than 100,000 bytes. Triggers and
    virtual tables are not made. The source is read in a sandbox; its checks and defaults run on the made rows in a process
    that ends after a minute and two seconds for each file, and call only what candidates may, and random().

    **Source**: after the fuzzing of Zhong, Yu & Klein, EMNLP 2020, arXiv:2010.02840, section 3. These files are not
    distilled: `distilled` chooses among them.
    **Raises** `DataError` where the source cannot be read, or its tables cannot be made again.
    """
    if count < 1 or rows < 1:
        raise SpecError(f"{count} instances of up to {rows} rows were asked for; expected at least 1 and 1")
    with Sandbox(source, READING, spare=False) as opened:
        declared = opened.tables()
        schema = from_declared(declared, Path(source).stem)
        made = [
            (entry.name, entry.sql)
            for entry in sorted(declared, key=lambda entry: entry.is_view)
            if not entry.sql.upper().startswith("CREATE VIRTUAL")
        ]
        pools = {(c.table.lower(), c.name.lower()): _values(opened, schema, c) for c in schema.columns}
    _add_literals(pools, queries)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    files = [place / f"{Path(source).stem}-fuzzed-{number:03d}.sqlite" for number in range(count)]
    fill(Filling(tuple(map(str, files)), schema, tuple(made), pools, rows, seed))
    return tuple(files)


def _values(opened: Sandbox, schema: Schema, column: Column) -> list[Any]:
    if schema.table(column.table).is_view:
        return []
    table, name = (f'"{word.replace(chr(34), chr(34) * 2)}"' for word in (column.table, column.name))
    where = f"{name} IS NOT NULL AND length({name}) <= {LONGEST}"
    result = opened.execute(f"SELECT DISTINCT {name} FROM {table} WHERE {where} LIMIT {MOST_VALUES}", READ_SECONDS)
    if not result.ok:
        raise DataError(f"column {column.table}.{column.name} cannot be read: {result.reason}")
    return [row[0] for row in result.rows if not (isinstance(row[0], str) and HALF.search(row[0]))]


def _add_literals(pools: Mapping[tuple[str, str], list[Any]], queries: Iterable[str]) -> None:
    """Literals go to every column of the name that they are compared with, and each goes with its neighbours."""
    named: dict[str, list[list[Any]]] = defaultdict(list)
    for (_, name), pool in pools.items():
        named[name].append(pool)
    added: dict[int, list[Any]] = defaultdict(list)
    for query in queries:
        for names, literals in _compared(query):
            texts = [(name, True) for name in names if name.lower() not in named]  # text in double quotes
            values = [near for text, is_string in (*texts, *literals) for near in _neighbours(text, is_string)]
            for name in names:
                for pool in named.get(name.lower(), ()):
                    kinds = {str if isinstance(value, str) else float for value in pool}
                    added[id(pool)] += [
                        v for v in values if not kinds or (str if isinstance(v, str) else float) in kinds
                    ]
    for pool in pools.values():
        pool += 3 * added[id(pool)]  # so that they are among the few that are drawn


def _compared(query: str) -> Iterator[tuple[list[str], list[tuple[str, bool]]]]:
    """Of each condition of a query its columns, and its literals and whether they are strings; nothing of what is no SQL."""
    if refusal(query, Limits()) is not None:
        return
    try:
        tree = sqlglot.parse_one(query, read="sqlite")
    except (SqlglotError, RecursionError, ValueError):
        return
    for condition in tree.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like, exp.In, exp.Between):
        place = condition.find_ancestor(exp.Select)
        inside = [node for node in condition.walk() if node.find_ancestor(exp.Select) is place]
        columns = [node.name for node in inside if isinstance(node, exp.Column)]
        yield columns, [(node.this, node.is_string) for node in inside if isinstance(node, exp.Literal)]


def _neighbours(text: str, is_string: bool) -> list[Any]:
    if is_string:
        bare = text.strip("%").replace("%", " ").replace("_", "a")
        return [bare, bare, f"{bare}a", f"a{bare}", bare.swapcase(), *([bare[:-1]] if bare else [])]
    number = float(text)
    whole = int(number) if number.is_integer() and abs(number) < 2**53 else number
    return [whole, whole, whole + 1, whole - 1]

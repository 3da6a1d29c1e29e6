"""Further databases of one schema, with other rows, on which queries that only look right differ from gold queries."""

from __future__ import annotations

import random
import sqlite3
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.precheck import refusal
from slt_sql_rerank.schema import Column, Schema, Table, connected, from_sqlite
from sltcore.errors import DataError, SpecError

Pool = Sequence[Any]
MOST_VALUES = 2000
"""Of one column that are read from the source."""
NULLS = 0.08
STRANGERS = 0.05
"""Share of foreign keys that refer to nothing."""


def make_instances(
    source: str | Path, folder: str | Path, *, count: int, queries: Iterable[str] = (), rows: int = 30, seed: int = 0
) -> tuple[Path, ...]:
    """Write `count` SQLite files with the tables and views of `source` and random rows, `folder/NAME-fuzzed-NUMBER.sqlite`.

    A column's values are drawn, for each file anew, from a few of the source's own, of the literals that `queries` compare it
    with and their neighbours (one more, one less, a letter more), and of random ones of its type; foreign keys refer to rows
    that are there, but a few; columns that may be NULL sometimes are. A table has up to `rows` rows, and sometimes none.
    Uniqueness and checks hold, as rows that break them are left out. Triggers and virtual tables are not made.

    **Source**: after the fuzzing of Zhong, Yu & Klein, EMNLP 2020, arXiv:2010.02840, section 3. These files are not
    distilled: `distilled` chooses among them.
    **Raises** `DataError` where the source cannot be read, or its tables cannot be made again.
    """
    if count < 1 or rows < 1:
        raise SpecError(f"{count} instances of up to {rows} rows were asked for; expected at least 1 and 1")
    schema = from_sqlite(source)
    with closing(connected(source)) as opened:
        opened.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        made = opened.execute(
            "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
            "AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY type, rowid"
        ).fetchall()
        pools = {(c.table.lower(), c.name.lower()): _values(opened, schema, c) for c in schema.columns}
    _add_literals(pools, queries)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        file = place / f"{Path(source).stem}-fuzzed-{number:03d}.sqlite"
        file.unlink(missing_ok=True)
        _write(file, schema, made, pools, rows, random.Random(f"{seed} {schema.name} {number}"))
        found.append(file)
    return tuple(found)


def _values(opened: sqlite3.Connection, schema: Schema, column: Column) -> list[Any]:
    if schema.table(column.table).is_view:
        return []
    table, name = (f'"{word.replace(chr(34), chr(34) * 2)}"' for word in (column.table, column.name))
    try:
        rows = opened.execute(f"SELECT DISTINCT {name} FROM {table} WHERE {name} IS NOT NULL LIMIT {MOST_VALUES}")
        return [row[0] for row in rows]
    except sqlite3.Error as error:
        raise DataError(f"column {column.table}.{column.name} cannot be read: {error}") from error


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


def _write(
    file: Path,
    schema: Schema,
    made: Sequence[tuple[str, str]],
    pools: Mapping[tuple[str, str], Pool],
    rows: int,
    draw: Any,
) -> None:
    kept: dict[tuple[str, str], list[Any]] = {}
    with closing(sqlite3.connect(file)) as written:
        written.execute("PRAGMA synchronous = OFF")
        for name, sql in made:
            try:
                written.execute(sql)
            except sqlite3.Error as error:
                raise DataError(f"table '{name}' of database '{schema.name}' cannot be made again: {error}") from error
        for table in _parents_first(schema):
            if table.is_view or not any(name == table.name for name, _ in made):
                continue
            size = 0 if draw.random() < 0.03 else draw.randint(1, rows)
            info = written.execute(
                'SELECT name, "notnull", hidden FROM pragma_table_xinfo(?)', (table.name,)
            ).fetchall()
            writable = [(name, bool(notnull)) for name, notnull, hidden in info if not hidden]
            columns = [_column(schema, table, name, notnull, pools, kept, size, draw) for name, notnull in writable]
            names = ", ".join('"' + name.replace('"', '""') + '"' for name, _ in writable)
            marks = ", ".join("?" * len(writable))
            title = table.name.replace('"', '""')
            for row in zip(*columns, strict=True):
                with suppress(sqlite3.IntegrityError):  # text in an INTEGER PRIMARY KEY
                    written.execute(f'INSERT OR IGNORE INTO "{title}" ({names}) VALUES ({marks})', row)
            for name, _ in writable:
                quoted = name.replace('"', '""')
                kept[table.name.lower(), name.lower()] = [
                    row[0] for row in written.execute(f'SELECT "{quoted}" FROM "{title}" WHERE "{quoted}" IS NOT NULL')
                ]
        written.commit()


def _parents_first(schema: Schema) -> list[Table]:
    """Tables after those that their keys refer to, where keys do not go in circles."""
    left, done = list(schema.tables), []
    while left:
        waiting = {table.name.lower() for table in left}
        free = [
            table
            for table in left
            if not any(
                key.other_table.lower() in waiting - {table.name.lower()}
                for key in schema.foreign_keys
                if key.table.lower() == table.name.lower()
            )
        ] or left[:1]
        done += free
        left = [table for table in left if table not in free]
    return done


def _column(
    schema: Schema,
    table: Table,
    name: str,
    notnull: bool,
    pools: Mapping[tuple[str, str], Pool],
    kept: Mapping[tuple[str, str], list[Any]],
    size: int,
    draw: Any,
) -> list[Any]:
    """`size` values of one column."""
    column = schema.column(table.name, name)
    place = (table.name.lower(), name.lower())
    parents = [
        kept.get((key.other_table.lower(), there.lower()), [])
        for key in schema.foreign_keys
        if key.table.lower() == place[0]
        for here, there in zip(key.columns, key.other_columns, strict=True)
        if here.lower() == place[1]
    ]
    alone = column.primary and len(table.primary_key) == 1
    pool = [*pools[place], *(_random(column, pools[place], draw) for _ in range(5))]
    if alone and not parents:
        unique = list(dict.fromkeys([*pool, *(_random(column, pools[place], draw) for _ in range(2 * size))]))
        return [draw.choice(unique) for _ in range(size)] if len(unique) < size else draw.sample(unique, size)
    few = draw.sample(pool, min(len(pool), draw.choice([2, 4, 8, 16, 64])))
    found = []
    for _ in range(size):
        owner = next((values for values in parents if values), None)
        if owner is not None and draw.random() > STRANGERS:
            found.append(draw.choice(owner))
        elif not (notnull or column.primary) and draw.random() < NULLS:
            found.append(None)
        else:
            found.append(draw.choice(few))
    return found


def _random(column: Column, pool: Pool, draw: Any) -> Any:
    """A value like those of the column; of its declared type where it has none."""
    like = draw.choice(pool) if pool else None
    if isinstance(like, float):
        return round(like * draw.uniform(0.5, 1.5), draw.choice([0, 1, 2]))
    if isinstance(like, int):
        return like + draw.choice([-7, -1, 1, 2, 10]) if draw.random() < 0.7 else draw.randint(0, 100)
    if isinstance(like, str) and like:
        place = draw.randrange(len(like))
        return (
            like[:place]
            + draw.choice(string.digits if like[place].isdigit() else string.ascii_letters)
            + like[place + 1 :]
        )
    if column.family in ("number", "boolean"):
        return draw.randint(0, 1 if column.family == "boolean" else 100)
    if column.family == "time":
        return f"{draw.randint(1950, 2030)}-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}"
    return "".join(draw.choice(string.ascii_lowercase) for _ in range(draw.randint(1, 8)))

"""The rows of made databases, written by a process of its own: what a stranger's declarations call can hang in one call."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import signal
import sqlite3
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from slt_sql_rerank.sandbox.limits import FUNCTIONS
from slt_sql_rerank.schema import Column, Schema, Table
from sltcore.errors import DataError, SltError

Pool = Sequence[Any]
NULLS = 0.08
STRANGERS = 0.05
"""Share of foreign keys that refer to nothing."""
ROW_BYTES = 100_000
MEMORY_BYTES = 512 << 20
SECONDS = 60.0
FILE_SECONDS = 2.0
"""For each file, beside `SECONDS` for all."""
DENIED = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_CREATE_VTABLE)
CALLED = FUNCTIONS | {"random", "randomblob"}
"""Functions that checks, defaults and generated columns of a made file may call."""


class Filling(NamedTuple):
    """What files are made of: tables and views by name and statement, and values by column, names in lower case."""

    files: tuple[str, ...]
    schema: Schema
    made: tuple[tuple[str, str], ...]
    pools: Mapping[tuple[str, str], Pool]
    rows: int
    seed: int


def fill(order: Filling) -> None:
    """Write the files, in another process.

    **Raises** `DataError` where the tables cannot be made again or filled, or not in time.
    """
    seconds = SECONDS + FILE_SECONDS * len(order.files)
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import main; main({seconds})"],
            input=pickle.dumps(order),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            timeout=seconds,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        name = order.schema.name
        raise DataError(f"database '{name}' cannot be made again: it was not done in {seconds:g} s") from None
    if done.returncode != 0 or not done.stdout:
        raise DataError(
            f"database '{order.schema.name}' cannot be made again: the process ended with code {done.returncode}"
        )
    problem = json.loads(done.stdout)
    if problem is not None:
        raise DataError(problem)


def main(seconds: float) -> None:
    """Answer one `fill`: null or a problem as JSON on standard output; end a little later than asked, if nobody waits."""
    signal.setitimer(signal.ITIMER_REAL, seconds + 1.0)
    order: Filling = pickle.loads(sys.stdin.buffer.read())
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    problem = None
    try:
        for number, file in enumerate(order.files):
            Path(file).unlink(missing_ok=True)
            _write(Path(file), order, random.Random(f"{order.seed} {order.schema.name} {number}"))
    except MemoryError:
        problem = f"database '{order.schema.name}' cannot be filled: it needs more than {MEMORY_BYTES >> 20} MiB"
    except (SltError, OSError) as error:
        problem = str(error)
    sys.stdout.write(json.dumps(problem))


def _write(file: Path, order: Filling, draw: random.Random) -> None:
    with closing(sqlite3.connect(file)) as written:
        written.execute("PRAGMA synchronous = OFF")
        written.execute("PRAGMA trusted_schema = OFF")
        written.set_authorizer(_allowed)
        for name, sql in order.made:
            try:
                written.execute(sql)
            except sqlite3.Error as error:
                raise DataError(
                    f"table '{name}' of database '{order.schema.name}' cannot be made again: {error}"
                ) from error
        written.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, ROW_BYTES)
        try:
            _fill(written, order, draw)
        except sqlite3.Error as error:
            raise DataError(f"database '{order.schema.name}' cannot be filled: {error}") from error
        written.commit()


def _allowed(action: int, first: str | None, second: str | None, *_: object) -> int:
    strange = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in CALLED
    return sqlite3.SQLITE_DENY if strange or action in DENIED else sqlite3.SQLITE_OK


def _fill(written: sqlite3.Connection, order: Filling, draw: random.Random) -> None:
    kept: dict[tuple[str, str], list[Any]] = {}
    schema, made = order.schema, {name for name, _ in order.made}
    for table in _parents_first(schema):
        if table.is_view or table.name not in made:
            continue
        size = 0 if draw.random() < 0.03 else draw.randint(1, order.rows)
        info = written.execute('SELECT name, "notnull", hidden FROM pragma_table_xinfo(?)', (table.name,)).fetchall()
        writable = [(name, bool(notnull)) for name, notnull, hidden in info if not hidden]
        columns = [_column(schema, table, name, notnull, order.pools, kept, size, draw) for name, notnull in writable]
        names = ", ".join('"' + name.replace('"', '""') + '"' for name, _ in writable)
        marks = ", ".join("?" * len(writable))
        title = table.name.replace('"', '""')
        for row in zip(*columns, strict=True):
            with suppress(sqlite3.IntegrityError, sqlite3.DataError):  # text in an INTEGER PRIMARY KEY; too large
                written.execute(f'INSERT OR IGNORE INTO "{title}" ({names}) VALUES ({marks})', row)
        for name, _ in writable:
            quoted = name.replace('"', '""')
            kept[table.name.lower(), name.lower()] = [
                row[0] for row in written.execute(f'SELECT "{quoted}" FROM "{title}" WHERE "{quoted}" IS NOT NULL')
            ]


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

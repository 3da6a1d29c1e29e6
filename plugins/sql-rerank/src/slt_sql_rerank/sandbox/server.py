"""Statements of strangers against a PostgreSQL server, through a connection that can only read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from functools import cached_property
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import traverse_scope

from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.outcome import Cell, Code, Result, Verdict
from slt_sql_rerank.sandbox.precheck import refusal
from slt_sql_rerank.schema import Schema, from_engine
from sltcore.errors import DataError, SpecError

NAMES = """
    age btrim char_length character_length cbrt date_part div every initcap isfinite justify_days justify_hours
    justify_interval make_date make_interval make_time make_timestamp mod num_nonnulls num_nulls octet_length
    percentile_cont percentile_disc reverse sind cosd tand strpos to_char to_date to_number to_timestamp trunc
"""
FUNCTIONS = frozenset(NAMES.split())
"""Functions that sqlglot has no type for and that read nothing but their arguments."""

REFUSED = tuple(
    getattr(exp, name)
    for name in ("Repeat", "Pad", "GenerateSeries", "Format", "Rand", "Randn", "CurrentVersion")
    if hasattr(exp, name)
)
"""Functions that sqlglot has a type for, and that swell, draw at random, or tell about the machine."""
WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Into, exp.Lock)
RIGHTS = "pg_read_server_files", "pg_write_server_files", "pg_execute_server_program", "pg_write_all_data"
CATALOGS = "pg_catalog", "information_schema", "pg_toast"
SCHEMES = ("postgresql+psycopg", "postgresql")


def engine_of(url: str) -> Any:
    """A SQLAlchemy engine whose connections only read. **Raises** `DataError` for what is no URL of a PostgreSQL server."""
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # whose words may hold a password
        scheme = url.partition("://")[0]
        raise DataError(f"a URL that begins '{scheme}://' cannot be read; expected postgresql+psycopg://...") from None
    if parsed.drivername not in SCHEMES:
        shown = parsed.render_as_string(hide_password=True)
        raise DataError(
            f"{shown} is of kind '{parsed.drivername}'; a sandbox reads SQLite files (Sandbox) and PostgreSQL "
            f"(postgresql+psycopg://...)"
        )
    return sqlalchemy.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args={"options": "-c default_transaction_read_only=on", "connect_timeout": 10},
        pool_pre_ping=True,
    )


class ServerSandbox:
    """Checks single queries by EXPLAIN and runs them in read-only transactions with a statement timeout.

    A statement passes four doors: sqlglot reads exactly one query in it, whose functions are known; PostgreSQL takes it as
    the body of a cursor, which is one query without writes, by the protocol that refuses several statements; the
    transaction is read-only and rolled back; and the role that connects may not read or write the server's files.
    """

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        """A SQLAlchemy URL. **Raises** `DataError` for another kind of server, one that cannot be reached, and a role that
        may do more than read tables."""
        from sqlalchemy.exc import SQLAlchemyError

        self.limits = limits or Limits()
        self._engine = engine_of(url)
        shown = self._engine.url.render_as_string(hide_password=True)
        try:
            with self._cursor(10.0) as cursor:
                rights = ", ".join(f"pg_has_role(current_user, '{right}', 'MEMBER')" for right in RIGHTS)
                cursor.execute(
                    f"SELECT current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), {rights}"
                )
                user, *held = cursor.fetchone()
        except SQLAlchemyError as error:
            raise DataError(f"{shown} cannot be reached: {_one_line(error.__cause__ or error)}") from error
        for right, has in zip(("superuser", *RIGHTS), held, strict=True):
            if has:
                raise DataError(
                    f"role '{user}' of {shown} is {'a' if right == 'superuser' else 'a member of'} {right}, who reaches more "
                    f"than tables; connect as a role that has SELECT on the tables only"
                )

    @cached_property
    def schema(self) -> Schema:
        """Tables and keys, read once."""
        return from_engine(self._engine)

    def check(self, sql: str, *, seconds: float | None = None) -> Verdict:
        """Whether it is one query that may run here; it is planned, and not run."""
        limit = self.limits.check_seconds if seconds is None else seconds
        parsed = self._parsed(sql)
        if isinstance(parsed, Verdict):
            return parsed
        try:
            with self._cursor(limit) as cursor:
                cursor.execute("EXPLAIN " + sql, prepare=True)
        except Exception as error:
            code, reason = _failure(error, limit)
            return Verdict(False, code, reason)
        functions = tuple(dict.fromkeys(found.sql_name().lower() for found in parsed.find_all(exp.Func)))
        return Verdict(True, "ok", "", reads(parsed, self.schema), functions)

    def check_all(self, statements: Sequence[str], *, seconds: float | None = None) -> list[Verdict]:
        """`check` of each; `seconds` for each."""
        return [self.check(sql, seconds=seconds) for sql in statements]

    def execute(self, sql: str, deadline: float | None = None) -> Result:
        """Its rows, or why there are none; the server ends it at `deadline` seconds."""
        limit = self.limits.seconds if deadline is None else deadline
        started = time.monotonic()
        parsed = self._parsed(sql)
        if isinstance(parsed, Verdict):
            return Result(False, parsed.code, parsed.reason)
        try:
            with self._cursor(limit, name="candidate") as cursor:
                cursor.execute(sql)
                columns = tuple(entry.name for entry in cursor.description or ())
                most = min(self.limits.rows, self.limits.cells // max(1, len(columns)))
                rows: list[tuple[Cell, ...]] = []
                size = 0
                while part := cursor.fetchmany(500):
                    rows += (tuple(map(_cell, row)) for row in part)
                    size += sum(len(cell) if isinstance(cell, str | bytes) else 8 for row in part for cell in row)
                    if len(rows) > most or size > self.limits.result_bytes:
                        over = f"{most} rows" if len(rows) > most else f"{self.limits.result_bytes} bytes"
                        waited = time.monotonic() - started
                        return Result(False, "limit", f"the result has more than {over}", seconds=waited)
                    if time.monotonic() - started > limit:
                        raise TimeoutError
        except Exception as error:
            code, reason = _failure(error, limit)
            return Result(False, code, reason, seconds=time.monotonic() - started)
        return Result(True, "ok", "", columns, tuple(rows), time.monotonic() - started)

    def _parsed(self, sql: str) -> exp.Query | Verdict:
        refused = refusal(sql, self.limits)
        if refused is not None:
            return refused
        try:
            found = [entry for entry in sqlglot.parse(sql, read="postgres") if entry is not None]
        except (SqlglotError, RecursionError) as error:
            return Verdict(False, "error", _one_line(error))
        if len(found) != 1:
            return Verdict(False, "refused", f"there are {len(found)} statements; expected one SELECT")
        (query,) = found
        writes = next(query.find_all(*WRITES), None) if isinstance(query, exp.Query) else query
        if not isinstance(query, exp.Query) or writes is not None:
            return Verdict(False, "write", f"{(writes or query).key.upper()} is refused: the sandbox only reads")
        for node in query.find_all(exp.Anonymous, *REFUSED):
            name = node.name.lower() if isinstance(node, exp.Anonymous) else node.sql_name().lower()
            if not isinstance(node, exp.Anonymous) or name not in FUNCTIONS:
                return Verdict(False, "refused", f"function '{name}' is not on the list of allowed ones")
        for found_table in query.find_all(exp.Table):
            place, name = found_table.db.lower(), found_table.name
            if place in CATALOGS or (name.lower().startswith("pg_") and name not in self.schema):
                return Verdict(False, "refused", f"table '{name}' is not one of the database's own")
        return query

    @contextmanager
    def _cursor(self, seconds: float, name: str = "") -> Iterator[Any]:
        if not seconds > 0:
            raise SpecError(f"the deadline is {seconds} s; expected more than 0")
        with self._engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.rollback()
            raw.read_only = True
            try:
                raw.execute(f"SET LOCAL statement_timeout = {max(1, int(1000 * seconds))}")
                with raw.cursor(name) if name else raw.cursor() as cursor:
                    yield cursor
            finally:
                if not raw.closed:
                    raw.rollback()

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()


def reads(query: exp.Query, schema: Schema, dialect: str = "postgres") -> tuple[tuple[str, str], ...]:
    """The (table, column) pairs that a query reads, in order; none where its columns cannot be told apart."""
    try:
        qualified = qualify(query.copy(), dialect=dialect, schema=schema.mapping, validate_qualify_columns=False)
    except (SqlglotError, RecursionError):
        return ()
    found: dict[tuple[str, str], None] = {}
    for scope in traverse_scope(qualified):
        for column in scope.columns:
            source = scope.sources.get(column.table)
            if isinstance(source, exp.Table):
                found[source.name, column.name] = None
    return tuple(found)


def _cell(value: Any) -> Cell:
    """A value of the server as one of five types."""
    if value is None or isinstance(value, float | str | bytes):
        return value
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, datetime | date | clock):
        return value.isoformat(*(" ",) if isinstance(value, datetime) else ())
    return str(value) if not isinstance(value, timedelta) else str(value.total_seconds())


def _failure(error: Exception, seconds: float) -> tuple[Code, str]:
    state = getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
    if state == "57014" or isinstance(error, TimeoutError):
        return "time", f"it did not end within {seconds:g} s"
    if state == "25006":
        return "write", f"{_one_line(error)}: the sandbox only reads"
    if state in ("42501", "0A000"):
        return "refused", _one_line(error)
    if isinstance(error, SpecError):
        raise error
    return "error", _one_line(error)


def _one_line(error: object) -> str:
    return str(error).strip().split("\n")[0]

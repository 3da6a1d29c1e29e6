"""What a call's `database` stands for: its schema, and a sandbox that runs candidates on it."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, Self

from slt_sql_rerank.files import stamp
from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.locks import ForkedLock
from slt_sql_rerank.sandbox.outcome import Result, Verdict
from slt_sql_rerank.schema import Schema, from_spider, from_sqlite
from sltcore.context import per_utterance
from sltcore.errors import ContextError, DataError, did_you_mean
from sltcore.types import ContextKey

DATABASE = ContextKey(
    "database",
    "any",
    "what the candidates query: a SQLite file, a SQLAlchemy URL, FILE.json#NAME for a schema alone, or a Schema",
)
SPIDER = ".json"
MOST_OPEN = 4


class Runs(Protocol):
    """What checks and runs statements; `Sandbox` and `ServerSandbox` do."""

    def check_all(self, statements: Any, *, seconds: float | None = None) -> list[Verdict]:
        """Whether each may run."""

    def execute(self, sql: str, deadline: float | None = None) -> Result:
        """Its rows, or why there are none."""

    def close(self) -> None:
        """End its processes and connections."""


def given(context: Mapping[str, Any], batch: int = 1) -> list[Any]:
    """The database of each of `batch` questions; None where the call names none."""
    return [None if value == "" else value for value in per_utterance(context, DATABASE, batch)]


def schema_of(database: Any) -> Schema | None:
    """The schema behind a context value, read once as long as its file stays the same; None for None.

    **Raises** `ContextError` for a value of another type, `DataError` where it cannot be read.
    """
    if database is None or isinstance(database, Schema):
        return database
    text = _text(database)
    if is_url(text):
        return _of_server(text)
    file, _, name = text.partition(f"{SPIDER}#")
    if name:
        return _described(Path(file + SPIDER), name)
    path = Path(text)
    if not path.is_file():
        raise DataError(f"{path} is no file; context 'database' expects a SQLite file, a URL, or FILE.json#NAME")
    return _of_file(path, stamp(path))


def has_rows(database: Any) -> bool:
    """Whether a context value is a database and not a schema alone."""
    return database is not None and not isinstance(database, Schema) and f"{SPIDER}#" not in str(database)


def is_url(text: str) -> bool:
    """Whether a text is a SQLAlchemy URL."""
    return "://" in text


def _text(database: Any) -> str:
    if not isinstance(database, str | Path):
        raise ContextError(
            f"context 'database' is a {type(database).__name__}; expected a path, a URL, FILE.json#NAME, or a Schema"
        )
    return str(database)


@lru_cache(maxsize=512)
def _of_file(path: Path, changed: tuple[int, ...]) -> Schema:
    return from_sqlite(path)


@lru_cache(maxsize=16)
def _of_server(url: str) -> Schema:
    from slt_sql_rerank.sandbox.server import engine_of

    engine = engine_of(url)
    try:
        return from_engine_of(engine, url)
    finally:
        engine.dispose()


def from_engine_of(engine: Any, url: str) -> Schema:
    """The schema behind an engine. **Raises** `DataError` where the server cannot be reached."""
    from sqlalchemy.exc import SQLAlchemyError

    from slt_sql_rerank.schema import from_engine

    try:
        return from_engine(engine)
    except SQLAlchemyError as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise DataError(f"{shown} cannot be reached: {str(error).strip().splitlines()[0]}") from error


def _described(path: Path, name: str) -> Schema:
    if not path.is_file():
        raise DataError(f"{path} is no file; expected schemas in Spider's format")
    entries = _entries(path, path.stat().st_mtime_ns)
    if name not in entries:
        raise DataError(f"{path} describes no database '{name}'.{did_you_mean(name, entries)}")
    return entries[name]


@lru_cache(maxsize=8)
def _entries(path: Path, changed: int) -> Mapping[str, Schema]:
    try:
        return {entry["db_id"]: from_spider(entry) for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is not in the format of Spider's tables.json: {error}") from error


class Sandboxes:
    """Sandboxes by database, the last few kept warm.

    A context manager; its processes also end with the program. Works from any thread; a copy, or what another process
    unpickles, starts with none open.
    """

    def __init__(self, limits: Limits | None = None, *, most_open: int = MOST_OPEN) -> None:
        self.limits = limits or Limits()
        self.most_open = most_open
        self._open: OrderedDict[str, Runs] = OrderedDict()
        self._lock = ForkedLock()

    def of(self, database: Any) -> Runs:
        """The sandbox of a context value. **Raises** `ContextError` where there is nothing to run on, `DataError` where it
        cannot be opened."""
        if database is None or isinstance(database, Schema) or f"{SPIDER}#" in str(database):
            what = "no database" if database is None else "a schema without rows"
            raise ContextError(f"context 'database' names {what}; candidates run on a SQLite file or a SQLAlchemy URL")
        text = _text(database)
        key = text if is_url(text) else str(Path(text).absolute())
        old = []
        with self._lock:
            found = self._open.get(key)
            if found is None:
                found = self._open[key] = self._opened(text)
            self._open.move_to_end(key)
            while len(self._open) > self.most_open:
                old.append(self._open.popitem(last=False)[1])
        for sandbox in old:  # each waits for its last statement
            sandbox.close()
        return found

    def _opened(self, text: str) -> Runs:
        if is_url(text):
            from slt_sql_rerank.sandbox.server import ServerSandbox

            return ServerSandbox(text, self.limits)
        from slt_sql_rerank.sandbox.sandbox import Sandbox

        return Sandbox(text, self.limits)

    def close(self) -> None:
        """End them all; they start again where they are asked for again."""
        with self._lock:
            old = [*self._open.values()]
            self._open.clear()
        for sandbox in old:
            sandbox.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), most_open=self.most_open), (self.limits,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

"""What a metric of SQL compares with: a gold query and the database it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from slt_sql_rerank.databases import schema_of
from slt_sql_rerank.schema import Schema
from sltcore.errors import DataError
from sltcore.types import Hypothesis, NBest

SUFFIXES = (".sqlite", ".db", ".sqlite3")


class Gold(NamedTuple):
    """A gold query; `database` is a name or a path, None where the metric knows only one."""

    query: str
    database: str | None = None


def gold(item: Any) -> Gold:
    """A reference as a gold query.

    A text is SQL, or SQL, a tab and a database, as in Spider's files of gold queries. A mapping has `query`, and `database`
    or `db_id`.

    **Raises** `DataError` for anything else.

    >>> gold("SELECT name FROM singer\\tconcert_singer")
    Gold(query='SELECT name FROM singer', database='concert_singer')
    """
    if isinstance(item, str):
        query, _, database = item.partition("\t")
        return Gold(query, database.strip() or None)
    if isinstance(item, Gold):
        return item
    if isinstance(item, Mapping) and isinstance(item.get("query"), str):
        database = item.get("database", item.get("db_id"))
        return Gold(item["query"], None if database is None else str(database))
    raise DataError(
        f"a reference is {type(item).__name__} {repr(item)[:60]}; expected SQL, SQL and a database behind a tab, or a "
        f"mapping with 'query' and 'database'"
    )


def candidate(item: Any) -> str:
    """An output as SQL: a text, a hypothesis, the first of an n-best list ("" where it is empty), or a mapping's `query`.

    **Raises** `DataError` for anything else.
    """
    if isinstance(item, str):
        return item
    if isinstance(item, NBest):
        return item[0].text if len(item) else ""
    if isinstance(item, Hypothesis):
        return item.text
    if isinstance(item, Mapping) and isinstance(item.get("query"), str):
        return str(item["query"])
    raise DataError(
        f"an output is {type(item).__name__} {repr(item)[:60]}; expected SQL, a hypothesis or an n-best list"
    )


class Databases:
    """Where the files of named databases are, and their schemas."""

    def __init__(self, *, folder: Path | None = None, database: str | None = None, tables: Path | None = None) -> None:
        """`folder` holds NAME.sqlite, or NAME/ with one file or a suite of them; `database` is for references that name none;
        `tables` is a file in the format of Spider's tables.json, whose schemas come before those of the files."""
        self.folder, self.database, self.tables = folder, database, tables
        self._files = lru_cache(maxsize=4096)(self._found)

    def name(self, of: Gold) -> str:
        """**Raises** `DataError` where neither the reference nor the metric names a database."""
        name = of.database or self.database
        if name is None:
            raise DataError(
                f"the gold query {of.query[:60]!r} names no database, and the metric's 'database' is not set; set it, or "
                f"give references as SQL, a tab and a database"
            )
        return name

    def suite(self, name: str) -> tuple[Path, ...]:
        """Every file of a database, in order of their names, the one that is named like it first.

        **Raises** `DataError` where there is none.
        """
        return self._files(name)

    def file(self, name: str) -> Path:
        """The one file, or the one named like the database. **Raises** `DataError` where there is none."""
        return self.suite(name)[0]

    def schema(self, name: str) -> Schema:
        """**Raises** `DataError` where there is none."""
        if self.tables is not None:
            found: Schema | None = schema_of(f"{self.tables}#{name}")
        else:
            found = schema_of(self.file(name))
        assert found is not None
        return found

    def _found(self, name: str) -> tuple[Path, ...]:
        places = [Path(name)] if self.folder is None else [self.folder / name, Path(name)]
        for place in places:
            if place.is_file():
                return (place,)
            beside = [place.with_name(place.name + suffix) for suffix in SUFFIXES]
            inside = sorted(entry for entry in place.glob("*") if entry.suffix in SUFFIXES) if place.is_dir() else []
            found: Sequence[Path] = [entry for entry in beside if entry.is_file()] or sorted(
                inside, key=lambda entry: (entry.stem != place.name, entry.name)
            )
            if found:
                return tuple(found)
        raise DataError(
            f"database '{name}' has no file; looked for {', '.join(f'{p}, {p}.sqlite and {p}/*.sqlite' for p in places)}"
        )

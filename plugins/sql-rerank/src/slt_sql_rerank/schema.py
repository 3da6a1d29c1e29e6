"""What a database is made of: tables, columns, types and keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from slt_sql_rerank.sandbox.outcome import Declared
from slt_sql_rerank.sandbox.sandbox import Sandbox
from sltcore.errors import DataError, did_you_mean

FAMILIES = (
    ("boolean", re.compile(r"bool", re.IGNORECASE)),
    ("time", re.compile(r"date|time|year", re.IGNORECASE)),
    ("number", re.compile(r"int|real|floa|doub|num|dec|serial|money|bit", re.IGNORECASE)),
    ("text", re.compile(r"char|clob|text|string|enum|uuid", re.IGNORECASE)),
)


class Column(NamedTuple):
    """One column; `type` is as declared, `family` one of text, number, time, boolean, other."""

    table: str
    name: str
    type: str
    family: str
    primary: bool = False


class ForeignKey(NamedTuple):
    """`table.columns` refer to `other_table.other_columns`, one by one."""

    table: str
    columns: tuple[str, ...]
    other_table: str
    other_columns: tuple[str, ...]


class Table(NamedTuple):
    """A table or view and its columns, in the order of its declaration."""

    name: str
    columns: tuple[Column, ...]
    is_view: bool = False

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Names of the columns of the primary key."""
        return tuple(column.name for column in self.columns if column.primary)


class Schema:
    """Tables and keys of one database; names are found in any case.

    >>> schema = Schema("shop", [table("Item", [("id", "integer"), ("label", "varchar(9)")])])
    >>> schema.column("item", "LABEL").family
    'text'
    """

    def __init__(self, name: str, tables: Sequence[Table], foreign_keys: Sequence[ForeignKey] = ()) -> None:
        """**Raises** `DataError` where two tables have one name, or a key names what is not there."""
        self.name = name
        self.tables = tuple(tables)
        self.foreign_keys = tuple(foreign_keys)
        self._tables = {entry.name.lower(): entry for entry in self.tables}
        if len(self._tables) != len(self.tables):
            raise DataError(f"database '{name}' has two tables of one name among {[t.name for t in self.tables]}")
        self._columns = {(c.table.lower(), c.name.lower()): c for entry in self.tables for c in entry.columns}
        for key in self.foreign_keys:
            for side, names in ((key.table, key.columns), (key.other_table, key.other_columns)):
                for column in names:
                    self.column(side, column)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._tables

    def table(self, name: str) -> Table:
        """**Raises** `DataError` where there is none of this name."""
        try:
            return self._tables[name.lower()]
        except KeyError:
            raise DataError(
                f"database '{self.name}' has no table '{name}'; it has {', '.join(sorted(self._tables)) or 'none'}."
                f"{did_you_mean(name.lower(), self._tables)}"
            ) from None

    def column(self, table: str, name: str) -> Column:
        """**Raises** `DataError` where there is none of this name."""
        found = self._columns.get((table.lower(), name.lower()))
        if found is None:
            names = [column.name for column in self.table(table).columns]
            raise DataError(
                f"table '{table}' of database '{self.name}' has no column '{name}'; it has {', '.join(names)}."
                f"{did_you_mean(name, names)}"
            )
        return found

    def has_column(self, table: str, name: str) -> bool:
        """Whether the table has it."""
        return (table.lower(), name.lower()) in self._columns

    @property
    def columns(self) -> Iterator[Column]:
        """All columns, table by table."""
        return iter(self._columns.values())

    @cached_property
    def column_names(self) -> frozenset[str]:
        """Names of all columns in lower case."""
        return frozenset(name for _, name in self._columns)

    @cached_property
    def mapping(self) -> Any:
        """sqlglot's `MappingSchema` of it, in lower case, built once."""
        from sqlglot.schema import MappingSchema

        tables: dict[str, object] = {
            t.name.lower(): {c.name.lower(): c.type or "text" for c in t.columns} for t in self.tables
        }
        return MappingSchema(tables, dialect="sqlite", normalize=False)

    @cached_property
    def _equal(self) -> Mapping[tuple[str, str], tuple[str, str]]:
        parent: dict[tuple[str, str], tuple[str, str]] = {}

        def root(column: tuple[str, str]) -> tuple[str, str]:
            while parent.get(column, column) != column:
                column = parent[column]
            return column

        for key in self.foreign_keys:
            for here, there in zip(key.columns, key.other_columns, strict=True):
                ends = [root((key.table.lower(), here.lower())), root((key.other_table.lower(), there.lower()))]
                for end in ends:
                    parent[end] = min(ends)
        return {column: root(column) for column in parent}

    def representative(self, table: str, column: str) -> tuple[str, str]:
        """The one (table, column), in lower case, that stands for all that keys make equal to this one."""
        place = (table.lower(), column.lower())
        return self._equal.get(place, place)


def family(declared: str) -> str:
    """The family of a declared type.

    >>> family("varchar(20)"), family("DOUBLE"), family("datetime"), family("")
    ('text', 'number', 'time', 'other')
    """
    return next((name for name, pattern in FAMILIES if pattern.search(declared)), "other")


def table(
    name: str, columns: Iterable[tuple[str, str]], *, primary: Sequence[str] = (), is_view: bool = False
) -> Table:
    """A table from names and declared types of its columns."""
    keys = {column.lower() for column in primary}
    return Table(name, tuple(Column(name, c, kind, family(kind), c.lower() in keys) for c, kind in columns), is_view)


def from_sqlite(path: str | Path, *, name: str | None = None) -> Schema:
    """The schema of a SQLite file, which may be a stranger's: it is read in the sandbox's process, and not changed.

    A view that cannot be used, since something in it is gone, unsafe, or unfolds without end, has no columns; keys that name
    missing tables are left out. **Raises** `DataError` where the file cannot be read, or not in time.
    """
    with Sandbox(path, spare=False) as sandbox:
        return from_declared(sandbox.tables(), name or Path(path).stem)


def from_declared(declared: Sequence[Declared], name: str) -> Schema:
    """The schema of tables as a sandbox tells them."""
    tables = []
    for entry in declared:
        keyed = sorted((column for column in entry.columns if column.key), key=lambda column: column.key)
        columns = [(column.name, column.type) for column in entry.columns]
        primary = [column.name for column in keyed]
        tables.append(table(entry.name, columns, primary=primary, is_view=entry.is_view))
    return Schema(name, tables, [key for entry in declared for key in _sqlite_keys(entry, tables)])


def _sqlite_keys(entry: Declared, tables: Sequence[Table]) -> Iterator[ForeignKey]:
    known = {other.name.lower(): other for other in tables}
    for number in dict.fromkeys(row[0] for row in entry.keys):
        mine = [row for row in entry.keys if row[0] == number]
        other = known.get(mine[0][1].lower())
        if other is None:
            continue
        there = tuple(row[3] for row in mine if row[3] is not None) or other.primary_key
        names = {column.name.lower() for column in other.columns}
        if len(there) == len(mine) and all(column.lower() in names for column in there):
            yield ForeignKey(entry.name, tuple(row[2] for row in mine), other.name, there)


def from_spider(entry: Mapping[str, Any]) -> Schema:
    """The schema of one entry of a `tables.json` in Spider's format, keys in its order.

    **Raises** `DataError` where a field is missing.
    """
    try:
        names, columns = entry["table_names_original"], entry["column_names_original"]
        kinds, primary = entry["column_types"], entry["primary_keys"]
        pairs = [(columns[here], columns[there]) for here, there in entry["foreign_keys"]]
        name = entry["db_id"]
    except (KeyError, IndexError) as error:
        raise DataError(f"an entry of tables.json has no usable {error}; expected Spider's format") from error
    flat = {index for key in primary for index in (key if isinstance(key, list) else [key])}
    tables = []
    for number, title in enumerate(names):
        mine = [index for index, (owner, _) in enumerate(columns) if owner == number]
        keys = [columns[index][1] for index in mine if index in flat]
        tables.append(table(title, [(columns[index][1], kinds[index]) for index in mine], primary=keys))
    foreign = [ForeignKey(names[a], (left,), names[b], (right,)) for (a, left), (b, right) in pairs]
    return Schema(name, tables, foreign)


def from_engine(engine: Any, *, name: str | None = None, schema: str | None = None) -> Schema:
    """The schema behind a SQLAlchemy engine or connection, views included."""
    import sqlalchemy

    inspector = sqlalchemy.inspect(engine)
    views = set(inspector.get_view_names(schema))
    tables: list[Table] = []
    for title in [*inspector.get_table_names(schema), *sorted(views)]:
        columns = [(column["name"], str(column["type"])) for column in inspector.get_columns(title, schema)]
        primary = inspector.get_pk_constraint(title, schema).get("constrained_columns") or ()
        tables.append(table(title, columns, primary=primary, is_view=title in views))
    known = {entry.name for entry in tables}
    keys = [
        ForeignKey(entry.name, tuple(key["constrained_columns"]), key["referred_table"], tuple(key["referred_columns"]))
        for entry in tables
        if not entry.is_view
        for key in inspector.get_foreign_keys(entry.name, schema)
        if key["referred_table"] in known and key["referred_columns"]
    ]
    return Schema(name or str(engine.engine.url.database), tables, keys)

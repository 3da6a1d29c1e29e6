"""Candidates as syntax trees, read once for every component that asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import traverse_scope

from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.precheck import refusal
from slt_sql_rerank.schema import Schema

CAPS = Limits()
"""Caps on a text, which hold before sqlglot sees it."""
FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*+(\w*)", re.DOTALL)
QUERIES = ("select", "with", "values")
MOST_READ = 8192
FAILURES = (SqlglotError, RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError)
"""What sqlglot raises for texts of strangers: its own errors, and slips of its parser and optimizer."""
LONGEST_PROBLEM = 200


class Read:
    """One text as one database reads it.

    `tree` is sqlglot's tree of the query as it is written, None where there is none; then `problem` says why in one line.
    `qualified` is made when it is first asked for. Trees are shared by all who read the same text: copy one to change it.
    """

    def __init__(self, sql: str, schema: Schema, dialect: str, tree: Any, problem: str | None) -> None:
        self.sql = sql
        self.schema = schema
        self.dialect = dialect
        self.tree = tree
        self.problem = problem

    @cached_property
    def _resolved(self) -> tuple[Any, str | None]:
        if self.tree is None:
            return None, self.problem
        try:
            return qualified(self.tree, self.schema, self.dialect), None
        except FAILURES as error:
            return None, _one_line(error)

    @property
    def qualified(self) -> Any:
        """A tree with each column's table, stars expanded, names in lower case; None where sqlglot cannot make it.

        A column that no table of the query has, or more than one, stays without a table.
        """
        return self._resolved[0]

    @property
    def misfit(self) -> str | None:
        """Why there is no qualified tree, in one line."""
        return self._resolved[1]

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Tables and columns that the query names and the database does not have, in order."""
        return tuple(dict.fromkeys(_unknown(self.qualified, self.schema))) if self.qualified is not None else ()


def read(sql: str, schema: Schema, dialect: str = "sqlite") -> Read:
    """The one query in a text; never raises for what a candidate says.

    **Source**: sqlglot reads and qualifies; `sandbox.precheck` caps length and depth before.
    """
    return _read(sql, schema, dialect) if isinstance(sql, str) else _refused(sql, schema, dialect)


def _refused(sql: Any, schema: Schema, dialect: str) -> Read:
    refused = refusal(sql, CAPS)
    return Read("", schema, dialect, None, refused.reason if refused is not None else None)


@lru_cache(maxsize=MOST_READ)
def _read(sql: str, schema: Schema, dialect: str) -> Read:
    refused = refusal(sql, CAPS)
    if refused is not None:
        return Read(sql, schema, dialect, None, refused.reason)
    begun = FIRST_WORD.match(sql)
    if begun is not None and begun[1] and begun[1].lower() not in QUERIES:
        return Read(sql, schema, dialect, None, _no_query(begun[1]))
    try:
        found = [entry for entry in _dialect(dialect).parse(sql) if entry is not None]
    except FAILURES as error:
        return Read(sql, schema, dialect, None, _one_line(error))
    problem = None
    if len(found) != 1:
        problem = f"there are {len(found)} statements; expected one query"
    elif not isinstance(found[0], exp.Query):
        problem = _no_query(found[0].key)
    return Read(sql, schema, dialect, found[0] if problem is None else None, problem)


def _no_query(what: str) -> str:
    return f"{what[:40].upper()} is no query; expected a SELECT"


@lru_cache
def _dialect(name: str) -> Any:
    return sqlglot.Dialect.get_or_raise(name)


def qualified(tree: Any, schema: Schema, dialect: str = "sqlite") -> Any:
    """A copy of the tree with each column's table, names in lower case, and strings that stand in double quotes as strings.

    **Raises** what sqlglot does where it cannot, one of `FAILURES`.
    """
    tree = tree.copy()
    if dialect == "sqlite":
        _strings(tree, schema)
    for identifier in tree.find_all(exp.Identifier):
        identifier.set("this", identifier.name.lower())
        identifier.set("quoted", False)
    return qualify(
        tree,
        dialect=dialect,
        schema=schema.mapping,
        validate_qualify_columns=False,
        quote_identifiers=False,
        identify=False,
    )


def _strings(tree: Any, schema: Schema) -> None:
    """SQLite reads a name in double quotes that names nothing as a string."""
    names = {entry.alias.lower() for entry in tree.find_all(exp.Alias)} | schema.column_names
    for column in list(tree.find_all(exp.Column)):
        quoted = isinstance(column.this, exp.Identifier) and column.this.quoted
        if quoted and not column.table and column.name.lower() not in names:
            column.replace(exp.Literal.string(column.name))


def _unknown(tree: Any, schema: Schema) -> Iterator[str]:
    for scope in traverse_scope(tree):
        named = (entry for entry in scope.expression.expressions if isinstance(entry, exp.Alias))
        outputs = {
            entry.alias for entry in named if entry.this.alias_or_name != entry.alias or entry.this.text("table")
        }
        for source in scope.sources.values():
            if isinstance(source, exp.Table) and source.name not in schema:
                yield source.name
        for column in scope.columns:
            source = _source(scope, column.table)
            if isinstance(source, exp.Table):
                if source.name in schema and not schema.has_column(source.name, column.name):
                    yield f"{source.name}.{column.name}"
            elif source is None and column.table:
                yield f"{column.table}.{column.name}"
            elif source is None and column.name not in outputs and not _may_have(scope, column.name, schema):
                yield column.name


def _may_have(scope: Any, column: str, schema: Schema) -> bool:
    """Whether more than one table here or around has the column, or one that is unknown itself may."""
    while scope is not None:
        tables = (entry.name for entry in scope.sources.values() if isinstance(entry, exp.Table))
        if any(name not in schema or schema.has_column(name, column) for name in tables):
            return True
        scope = scope.parent
    return False


def _source(scope: Any, name: str) -> Any:
    """What a name stands for here or, in a correlated query, around it."""
    while scope is not None:
        if name in scope.sources:
            return scope.sources[name]
        scope = scope.parent
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).replace("\x1b[4m", "").replace("\x1b[0m", "").split()) or type(error).__name__
    return text if len(text) <= LONGEST_PROBLEM else text[: LONGEST_PROBLEM - 1] + "…"

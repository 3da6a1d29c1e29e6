"""What a candidate uses of a database: tables, columns, joins, and the literals that it compares with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlglot import exp

from slt_sql_rerank.sandbox.outcome import Verdict
from slt_sql_rerank.schema import Schema

Place = tuple[str, str]
"""A table and a column, in lower case."""
COMPARISONS = (exp.EQ, exp.NEQ, exp.Like, exp.ILike, exp.Glob, exp.GT, exp.GTE, exp.LT, exp.LTE)
UNCOUNTED = (exp.Limit, exp.Offset)


class Compared(NamedTuple):
    """A literal of a condition; `column` is what it is compared with, None where that is no column of a table."""

    text: str
    column: Place | None
    is_number: bool = False
    is_pattern: bool = False


class Joined(NamedTuple):
    """Two columns of different tables that are set equal."""

    left: Place
    right: Place


class From(NamedTuple):
    """The tables of one SELECT, and those of them of which something but a join column is used, or all where `*` is.

    `counts`: it has count(*), which every joined row changes.
    """

    tables: tuple[str, ...]
    used: frozenset[str]
    joins: tuple[Joined, ...]
    counts: bool = False


class Use(NamedTuple):
    """What one candidate uses; `unknown` are names that the schema does not have."""

    tables: frozenset[str]
    columns: frozenset[Place]
    literals: tuple[Compared, ...]
    joins: tuple[Joined, ...]
    froms: tuple[From, ...]
    unknown: tuple[str, ...] = ()


def used(tree: Any, schema: Schema, verdict: Verdict | None = None) -> Use:
    """What a tree uses. With the `verdict` of the database itself, its reads are the tables and columns.

    Names are resolved by the aliases of the SELECT around them, then of those outside; a column without a table belongs to
    the first table there that has it. What no table has is a string where it stands in double quotes, as SQLite reads it.
    """
    scopes = {id(select): _Scope(select, schema) for select in tree.find_all(exp.Select)}
    columns: dict[int, Place | None] = {}
    unknown: list[str] = []
    strings: list[Any] = []
    for column in tree.find_all(exp.Column):
        place = _resolved(column, scopes, schema)
        columns[id(column)] = place
        if place is None and not isinstance(column.this, exp.Star):
            if isinstance(column.this, exp.Identifier) and column.this.quoted and not column.table:
                strings.append(column)
            elif not _is_output(column, scopes):
                unknown.append(f"{column.table}.{column.name}" if column.table else column.name)
    names = {node.name.lower() for node in tree.find_all(exp.Table)} - _with_names(tree)
    unknown += sorted(name for name in names if name not in schema)
    literals = tuple(_literals(tree, strings, columns))
    froms = tuple(_from(scope, columns) for scope in scopes.values())
    found = frozenset(place for place in columns.values() if place is not None)
    if verdict is not None and verdict.ok:
        found = frozenset((table.lower(), column.lower()) for table, column in verdict.reads if column)
        names = {table.lower() for table, _ in verdict.reads}
    joins = tuple(join for one in froms for join in one.joins)
    return Use(frozenset(names), found, literals, joins, froms, tuple(dict.fromkeys(unknown)))


class _Scope:
    """The sources of one SELECT, by alias; "" for what is no table of the schema."""

    def __init__(self, select: Any, schema: Schema) -> None:
        self.select = select
        self.tables: dict[str, str] = {}
        found = select.args.get("from_") or select.args.get("from")
        sources = [found.this] if found is not None else []
        self.joins = select.args.get("joins") or []
        for source in [*sources, *(join.this for join in self.joins)]:
            name = source.name.lower() if isinstance(source, exp.Table) else ""
            self.tables[(source.alias_or_name or name).lower()] = name if name in schema else ""
        self.outputs = {entry.alias.lower() for entry in select.expressions if entry.alias}


def _around(node: Any, scopes: Mapping[int, _Scope]) -> Iterator[_Scope]:
    """The SELECTs that a node stands in, the nearest first; for an ORDER BY behind a set operation, its first side."""
    parent = node.parent
    while parent is not None:
        if id(parent) in scopes:
            yield scopes[id(parent)]
        elif isinstance(parent, exp.SetOperation):
            inner = parent.this
            while isinstance(inner, exp.SetOperation | exp.Subquery):
                inner = inner.this
            if id(inner) in scopes:
                yield scopes[id(inner)]
        parent = parent.parent


def _resolved(column: Any, scopes: Mapping[int, _Scope], schema: Schema) -> Place | None:
    alias, name = column.table.lower(), column.name.lower()
    for scope in _around(column, scopes):
        if alias:
            if alias in scope.tables:
                table = scope.tables[alias]
                return (table, name) if schema.has_column(table, name) else None
            continue
        for table in scope.tables.values():
            if table and schema.has_column(table, name):
                return table, name
    return None


def _is_output(column: Any, scopes: Mapping[int, _Scope]) -> bool:
    """Whether it names something that a query around it or in its FROM makes."""
    name, alias = column.name.lower(), column.table.lower()
    for scope in _around(column, scopes):
        if not alias and name in scope.outputs:
            return True
        if any(not table and alias in ("", own) for own, table in scope.tables.items()):
            return True  # a subquery or a name behind WITH, whose columns are not followed
    return False


def _with_names(tree: Any) -> set[str]:
    return {entry.alias.lower() for entry in tree.find_all(exp.CTE)}


def _literals(tree: Any, strings: Sequence[Any], columns: Mapping[int, Place | None]) -> Iterator[Compared]:
    for node in tree.find_all(exp.Literal):
        if isinstance(node.parent, UNCOUNTED) or not _in_condition(node):
            continue
        yield _compared(node, str(node.this), columns, is_number=not node.is_string)
    for column in strings:
        yield _compared(column, column.name, columns)


def _in_condition(node: Any) -> bool:
    """Whether it is compared with something: not an argument of a function, a result column, or part of a sum."""
    return isinstance(node.parent, (*COMPARISONS, exp.In, exp.Between, exp.Neg))


def _compared(node: Any, text: str, columns: Mapping[int, Place | None], *, is_number: bool = False) -> Compared:
    parent = node.parent
    others = [parent.args.get("this"), parent.args.get("expression")] if parent is not None else []
    column = next((columns.get(id(one)) for one in others if one is not node and isinstance(one, exp.Column)), None)
    return Compared(text, column, is_number, isinstance(parent, exp.Like | exp.ILike | exp.Glob))


def _from(scope: _Scope, columns: Mapping[int, Place | None]) -> From:
    tables = tuple(table for table in scope.tables.values() if table)
    joins, ends = [], set[int]()
    conditions = [join.args.get("on") for join in scope.joins]
    for condition in [*conditions, scope.select.args.get("where")]:
        for equal in condition.find_all(exp.EQ) if condition is not None else ():
            sides = [equal.this, equal.expression]
            places = [columns.get(id(side)) for side in sides]
            if None not in places and places[0][0] != places[1][0]:  # type: ignore[index]
                joins.append(Joined(*places))  # type: ignore[arg-type]
                ends.update(id(side) for side in sides)
    using = [name.name.lower() for join in scope.joins for name in join.args.get("using") or ()]
    own = [node for node in scope.select.find_all(exp.Column) if _owner(node) is scope.select]
    used_here = {place[0] for node in own if id(node) not in ends and (place := columns.get(id(node))) is not None}
    if any(isinstance(entry, exp.Star) for entry in scope.select.expressions):
        used_here.update(tables)
    if using and len(tables) > 1:
        joins += [Joined((tables[0], name), (table, name)) for name in using for table in tables[1:]]
    stars = (node for node in scope.select.find_all(exp.Count) if isinstance(node.this, exp.Star | exp.Literal))
    return From(tables, frozenset(used_here), tuple(joins), any(_owner(node) is scope.select for node in stars))


def _owner(node: Any) -> Any:
    parent = node.parent
    while parent is not None and not isinstance(parent, exp.Select):
        parent = parent.parent
    return parent

"""Exact set match, as Spider's scorer counts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from slt_sql_rerank.metrics.spider_form import Condition, Conditions, Form, Term, Unit
from slt_sql_rerank.metrics.spider_reader import read
from slt_sql_rerank.metrics.spider_text import Unreadable
from slt_sql_rerank.schema import Schema
from sltcore.errors import DataError

EMPTY = Form()


def official_match(candidate: str, gold: str, schema: Schema) -> bool:
    """Whether Spider's scorer calls two queries an exact set match.

    Clauses are compared as sets; literals, DISTINCT and the number after LIMIT do not count; columns that keys of the schema
    make equal are one, but those of subqueries; what the scorer cannot parse is an empty query; "value" in a candidate is
    "1". Joins count by their tables alone.
    **Raises** `DataError` where the scorer could not parse the gold query.
    **Source**: Yu et al., "Spider", EMNLP 2018, arXiv:1809.08887, and its scorer `test-suite-sql-eval`, whose behaviour is
    restated here on sqlglot's tree.
    """
    label = gold_form(gold, schema)
    try:
        found = read(candidate.replace("value", "1"), schema)
    except Unreadable:
        found = EMPTY
    keys = key_map(schema)
    return _same(_rebuilt(found, schema, keys), _rebuilt(label, schema, keys))


def gold_form(gold: str, schema: Schema) -> Form:
    """**Raises** `DataError` where Spider's scorer could not parse it."""
    try:
        return read(gold, schema)
    except Unreadable as reason:
        raise DataError(
            f"Spider's scorer cannot parse the gold query {gold!r} of database '{schema.name}': {reason}; use the strict match"
        ) from reason


def key_map(schema: Schema) -> Mapping[str, str]:
    """Each column of a key and the first column of its group, groups grown in the order of the keys and never merged."""
    places = {f"{c.table}.{c.name}".lower(): index for index, c in enumerate(schema.columns)}
    names = list(places)
    groups: list[set[int]] = []
    for key in schema.foreign_keys:
        for here, there in zip(key.columns, key.other_columns, strict=True):
            ends = {places[f"{key.table}.{here}".lower()], places[f"{key.other_table}.{there}".lower()]}
            group = next((entry for entry in groups if entry & ends), None)
            if group is None:
                groups.append(group := set())
            group |= ends
    return {names[index]: names[min(group)] for group in groups for index in group}


def _rebuilt(form: Form, schema: Schema, keys: Mapping[str, str]) -> Form:
    tables = {entry for entry in form.tables if isinstance(entry, str)}
    valid = {f"{c.table}.{c.name}".lower() for c in schema.columns if c.table.lower() in tables}
    return _columns(_without_values(form), {column: keys[column] for column in valid if column in keys})


def _without_values(form: Form) -> Form:
    """Literals and columns as values go, queries stay; what stands in FROM is left as it is."""

    def plain(conditions: Conditions) -> Conditions:
        return conditions._replace(
            units=tuple(unit._replace(first=kept(unit.first), second=kept(unit.second)) for unit in conditions.units)
        )

    def kept(value: Any) -> Form | None:
        return _without_values(value) if isinstance(value, Form) else None

    rest = {name: _without_values(other) for name, other in form.following()}
    return form._replace(on=plain(form.on), where=plain(form.where), having=plain(form.having)).followed(rest)


def _columns(form: Form, keys: Mapping[str, str]) -> Form:
    """Columns by their key's name and DISTINCT forgotten, with the outermost query's keys throughout, and not in values."""

    def unit(entry: Unit) -> Unit:
        return Unit(entry.aggregate, keys.get(entry.column, entry.column), None)

    def term(entry: Term) -> Term:
        return Term(entry.operation, unit(entry.left), unit(entry.right) if entry.right is not None else None)

    def conditions(entries: Conditions) -> Conditions:
        return entries._replace(units=tuple(entry._replace(term=term(entry.term)) for entry in entries.units))

    rest = {name: _columns(other, keys) for name, other in form.following()}
    return form._replace(
        distinct=None,
        select=tuple((aggregate, term(entry)) for aggregate, entry in form.select),
        on=conditions(form.on),
        where=conditions(form.where),
        group=tuple(map(unit, form.group)),
        having=conditions(form.having),
        order=(form.order[0], tuple(map(term, form.order[1]))) if form.order is not None else None,
    ).followed(rest)


def _same(found: Form, label: Form) -> bool:
    """Every clause equal, by the scorer's rules of comparison."""
    bare = [[entry.column.rpartition(".")[2] for entry in form.group] for form in (found, label)]
    return (
        Counter(found.select) == Counter(label.select)
        and _bag(found.where.units) == _bag(label.where.units)
        and set(found.where.connectors) == set(label.where.connectors)
        and Counter(bare[0]) == Counter(bare[1])
        and _same_having(found, label)
        and _same_order(found, label)
        and keywords(found) == keywords(label)
        and [name for name, _ in found.following()] == [name for name, _ in label.following()]
        and all(_same(mine, other) for (_, mine), (_, other) in zip(found.following(), label.following(), strict=True))
        and _tables(found) == _tables(label)
    )


def _same_having(found: Form, label: Form) -> bool:
    if not found.group or not label.group:
        return not found.group and not label.group
    same_columns = [unit.column for unit in found.group] == [unit.column for unit in label.group]
    return same_columns and found.having == label.having


def _same_order(found: Form, label: Form) -> bool:
    if found.order is None or label.order is None:
        return found.order is None and label.order is None
    return found.order == label.order and found.limit == label.limit


def _bag(units: Sequence[Condition]) -> Counter[Condition]:
    return Counter(units)


def _tables(form: Form) -> tuple[list[str], list[Form]]:
    names = sorted(entry for entry in form.tables if isinstance(entry, str))
    return names, [entry for entry in form.tables if isinstance(entry, Form)]


def keywords(form: Form) -> set[str]:
    """The scorer's set of key words of the outermost query."""
    units = (*form.on.units, *form.where.units, *form.having.units)
    connectors = (*form.on.connectors, *form.where.connectors, *form.having.connectors)
    found = {name for name, _ in form.following()}
    for word, there in (
        ("where", form.where.units),
        ("group", form.group),
        ("having", form.having.units),
        ("order", form.order),
        ("limit", form.limit),
        ("or", "or" in connectors),
        ("not", any(unit.negated for unit in units)),
        ("in", any(unit.operation == "in" for unit in units)),
        ("like", any(unit.operation == "like" for unit in units)),
    ):
        if there:
            found.add(word)
    if form.order is not None:
        found.add(form.order[0])
    return found

"""Exact set match in which values, DISTINCT, limits and joins count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice, permutations, product
from typing import Any, NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify

from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.precheck import refusal
from slt_sql_rerank.schema import Schema
from sltcore.errors import DataError

CAPS = Limits()  # on texts, before sqlglot's parser
MOST_ORDERS = 24
SWAPPED: dict[type[exp.Expr], str] = {exp.GT: "lt", exp.GTE: "lte"}
SYMMETRIC = (exp.EQ, exp.NEQ, exp.Add, exp.Mul)
READ = {
    "distinct",
    "expressions",
    "from",
    "from_",
    "group",
    "having",
    "joins",
    "kind",
    "limit",
    "offset",
    "order",
    "where",
}
READ |= {"with", "with_"}  # the parts of a SELECT that are looked at one by one
Scope = Mapping[str, str]


class Known(NamedTuple):
    """The schema, and the common table expressions so far."""

    schema: Schema
    queries: dict[str, Any]


def strict_match(candidate: str, gold: str, schema: Schema) -> bool:
    """Whether two queries are the same up to order and names.

    Equal are: columns of the outermost SELECT, conditions, groupings and inner joins in any order; aliases of any name, but
    those of columns of subqueries in FROM; `a = b` and `b = a`, `a < b` and `b > a`; BETWEEN and its two comparisons; a
    condition in ON or in WHERE of inner joins; columns of one affinity that the query itself joins by equality; UNION and
    INTERSECT in any order. Literals (5 is not 5.0), DISTINCT, the number after LIMIT, and every join count.
    **Raises** `DataError` where the gold query cannot be parsed.
    """
    wanted = canonical(gold, schema)
    if wanted is None:
        raise DataError(f"the gold query {gold!r} of database '{schema.name}' is no SQL that sqlglot parses")
    return bool(canonical(candidate, schema) == wanted)


def canonical(sql: str, schema: Schema) -> Any:
    """A nested tuple that two equal queries share, or None for what is no query."""
    return _canonical(sql, schema)


@lru_cache(maxsize=4096)
def _canonical(sql: str, schema: Schema) -> Any:
    if refusal(sql, CAPS) is not None:
        return None
    try:
        (tree,) = (entry for entry in sqlglot.parse(sql, read="sqlite") if entry is not None)
        if not isinstance(tree, exp.Query):
            return None
        return _query(qualified(tree, schema), {}, Known(schema, {}))
    except (SqlglotError, RecursionError, ValueError):
        return None


def qualified(tree: exp.Query, schema: Schema) -> Any:
    """The tree with each column's table, names in lower case, and strings that stand in double quotes as strings.

    **Raises** `SqlglotError` where a name is ambiguous.
    """
    names = {entry.alias.lower() for entry in tree.find_all(exp.Alias)} | schema.column_names
    for column in list(tree.find_all(exp.Column)):
        quoted = isinstance(column.this, exp.Identifier) and column.this.quoted
        if quoted and not column.table and column.name.lower() not in names:
            column.replace(exp.Literal.string(column.name))
    for identifier in tree.find_all(exp.Identifier):
        identifier.set("this", identifier.name.lower())
        identifier.set("quoted", False)
    return qualify(
        tree,
        dialect="sqlite",
        schema=schema.mapping,
        validate_qualify_columns=False,
        quote_identifiers=False,
        identify=False,
    )


def _query(node: Any, outer: Scope, known: Known, *, aligned: bool = False) -> Any:
    """The canonical form of a SELECT or of several with set operations between them; `aligned` keeps the columns' order."""
    if isinstance(node, exp.Subquery):
        if any(node.args.get(key) for key in ("limit", "offset", "order", "joins", "with_", "with")):
            raise ValueError("a query in brackets has clauses of its own")
        return _query(node.this, outer, known, aligned=aligned)
    with_ = node.args.get("with_") or node.args.get("with")
    if with_ is not None:
        known = Known(known.schema, dict(known.queries))
        for entry in with_.expressions:
            columns = entry.args["alias"].columns
            if with_.recursive:
                known.queries[entry.alias] = ("recursive", entry.sql("sqlite"))
            else:
                known.queries[entry.alias] = _source(entry.this, columns, outer, known)
    if isinstance(node, exp.SetOperation):
        parts = [
            _query(part, outer, known, aligned=True) for part in _operands(node, type(node), node.args.get("distinct"))
        ]
        if not isinstance(node, exp.Except) and not any(_limits(node)):
            parts.sort(key=repr)
        names = _names(node)
        order = _order(node, lambda term: names.index(term.name) if term.name in names else term.sql("sqlite"))
        return (node.key, bool(node.args.get("distinct")), tuple(parts), order, _limits(node))
    if not isinstance(node, exp.Select):
        raise ValueError(f"{node.key} is no query")
    return min((_select(node, scope, known, aligned) for scope in _scopes(node, outer, known)), key=repr)


def _source(query: Any, columns: Sequence[Any], outer: Scope, known: Known) -> Any:
    """A query that others read from: its columns have an order and names."""
    names = [entry.name for entry in columns] or _names(query)
    return (_query(query, outer, known, aligned=True), tuple(names))


def _names(query: Any) -> list[str]:
    """The names of a query's columns."""
    return [str(name) for name in query.named_selects]


def _operands(node: Any, kind: Any, distinct: Any) -> Iterator[Any]:
    """Operands of a chain of one operation, which is associative but for EXCEPT."""
    left = node.this
    if kind is not exp.Except and type(left) is kind and left.args.get("distinct") == distinct:
        yield from _operands(left, kind, distinct)
    else:
        yield left
    yield node.expression


def _scopes(node: Any, outer: Scope, known: Known) -> Iterator[Scope]:
    """Names of this SELECT's sources: the table's, and a number where a table stands twice, in every order."""
    depth = f"{outer.get('', '')}'"
    alike: dict[str, list[str]] = {}
    for source in _sources(node):
        if not isinstance(source, exp.Table):
            columns = source.args["alias"].columns if source.args.get("alias") else ()
            name = repr(_source(source.this, columns, outer, known))
        elif isinstance(source.this, exp.Identifier):
            name = repr(known.queries[source.name]) if source.name in known.queries else source.name
        else:
            name = repr(_value(source.this, outer, known, {}))  # a function that gives a table
        alike.setdefault(name, []).append(source.alias_or_name)
    orders: Iterator[tuple[tuple[str, ...], ...]] = product(*(permutations(names) for names in alike.values()))
    for order in islice(orders, MOST_ORDERS):
        named = {
            alias: f"{depth}{title}#{number}"
            for title, names in zip(alike, order, strict=True)
            for number, alias in enumerate(names)
        }
        yield {**outer, **named, "": depth}


def _sources(node: Any) -> list[Any]:
    first = node.args.get("from_") or node.args.get("from")
    return [] if first is None else [first.this, *(join.this for join in node.args.get("joins") or ())]


def _select(node: Any, scope: Scope, known: Known, aligned: bool) -> Any:
    joins = node.args.get("joins") or []
    inner = all(not join.args.get("side") and not join.args.get("method") for join in joins)
    where = node.args.get("where")
    conjuncts = list(_conjuncts(where.this)) if where is not None else []
    on = [join.args.get("on") for join in joins]
    if inner:
        conjuncts += [part for condition in on if condition is not None for part in _conjuncts(condition)]
    classes = _classes(conjuncts, scope, known) if inner else {}
    equal = {column: min(members) for members in classes.values() for column in members}
    outputs = {entry.alias: entry.this for entry in node.expressions if isinstance(entry, exp.Alias)}

    def value(entry: Any) -> Any:
        if isinstance(entry, exp.Column) and not entry.table and entry.name in outputs:
            entry = outputs[entry.name]
        return _value(entry, scope, known, equal)

    kept = [
        (join.args.get("side"), join.args.get("kind"), join.args.get("method"), value(condition))
        for join, condition in zip(joins, on, strict=True)
        if not inner
    ]
    sources = [scope[source.alias_or_name] for source in _sources(node)]
    group, having = node.args.get("group"), node.args.get("having")
    selected = map(value, node.expressions)
    others = {key: value(entry) for key, entry in node.args.items() if entry and key not in READ}
    return (
        "select",
        node.args.get("distinct") is not None,
        tuple(selected) if aligned else _sorted(selected),
        _sorted(sources) if inner else tuple(sources),
        _sorted({tuple(sorted(members)) for members in classes.values()}),
        tuple(kept),
        _sorted({value(part) for part in conjuncts if not (_joins(part, scope, classes) or _is_true(part))}),
        _sorted({value(entry) for entry in group.expressions}) if group is not None else (),
        _sorted({value(part) for part in _conjuncts(having.this)}) if having is not None else (),
        _order(node, value),
        _limits(node),
        tuple(sorted(others.items())),
        tuple(value(join.args["using"]) for join in joins if join.args.get("using")),
    )


def _order(node: Any, value: Any) -> Any:
    order = node.args.get("order")
    return (
        tuple(
            (value(entry.this), bool(entry.args.get("desc")), bool(entry.args.get("nulls_first")))
            for entry in order.expressions
        )
        if order is not None
        else ()
    )


def _limits(node: Any) -> tuple[str, ...]:
    return tuple(
        entry.expression.sql() if (entry := node.args.get(key)) is not None else "" for key in ("limit", "offset")
    )


def _conjuncts(node: Any) -> Iterator[Any]:
    node = node.unnest()
    if isinstance(node, exp.And):
        yield from _conjuncts(node.this)
        yield from _conjuncts(node.expression)
    elif isinstance(node, exp.Between):
        yield exp.LTE(this=node.args["low"], expression=node.this)
        yield exp.LTE(this=node.this, expression=node.args["high"])
    else:
        yield node


def _classes(conjuncts: Sequence[Any], scope: Scope, known: Known) -> dict[str, set[str]]:
    """Columns that conditions `a = b` make equal, by one of them; only those whose values are then the same."""
    found: dict[str, set[str]] = {}
    for part in conjuncts:
        if isinstance(part, exp.EQ) and isinstance(part.this, exp.Column) and isinstance(part.expression, exp.Column):
            kinds = {_affinity(column, scope, known.schema) for column in (part.this, part.expression)}
            if len(kinds) > 1 or "" in kinds:
                continue
            ends = {_column(part.this, scope), _column(part.expression, scope)}
            merged = ends.union(*(found.get(end, set()) for end in ends))
            found.update(dict.fromkeys(merged, merged))
    return found


def _affinity(column: Any, scope: Scope, schema: Schema) -> str:
    """How SQLite stores a column's values, "" where that is not known: equal values of one affinity are the same."""
    table = scope.get(column.table, "").lstrip("'").rpartition("#")[0]
    if not schema.has_column(table, column.name):
        return ""
    declared = schema.column(table, column.name).type.upper()
    if "INT" in declared or not any(word in declared for word in ("CHAR", "CLOB", "TEXT", "BLOB")):
        return "NUMBER" if declared else "BLOB"
    return "BLOB" if "BLOB" in declared and not any(w in declared for w in ("CHAR", "CLOB", "TEXT")) else "TEXT"


def _is_true(part: Any) -> bool:
    """What sqlglot writes where a join has no ON."""
    return isinstance(part, exp.Boolean) and bool(part.this)


def _joins(part: Any, scope: Scope, classes: Mapping[str, set[str]]) -> bool:
    """Whether a condition says no more than that the columns of one class are equal."""
    return (
        isinstance(part, exp.EQ)
        and isinstance(part.this, exp.Column)
        and isinstance(part.expression, exp.Column)
        and _column(part.expression, scope) in classes.get(_column(part.this, scope), ())
    )


def _column(node: Any, scope: Scope) -> str:
    return f"{scope.get(node.table, node.table)}.{node.name}"


def _value(node: Any, scope: Scope, known: Known, equal: Mapping[str, str]) -> Any:
    """The canonical form of an expression."""

    def value(entry: Any) -> Any:
        return _value(entry, scope, known, equal)

    node = node.unalias() if isinstance(node, exp.Alias) else node
    node = node.unnest() if isinstance(node, exp.Paren) else node
    if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
        name = _column(node, scope)
        return ("column", equal.get(name, name))
    if isinstance(node, exp.Literal):
        return ("text", node.this) if node.is_string else _number(node.this)
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
        kind, number = _number(node.this.this)
        return (kind, -number)
    if isinstance(node, exp.Subquery | exp.Select | exp.SetOperation):
        return _query(node, scope, known)
    if isinstance(node, exp.And | exp.Or):
        parts = _conjuncts(node) if isinstance(node, exp.And) else node.flatten()
        return (node.key, _sorted({value(part) for part in parts}))
    if isinstance(node, exp.Between):
        return ("and", _sorted({value(part) for part in _conjuncts(node)}))
    if isinstance(node, exp.In):
        if node.args.get("query") is not None:
            return ("in", value(node.this), _query(node.args["query"], scope, known, aligned=True))
        return _membership(node, value)
    if isinstance(node, SYMMETRIC):
        return (node.key, _sorted((value(node.this), value(node.expression))))
    if type(node) in SWAPPED:
        return (SWAPPED[type(node)], (value(node.expression), value(node.this)))
    if isinstance(node, exp.LT | exp.LTE):
        return (node.key, (value(node.this), value(node.expression)))
    if isinstance(node, exp.Anonymous):
        return (node.name.lower(), tuple(map(value, node.expressions)))
    if isinstance(node, exp.Expression):
        given = [(key, entry) for key, entry in sorted(node.args.items()) if entry or entry == 0]
        return (node.key, tuple((key, value(entry)) for key, entry in given if entry is not False))
    if isinstance(node, list):
        return tuple(map(value, node))
    return repr(node)


def _number(text: str) -> tuple[str, float]:
    """5 is not 5.0: halves of them differ."""
    return ("integer", int(text)) if text.isdecimal() else ("real", float(text))


def _membership(node: Any, value: Any) -> Any:
    values = {value(entry) for entry in node.expressions}
    if len(node.expressions) == 1 and isinstance(node.expressions[0], exp.Literal):
        return ("eq", _sorted((value(node.this), *values)))
    rest = tuple((key, value(node.args[key])) for key in ("field", "unnest") if node.args.get(key))
    return ("in", value(node.this), _sorted(values), rest)


def _sorted(values: Any) -> tuple[Any, ...]:
    return tuple(sorted(values, key=repr))

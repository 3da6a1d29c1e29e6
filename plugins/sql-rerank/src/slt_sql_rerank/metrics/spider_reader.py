"""Reads a text as Spider's scorer would, limits included, by sqlglot's tree of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from slt_sql_rerank.metrics.spider_form import Condition, Conditions, Form, Term, Unit
from slt_sql_rerank.metrics.spider_text import CLAUSES, Unreadable, Words, check, first_word, words
from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.precheck import refusal
from slt_sql_rerank.schema import Schema

AGGREGATES: dict[type[exp.Expr], str] = {
    exp.Max: "max",
    exp.Min: "min",
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "avg",
}
ARITHMETIC: dict[type[exp.Expr], str] = {exp.Sub: "-", exp.Add: "+", exp.Mul: "*", exp.Div: "/"}
COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.GT: ">",
    exp.LT: "<",
    exp.GTE: ">=",
    exp.LTE: "<=",
    exp.NEQ: "!=",
    exp.Like: "like",
}
SET_OPERATIONS: dict[type[exp.Expr], str] = {exp.Intersect: "intersect", exp.Union: "union", exp.Except: "except"}
EVERYTHING = "*"
AFTER_CONDITIONS = {
    "from": (),
    "where": ("where", "join", "on", "as"),
    "having": ("where", "group", "join", "on", "as"),
}


def read(sql: str, schema: Schema) -> Form:
    """The form of a text. **Raises** `Unreadable` where Spider's scorer would fail to parse it.

    The scorer stops where no clause can follow and never looks at the rest, so the longest beginning that it would stop
    after counts.
    """
    refused = refusal(sql, Limits())
    if refused is not None:
        raise Unreadable(refused.reason)
    found = words(sql, [entry.name.lower() for entry in schema.tables if not entry.is_view])
    most = len(found.tokens)
    reason: Unreadable | None = None
    for end in range(most, 3, -1):
        following = first_word(found.tokens[end]) if end < most else "--" if found.commented else ""
        if following and not _stops(found.tokens[:end], following):
            continue
        try:
            return _whole(schema, found, end)
        except Unreadable as error:
            reason = reason or error
    raise reason or Unreadable("it is not one statement of SQL")


def _whole(schema: Schema, found: Words, end: int) -> Form:
    tokens = found.tokens[:end]
    check(found.sql, tokens)
    try:
        (tree,) = (
            entry for entry in sqlglot.parse(found.sql[: tokens[-1].end + 1], read="sqlite") if entry is not None
        )
    except (SqlglotError, RecursionError, ValueError) as error:
        raise Unreadable("it is not one statement of SQL") from error
    joins = sum(token.token_type == TokenType.JOIN for token in tokens)
    if joins != len(list(tree.find_all(exp.Join))):
        raise Unreadable("tables are joined by a comma")
    named = sum(token.token_type == TokenType.ALIAS for token in tokens)
    if named != len(list(tree.find_all(exp.TableAlias))):
        raise Unreadable("a name is not given to a table, or not by AS")
    return _Reader(schema, found).query(tree, top=True)


def _stops(tokens: Sequence[Token], word: str) -> bool:
    """Whether the scorer, done with the clause that ends here, would take `word` for the end of the query."""
    depth, clause = 0, ""
    for token in tokens:
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        if depth == 0 and first_word(token) in CLAUSES:
            clause = first_word(token)
    before = first_word(tokens[-1])
    if depth or word in ("union", "intersect", "except") or before in (*CLAUSES, ",", ".", "and", "or", "="):
        return False
    if clause in ("from", "where", "having"):
        return word in ("select", "from", ")", ";", *AFTER_CONDITIONS[clause])
    if clause == "group":
        return word not in (",", ".", "having", "order", "limit")
    return clause == "limit" or (clause == "order" and word not in (",", ".", "limit"))


class _Reader:
    """Lowers one tree; aliases hold for the whole text."""

    def __init__(self, schema: Schema, found: Words) -> None:
        self.schema = schema
        self.aliases = found.aliases

    def query(self, tree: Any, *, top: bool = False) -> Form:
        chain = list(_chain(tree))
        (_, last), done = chain[-1], None
        for index in range(len(chain) - 1, -1, -1):
            operation, node = chain[index]
            tail = tree if node is last and isinstance(tree, exp.SetOperation) else node
            form = self.select(node, tail, top)
            if done is not None:
                form = form.followed({chain[index + 1][0]: done})
            done = form
        assert done is not None
        return done

    def select(self, node: Any, tail: Any, top: bool) -> Form:
        if not isinstance(node, exp.Select):
            raise Unreadable(f"{node.key} is no SELECT")
        strange = [
            key
            for key, value in node.args.items()
            if value
            and key
            not in (
                "expressions",
                "distinct",
                "from_",
                "from",
                "joins",
                "where",
                "group",
                "having",
                "order",
                "limit",
                "offset",
                "kind",
            )
        ]
        source = node.args.get("from_") or node.args.get("from")
        if strange or source is None:
            raise Unreadable(f"it has {strange[0]}" if strange else "it has no FROM")
        tables, on, names = self.sources(source.this, node.args.get("joins") or ())
        if tail.args.get("offset") and not top:
            raise Unreadable("OFFSET stands within brackets")
        distinct = node.args.get("distinct")
        if distinct is not None and distinct.args.get("on"):
            raise Unreadable("DISTINCT ON")
        group = node.args.get("group")
        if group is not None and any(value for key, value in group.args.items() if key != "expressions"):
            raise Unreadable("GROUP BY has more than columns")
        where = self.conditions(node.args.get("where"), names)
        having = node.args.get("having")
        if having is not None and group is None:
            if not (where if where.units else on).swallows:
                raise Unreadable("HAVING stands without GROUP BY")
            having = None
        return Form(
            distinct is not None,
            tuple(self.item(item, names) for item in node.expressions),
            tables,
            on,
            where,
            tuple(self.unit(column, names) for column in group.expressions) if group is not None else (),
            self.conditions(having, names),
            self.order(tail.args.get("order"), names),
            tail.args.get("limit") is not None,
        )

    def sources(self, first: Any, joins: Sequence[Any]) -> tuple[tuple[Any, ...], Conditions, list[str]]:
        tables: list[Any] = []
        names: list[str] = []
        units: list[Condition] = []
        connectors: list[str] = []
        swallows = False
        for index, entry in enumerate([first, *(join.this for join in joins)]):
            if isinstance(entry, exp.Subquery) and index == 0 and not entry.alias:
                tables.append(self.query(entry.this))
            elif isinstance(entry, exp.Table) and not entry.args.get("db") and not entry.args.get("joins"):
                name = self.aliases.get(entry.name.lower())
                if name is None or name not in self.schema:
                    raise Unreadable(f"there is no table {entry.name}")
                tables.append(name)
                names.append(name)
            else:
                raise Unreadable("FROM has more than tables")
            join = joins[index - 1] if index else None
            plain = join is None or not any(join.args.get(key) for key in ("side", "kind", "method"))
            if join is not None and (join.args.get("using") or (not plain and not swallows)):
                raise Unreadable("a join is no plain JOIN")
            swallows = False
            condition = join.args.get("on") if join is not None else None
            if condition is not None and not isinstance(condition, exp.Boolean):  # sqlglot's own, where there is no ON
                found = self.conditions(condition, names)
                connectors += ["and", *found.connectors] if units else found.connectors
                units += found.units
                swallows = found.swallows
        return tuple(tables), Conditions(tuple(units), tuple(connectors)), names

    def item(self, node: Any, names: Sequence[str]) -> tuple[str, Term]:
        aggregate = AGGREGATES.get(type(node))
        if aggregate is not None:
            inner, distinct = _argument(node)
            term = self.term(inner, names, distinct=distinct)
            return aggregate, term
        if isinstance(node, exp.Binary) and _starts_with_aggregate(node):
            raise Unreadable("an aggregate is part of a sum")
        return "none", self.term(node, names)

    def term(self, node: Any, names: Sequence[str], *, distinct: bool = False) -> Term:
        inner = node.this if isinstance(node, exp.Paren) else node
        operation = ARITHMETIC.get(type(inner))
        if operation is None:
            return Term("none", self.unit(inner, names, distinct=distinct))
        if isinstance(inner.this, exp.Paren) and inner is node:
            raise Unreadable("a bracket is part of a sum")
        return Term(operation, self.unit(inner.this, names, distinct=distinct), self.unit(inner.expression, names))

    def unit(self, node: Any, names: Sequence[str], *, distinct: bool = False) -> Unit:
        inner = node.this if isinstance(node, exp.Paren) else node
        if isinstance(inner, exp.Paren):
            raise Unreadable("there are too many brackets")
        aggregate = AGGREGATES.get(type(inner))
        if aggregate is None:
            return Unit("none", self.column(inner, names), distinct)
        argument, own = _argument(inner)
        return Unit(aggregate, self.column(argument, names), own)

    def column(self, node: Any, names: Sequence[str]) -> str:
        if isinstance(node, exp.Star):
            return EVERYTHING
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star) or node.args.get("db"):
            raise Unreadable(f"{node.key} is no column")
        if _is_value(node) or node.name.lower() in ("none", *AGGREGATES.values()):
            raise Unreadable(f"{node.name} is no column's name")
        if node.table:
            table = self.aliases.get(node.table.lower())
            if table is None or not self.schema.has_column(table, node.name):
                raise Unreadable(f"there is no column {node.table}.{node.name}")
            return f"{table}.{node.name.lower()}"
        for table in names:
            if self.schema.has_column(table, node.name):
                return f"{table}.{node.name.lower()}"
        raise Unreadable(f"there is no column {node.name}")

    def conditions(self, node: Any, names: Sequence[str]) -> Conditions:
        if node is None:
            return Conditions()
        tree = node.this if isinstance(node, exp.Where | exp.Having) else node
        units: list[Condition] = []
        connectors: list[str] = []
        for connector, leaf in _leaves(tree):
            if connector == "or" and Conditions(tuple(units)).swallows:
                continue
            if units:
                connectors.append(connector)
            units.append(self.condition(leaf, names))
        return Conditions(tuple(units), tuple(connectors))

    def condition(self, node: Any, names: Sequence[str]) -> Condition:
        negated = isinstance(node, exp.Not)
        inner = node.this if negated else node
        term = self.term(inner.this, names) if isinstance(inner, exp.Between | exp.In | exp.Binary) else None
        if term is None:
            raise Unreadable(f"{inner.key} is no condition")
        if isinstance(inner, exp.Between):
            low, high = self.value(inner.args["low"], names), self.value(inner.args["high"], names)
            return Condition(negated, "between", term, low, high)
        if isinstance(inner, exp.In):
            values = [inner.args["query"]] if inner.args.get("query") else inner.expressions
            if len(values) != 1 or (isinstance(values[0], exp.Column) and not _is_value(values[0])):
                raise Unreadable("IN has no query")
            return Condition(negated, "in", term, self.value(values[0], names))
        operation = COMPARISONS.get(type(inner))
        if operation is None:
            raise Unreadable(f"{inner.key} is no operator it knows")
        return Condition(negated, operation, term, self.value(inner.expression, names))

    def value(self, node: Any, names: Sequence[str]) -> Any:
        if isinstance(node, exp.Paren) and isinstance(node.this, exp.Literal):
            return self.value(node.this, names)
        if isinstance(node, exp.Literal):
            return f'"{node.this}"' if node.is_string else float(node.this)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
            return -float(node.this.this)
        if _is_value(node):
            return f'"{node.name}"'
        if isinstance(node, exp.Subquery) and not node.alias:
            return self.query(node.this)
        while isinstance(node, exp.Binary) and type(node) in ARITHMETIC:
            node = node.this  # of a sum the scorer reads the first word and skips the rest
        if isinstance(node, exp.Column):
            return Unit("none", self.column(node, names))
        raise Unreadable(f"{node.key} is no value")

    def order(self, node: Any, names: Sequence[str]) -> tuple[str, tuple[Term, ...]] | None:
        if node is None:
            return None
        direction = "asc"
        terms = []
        for entry in node.expressions:
            if not isinstance(entry, exp.Ordered) or isinstance(entry.this, exp.Collate):
                raise Unreadable("ORDER BY has more than columns")
            terms.append(self.term(entry.this, names))
            if entry.args.get("desc") is not None:  # the last one named counts for all
                direction = "desc" if entry.args["desc"] else "asc"
        return direction, tuple(terms)


def _chain(tree: Any) -> Iterator[tuple[str, Any]]:
    """The SELECTs of a chain of set operations from left to right, each with the operation before it."""
    if not isinstance(tree, exp.SetOperation):
        yield "", tree.this if isinstance(tree, exp.Subquery) and not tree.alias else tree
        return
    if tree.args.get("distinct") is False or tree.args.get("with_") or tree.args.get("with"):
        raise Unreadable("UNION ALL")
    yield from _chain(tree.this)
    (_, node), *rest = _chain(tree.expression)
    if rest:
        raise Unreadable("set operations stand in brackets")
    yield SET_OPERATIONS[type(tree)], node


def _argument(node: Any) -> tuple[Any, bool]:
    """What an aggregate is of, and whether of distinct values."""
    inner = node.this
    if node.args.get("expressions") or inner is None:
        raise Unreadable(f"{node.key} has several arguments")
    if isinstance(inner, exp.Distinct):
        if len(inner.expressions) != 1 or isinstance(inner.expressions[0], exp.Paren):
            raise Unreadable("DISTINCT is of more than a column")
        return inner.expressions[0], True
    return inner, False


def _starts_with_aggregate(node: Any) -> bool:
    while isinstance(node, exp.Binary):
        node = node.this
    return type(node) in AGGREGATES


def _is_value(node: Any) -> bool:
    """Whether it stands in double quotes, which the scorer takes for a string."""
    return isinstance(node, exp.Column) and isinstance(node.this, exp.Identifier) and bool(node.this.quoted)


def _leaves(node: Any) -> Iterator[tuple[str, Any]]:
    """Conditions in the order of the text, each with the word before it."""
    if isinstance(node, exp.And | exp.Or):
        word = "and" if isinstance(node, exp.And) else "or"
        yield from _leaves(node.this)
        (_, first), *rest = _leaves(node.expression)
        yield word, first
        yield from rest
    else:
        yield "", node

"""Which instances are worth running: those that tell gold queries from queries near them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from slt_sql_rerank.metrics.execution import Runner, is_ordered, same_rows
from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.precheck import refusal
from slt_sql_rerank.schema import Schema

COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
AGGREGATES = (exp.Max, exp.Min, exp.Sum, exp.Avg, exp.Count)
TRIES = 12


class Distilled(NamedTuple):
    """The databases to keep, in the order of their use, how many pairs they tell apart, and out of how many."""

    databases: tuple[str, ...]
    separated: int
    pairs: int


def neighbours(gold: str, schema: Schema, *, count: int, seed: int = 0) -> tuple[str, ...]:
    """Up to `count` different queries one edit away: another comparison, literal, column, aggregate, order, limit, set
    operation or connector, DISTINCT come or gone, a condition or clause gone.

    Some mean the same as the gold query; no instance tells those apart.
    """
    if refusal(gold, Limits()) is not None:
        return ()
    try:
        tree = sqlglot.parse_one(gold, read="sqlite")
    except (SqlglotError, RecursionError, ValueError):
        return ()
    draw = random.Random(f"{seed} {gold}")
    same = tree.sql("sqlite")
    found: dict[str, None] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        copy = tree.copy()
        _edit(draw.choice(list(copy.walk())), schema, draw)
        text = copy.sql("sqlite")
        if text != same:
            found[text] = None
    return tuple(found)


def _edit(node: Any, schema: Schema, draw: random.Random) -> None:
    """Change one node, where it is of a kind that can be changed."""
    if isinstance(node, COMPARISONS):
        other = draw.choice([kind for kind in COMPARISONS if kind is not type(node)])
        node.replace(other(this=node.this, expression=node.expression))
    elif isinstance(node, AGGREGATES) and not isinstance(node.this, exp.Star):
        node.replace(draw.choice([kind for kind in AGGREGATES if kind is not type(node)])(this=node.this))
    elif isinstance(node, exp.Literal):
        text = f"{node.this}a" if node.is_string else str(float(node.this) + draw.choice([-1, 1])).removesuffix(".0")
        node.replace(exp.Literal.string(text) if node.is_string else exp.Literal.number(text))
    elif isinstance(node, exp.Column) and isinstance(node.this, exp.Identifier):
        owners = [entry for entry in schema.tables if schema.has_column(entry.name, node.name)]
        names = [c.name for entry in owners for c in entry.columns if c.name.lower() != node.name.lower()]
        if names:
            node.set("this", exp.to_identifier(draw.choice(names), quoted=True))
    elif isinstance(node, exp.Ordered):
        node.set("desc", not node.args.get("desc"))
    elif isinstance(node, exp.And | exp.Or):
        kind: Any = exp.Or if isinstance(node, exp.And) else exp.And
        node.replace(draw.choice([node.this, node.expression, kind(this=node.this, expression=node.expression)]))
    elif isinstance(node, exp.Union | exp.Intersect | exp.Except):
        kind = draw.choice([entry for entry in (exp.Union, exp.Intersect, exp.Except) if entry is not type(node)])
        node.replace(draw.choice([node.this, kind(this=node.this, expression=node.expression, distinct=True)]))
    elif isinstance(node, exp.Select):
        clause = draw.choice(["where", "group", "having", "order", "limit", "distinct"])
        if clause == "distinct" and not node.args.get("distinct"):
            node.set("distinct", exp.Distinct())
        else:
            node.set(clause, None)


def distilled(
    golds: Mapping[str, Sequence[str]], runner: Runner, databases: Sequence[str], *, seconds: float | None = None
) -> Distilled:
    """Choose databases, each time the one that tells most of the remaining pairs of gold query and neighbour apart.

    `golds` has the neighbours of each gold query. A database on which a gold query fails says nothing about it; a neighbour
    that fails is told apart by that.

    **Source**: Zhong, Yu & Klein, EMNLP 2020, arXiv:2010.02840, section 3; here greedy over all instances at once instead
    of in the order in which they were made.
    """
    tells: dict[str, set[tuple[str, str]]] = {}
    for database in databases:
        tells[database] = set()
        for gold, others in golds.items():
            wanted = runner.execute(gold, seconds, database=database)
            if not wanted.ok:
                continue
            ordered = is_ordered(gold)
            for other in others:
                found = runner.execute(other, seconds, database=database)
                same = found.ok and len(found.columns) == len(wanted.columns)
                if not same or not same_rows(wanted.rows, found.rows, ordered=ordered):
                    tells[database].add((gold, other))
    chosen: list[str] = []
    separated: set[tuple[str, str]] = set()
    while len(chosen) < len(tells):
        best = max((name for name in tells if name not in chosen), key=lambda name: len(tells[name] - separated))
        if not tells[best] - separated:
            break
        chosen.append(best)
        separated |= tells[best]
    return Distilled(tuple(chosen), len(separated), sum(map(len, golds.values())))

"""Which clauses a query has: its plan, as a set of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from sqlglot import exp

from sltcore.errors import DataError, did_you_mean

SHAPE = ("where", "group", "having", "order", "asc", "desc", "limit", "join", "nested")
SETS = ("union", "intersect", "except")
WORDS = ("or", "not", "in", "like", "agg")
KEYWORDS = (*SHAPE, *SETS, *WORDS)
"""The names that Spider's scorer calls keywords, and join, nested and agg, in canonical order."""
FUNCTIONS: dict[str, type[exp.Expr]] = {
    "count": exp.Count,
    "max": exp.Max,
    "min": exp.Min,
    "sum": exp.Sum,
    "avg": exp.Avg,
}
FINE = (*FUNCTIONS, "distinct", "between")
CLAUSES = (*KEYWORDS, *FINE)
"""All names, in canonical order: which aggregate, DISTINCT and BETWEEN come after the keywords."""
PLACE = {name: place for place, name in enumerate(CLAUSES)}

PARTS = {"where": "where", "group": "group", "having": "having", "order": "order", "limit": "limit"}
OPERATIONS: dict[type[exp.Expr], str] = {exp.Union: "union", exp.Intersect: "intersect", exp.Except: "except"}
SIGNS: tuple[tuple[tuple[type[exp.Expr], ...], str], ...] = (
    ((exp.Or,), "or"),
    ((exp.Not,), "not"),
    ((exp.In,), "in"),
    ((exp.Like, exp.ILike, exp.Glob), "like"),
    ((exp.AggFunc,), "agg"),
    ((exp.Between,), "between"),
    *(((kind,), name) for name, kind in FUNCTIONS.items()),
)
ONE_OF = {"agg": frozenset(FUNCTIONS)}


def clauses(tree: Any) -> frozenset[str]:
    """The clauses of a query's outermost SELECT, and `nested` where there is another one within it.

    Both sides of an outermost UNION, INTERSECT or EXCEPT count, so that their order does not; what stands inside a
    subquery (in a condition, in FROM, behind WITH) does not count. `join` is more than one table in FROM, `not` the word
    NOT (`<>` is none), `agg` any aggregate function, `count` to `avg` which one. Spider's own `get_keywords` differs in four points:
    it sees the first side of a set operation only, no OR in an ON, no NOT but before IN, LIKE, BETWEEN and IS, and has no
    names for joins, nesting and aggregates.
    **Source**: keywords as in Yu et al. 2018, arXiv:1809.08887, component matching.
    """
    found: set[str] = set()
    if tree is not None:
        _query(tree, found)
    return frozenset(found)


def _query(node: Any, found: set[str]) -> None:
    while isinstance(node, exp.Subquery):
        _parts(node, found)
        node = node.this
    if node.args.get("with_") is not None:
        found.add("nested")
    _parts(node, found)
    if isinstance(node, exp.SetOperation):
        found.add(OPERATIONS[type(node)])
        _query(node.this, found)
        _query(node.expression, found)
    elif isinstance(node, exp.Select):
        if node.args.get("distinct") is not None:
            found.add("distinct")
        _signs(node, found)


def _parts(node: Any, found: set[str]) -> None:
    for key, name in PARTS.items():
        if node.args.get(key) is not None:
            found.add(name)
    order = node.args.get("order")
    if order is not None:
        found.update("desc" if entry.args.get("desc") else "asc" for entry in order.expressions)
        for entry in order.expressions:
            _signs(entry, found)
    if node.args.get("joins"):
        found.add("join")


def _signs(node: Any, found: set[str]) -> None:
    """What stands in a SELECT outside of its subqueries; those are flagged, and not entered."""
    waiting = list(_children(node))
    while waiting:
        here = waiting.pop()
        if isinstance(here, exp.Query) and not isinstance(here, exp.Table):
            found.add("nested")
            continue
        for kinds, name in SIGNS:
            if isinstance(here, kinds):
                found.add(name)
        if isinstance(here, exp.Anonymous) and here.name.lower() == "total":
            found.add("agg")  # SQLite's own sum, which sqlglot has no type for
        if isinstance(here, exp.Count) and isinstance(here.this, exp.Distinct):
            found.add("distinct")
        waiting.extend(_children(here))


def _children(node: Any) -> Iterator[Any]:
    values = ((value,) if not isinstance(value, list) else value for key, value in node.args.items() if key != "with_")
    return (entry for entry in chain.from_iterable(values) if isinstance(entry, exp.Expr))


def is_valid(names: Iterable[str]) -> bool:
    """Whether a query can have just these clauses.

    ORDER BY has a direction and only it has one; a named aggregate is one. (HAVING without GROUP BY, and LIMIT without ORDER BY, are SQL.)
    """
    has = frozenset(names)
    return (
        has <= PLACE.keys()
        and ("order" in has) == bool(has & {"asc", "desc"})
        and ("agg" in has or not has & FUNCTIONS.keys())
    )


def closed(names: Iterable[str]) -> frozenset[str]:
    """The names, with what they imply: ORDER BY of a direction, ascending of an ORDER BY without, agg of an aggregate.

    >>> sorted(closed(["max", "order"]))
    ['agg', 'asc', 'max', 'order']
    """
    has = set(names)
    if has & {"asc", "desc"}:
        has.add("order")
    elif "order" in has:
        has.add("asc")
    if has & FUNCTIONS.keys():
        has.add("agg")
    return frozenset(has)


def written(names: Iterable[str]) -> str:
    """A plan as a text: `select`, and the clauses in canonical order.

    >>> written({"limit", "order", "desc"})
    'select order desc limit'
    """
    return " ".join(("select", *sorted(names, key=PLACE.__getitem__)))


def from_text(plan: str) -> frozenset[str]:
    """The clauses of a text as `written` makes it. **Raises** `DataError` for a word that is none."""
    found = [word for word in plan.lower().split() if word != "select"]
    for word in found:
        if word not in PLACE:
            raise DataError(
                f"plan {plan[:80]!r} has '{word}', which is no clause; clauses: {', '.join(CLAUSES)}.{did_you_mean(word, PLACE)}"
            )
    return closed(found)

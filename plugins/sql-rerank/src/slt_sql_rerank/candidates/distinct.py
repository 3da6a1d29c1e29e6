"""Which candidates are one query written twice."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sqlglot import exp

from slt_sql_rerank.parsing import FAILURES, read
from slt_sql_rerank.schema import Schema
from sltcore.types import Hypothesis, NBest

NOWHERE = Schema("", [])


@lru_cache(maxsize=8192)
def canonical(sql: str) -> str:
    """One text for spellings that differ in case of names and keywords, spacing and names of table aliases.

    Quoted names and literals stay as they are, and so does a text that is no query.

    >>> canonical("SELECT a.Id FROM item AS a") == canonical("select  T1.id from Item as T1")
    True
    >>> canonical("SELECT 'Tea'") == canonical("SELECT 'tea'")
    False
    """
    found = read(sql, NOWHERE).tree
    if found is None:
        return sql
    tree = found.copy()
    for name in tree.find_all(exp.Identifier):
        if not name.args.get("quoted"):
            name.set("this", str(name.this).lower())
    names: dict[str, str] = {}
    for alias in tree.find_all(exp.TableAlias):
        if isinstance(alias.parent, exp.Table) and alias.this is not None:
            names.setdefault(alias.name, f"_{len(names) + 1}")
            alias.this.set("this", names[alias.name])
    for column in tree.find_all(exp.Column):
        if column.table in names:
            column.args["table"].set("this", names[column.table])
    try:
        return str(tree.sql(dialect="sqlite"))
    except FAILURES:
        return sql


def distinct(hypotheses: Iterable[Hypothesis]) -> NBest:
    """Best first, one of each query: the one with the highest score; ties keep their order.

    `extra["merged"]` is how many spellings it stands for; the length of the list is the effective n.
    """
    kept: dict[str, tuple[Hypothesis, int]] = {}
    for one in sorted(hypotheses, key=lambda hypothesis: -hypothesis.score):
        first, count = kept.get(canonical(one.text), (one, 0))
        kept[canonical(one.text)] = (first, count + 1)
    return NBest(first._replace(extra={**first.extra, "merged": count}) for first, count in kept.values())

"""How hard a query is, by Spider's count of its parts."""

from __future__ import annotations

from typing import Literal

from slt_sql_rerank.metrics.set_match import gold_form
from slt_sql_rerank.metrics.spider_form import Form
from slt_sql_rerank.schema import Schema

Hardness = Literal["easy", "medium", "hard", "extra"]
LEVELS: tuple[Hardness, ...] = ("easy", "medium", "hard", "extra")


def hardness(gold: str, schema: Schema) -> Hardness:
    """Easy, medium, hard or extra.

    By `clauses` (WHERE, GROUP BY, ORDER BY, LIMIT, joins, ORs, LIKEs), `nested` queries, and `others` (more than one
    aggregate, column, condition, grouping; a negated condition counts as an aggregate, as in the scorer).
    **Raises** `DataError` where Spider's scorer could not parse the query.
    **Source**: Yu et al. 2018, arXiv:1809.08887, appendix, in the form of the scorer's `eval_hardness`.
    """
    form = gold_form(gold, schema)
    clauses, nested, others = _clauses(form), _nested(form), _others(form)
    if nested == 0:
        if clauses <= 1 and others == 0:
            return "easy"
        if (others <= 2 and clauses <= 1) or (clauses <= 2 and others < 2):
            return "medium"
        if (others > 2 and clauses <= 2) or (2 < clauses <= 3 and others <= 2):
            return "hard"
    return "hard" if clauses <= 1 and others == 0 and nested <= 1 else "extra"


def _clauses(form: Form) -> int:
    every = (form.on, form.where, form.having)
    return (
        sum(map(bool, (form.where.units, form.group, form.order is not None, form.limit)))
        + max(0, len(form.tables) - 1)
        + sum(conditions.connectors.count("or") for conditions in every)
        + sum(unit.operation == "like" for conditions in every for unit in conditions.units)
    )


def _nested(form: Form) -> int:
    values = [
        value
        for conditions in (form.on, form.where, form.having)
        for unit in conditions.units
        for value in (unit.first, unit.second)
    ]
    return sum(isinstance(value, Form) for value in values) + len(form.following())


def _others(form: Form) -> int:
    sides = [
        unit for term in (form.order[1] if form.order else ()) for unit in (term.left, term.right) if unit is not None
    ]
    aggregates = (
        sum(aggregate != "none" for aggregate, _ in form.select)
        + sum(unit.aggregate != "none" for unit in (*form.group, *sides))
        + sum(unit.negated for unit in (*form.where.units, *form.having.units))
    )
    return (aggregates > 1) + (len(form.select) > 1) + (len(form.where.units) > 1) + (len(form.group) > 1)

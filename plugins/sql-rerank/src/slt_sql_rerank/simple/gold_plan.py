"""Reranker `gold-plan`: the hard and soft rule with the clauses of the gold query, which bounds what a plan can do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slt_sql_rerank import databases
from slt_sql_rerank.databases import DATABASE, schema_of
from slt_sql_rerank.query_plan import rules
from slt_sql_rerank.query_plan.model import SQL, wanted
from slt_sql_rerank.query_plan.reranker import AMONG, Among, Rule, clause_sets
from sltcore.context import per_utterance
from sltcore.errors import ContextError
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis


class GoldPlan(Reranker):
    """For experiments only, since it is told the answer's clauses by context `sql`.

    hard:  the first candidate with the gold query's clauses goes first, nothing else moves
    soft:  s_i - weight * number of clauses that only one of the two has

    **Source**: own, an oracle for Zeng et al. 2022, arXiv:2210.10668.
    """

    def __init__(self, *, rule: Rule = "hard", weight: float = 10.0, among: Among = "keywords") -> None:
        self.rule = rule
        self.weight = weight
        self.among = AMONG[among]

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`sql`, and `database` for its schema."""
        return (DATABASE, SQL)

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """**Raises** `ContextError` without a gold query, `VocabularyError` where it cannot be read."""
        (gold,) = per_utterance(context, SQL, 1)
        if not gold:
            raise ContextError("reranker 'gold-plan' needs context 'sql', the gold query; it is for experiments only")
        (database,) = databases.given(context)
        names = wanted(gold) & frozenset(self.among)
        sets = clause_sets(hypotheses, schema_of(database), self.among)
        if self.rule == "hard":
            return rules.hard(sets, names)
        return [
            -math.inf if has is None else hypothesis.score - self.weight * len(has ^ names)
            for hypothesis, has in zip(hypotheses, sets, strict=True)
        ]

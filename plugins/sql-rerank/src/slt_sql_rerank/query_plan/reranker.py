"""Reranker `query-plan`: candidates whose clauses are those that the question needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from slt_sql_rerank import databases
from slt_sql_rerank.clauses import CLAUSES, KEYWORDS, clauses, written
from slt_sql_rerank.databases import DATABASE, schema_of
from slt_sql_rerank.parsing import read
from slt_sql_rerank.query_plan import rules
from slt_sql_rerank.query_plan.distribution import Distribution, Set
from slt_sql_rerank.query_plan.model import NOWHERE, QueryPlan
from slt_sql_rerank.schema import Schema
from sltcore.errors import PluginError
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis, NBest

NAME = "query-plan"
Rule = Literal["hard", "soft"]
Among = Literal["keywords", "all"]
AMONG: Mapping[str, tuple[str, ...]] = {"keywords": KEYWORDS, "all": CLAUSES}
LEAST = -30.0
SHOWN = 3
"""Terms that an explanation names."""


class QueryPlanReranker(Reranker, nn.Module):
    """Scores a candidate by a plan that an independent model made of the question and the schema.

        hard:  the first candidate with q(h) = argmax_Y p(Y) goes first; where there is none, nothing moves
        soft:  s_i + weight * log p(q(h_i))

    q(h) is the clause set of the candidate's tree, s_i its first-pass score. By the soft rule what is no query goes last.
    With `notes`, `rerank` writes into `extra["query-plan"]` of each hypothesis what was wanted, what it has, what is missing
    and what is too much.

    **Source**: Zeng et al. 2022, arXiv:2210.10668, which does not print its rule: the hard one is the plain reading of a
    plan that is generated, the soft one is ours.
    """

    name_of_reasons = NAME

    def __init__(
        self,
        plan: QueryPlan,
        *,
        rule: Rule = "soft",
        weight: float = 1.0,
        among: Among = "keywords",
        notes: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(plan, QueryPlan):
            raise PluginError(
                f"reranker 'query-plan': slot plan holds a {type(plan).__name__}; expected decoder 'plan-labels' or 'plan-sequence'"
            )
        self.plan = plan
        self.rule = rule
        self.weight = weight
        self.among = AMONG[among]
        self.notes = notes

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`; only its schema is read."""
        return (DATABASE,)

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """One score for each; see the class for the rules."""
        (database,) = databases.given(context)
        return self.score_by(query, database, hypotheses, context)

    def score_by(
        self, query: Any, database: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]
    ) -> list[float]:
        """`score` with the plan of any question to any database, which a control may have chosen."""
        plan = self._plan(query, schema_of(database))
        return self._scores(plan, hypotheses, self._sets(hypotheses, context))

    def rerank(self, query: Any, hypotheses: NBest, context: Mapping[str, Any]) -> NBest:
        """The list in its new order, with reasons where `notes` is set."""
        if not self.notes:
            return super().rerank(query, hypotheses, context)
        reasons = self.explain(query, hypotheses, context)
        order = sorted(range(len(hypotheses)), key=lambda place: -reasons[place]["score"])
        noted = [h._replace(extra={**h.extra, NAME: why}) for h, why in zip(hypotheses, reasons, strict=True)]
        return NBest(noted[place] for place in order)

    def explain(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Why each scores as it does: `wanted`, `has`, `missing`, `surplus`, `score`, log-probabilities of both sets, and
        the terms that weigh most against it."""
        (database,) = databases.given(context)
        plan = self._plan(query, schema_of(database))
        sets = self._sets(hypotheses, context)
        wanted = plan.best(1, self.among)[0]
        scores = self._scores(plan, hypotheses, sets)
        return [self._explained(plan, wanted, *entry) for entry in zip(sets, scores, strict=True)]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What `features` gives."""
        return ("log_prob", "agrees")

    def features(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[list[float]]:
        """log p of each candidate's clauses, at least -30, and 1 where they are the predicted ones [k f]; for a combination
        that learns."""
        (database,) = databases.given(context)
        plan = self._plan(query, schema_of(database))
        wanted = plan.best(1, self.among)[0][0]
        return [
            [LEAST if names is None else max(LEAST, plan.log_prob(names, self.among)), float(names == wanted)]
            for names in self._sets(hypotheses, context)
        ]

    def _plan(self, query: Any, schema: Schema | None) -> Distribution:
        return self.plan.plans([str(query or "")], [schema])[0]

    def _sets(self, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[Set | None]:
        (database,) = databases.given(context)
        return clause_sets(hypotheses, schema_of(database), self.among)

    def _scores(self, plan: Distribution, hypotheses: Sequence[Hypothesis], sets: Sequence[Set | None]) -> list[float]:
        if self.rule == "hard":
            return rules.hard(sets, plan.best(1, self.among)[0][0])
        return rules.soft([h.score for h in hypotheses], sets, plan, self.among, self.weight)

    def _explained(
        self, plan: Distribution, wanted: tuple[Set, float], names: Set | None, score: float
    ) -> dict[str, Any]:
        best, log_prob = wanted
        score = -math.inf if math.isnan(score) else score
        found: dict[str, Any] = {"wanted": written(best), "wanted_log_prob": log_prob, "score": score}
        if names is None:
            return {**found, "has": None, "impossible": "it is no query"}
        terms = plan.terms(names, self.among)
        against = sorted(terms, key=lambda name: (terms[name], name))[:SHOWN]
        return {
            **found,
            "has": written(names),
            "missing": written(best - names).split()[1:],
            "surplus": written(names - best).split()[1:],
            "log_prob": plan.log_prob(names, self.among),
            "against": {name: round(terms[name], 4) for name in against},
        }


def clause_sets(hypotheses: Sequence[Hypothesis], schema: Schema | None, among: Sequence[str]) -> list[Set | None]:
    """The clauses of each candidate, of those in `among`; None for what is no query."""
    kept = frozenset(among)
    trees = [read(hypothesis.text, schema or NOWHERE).tree for hypothesis in hypotheses]
    return [clauses(tree) & kept if tree is not None else None for tree in trees]

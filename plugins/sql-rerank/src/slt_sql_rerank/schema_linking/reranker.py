"""Reranker `schema-linking`: candidates that use what the question names come first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from slt_sql_rerank import databases
from slt_sql_rerank.databases import DATABASE, Sandboxes, schema_of
from slt_sql_rerank.linking.index import LinkIndex
from slt_sql_rerank.linking.indexes import Indexes
from slt_sql_rerank.parsing import read
from slt_sql_rerank.sandbox.outcome import Verdict
from slt_sql_rerank.schema_linking.constraints import POINTS, Broken, broken
from slt_sql_rerank.schema_linking.use import used
from slt_sql_rerank.schema_linking.wants import Asked, asked
from sltcore.errors import ContextError
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis, NBest

NAME = "schema-linking"
Rule = Literal["hard", "soft"]


class Judged(NamedTuple):
    """One candidate: what it breaks, or why it is impossible."""

    broken: tuple[Broken, ...]
    impossible: str = ""


class SchemaLinkingReranker(Reranker):
    """Scores a candidate by what it breaks of the links between the question and the schema.

        hard:  -points      soft:  s_i - weight * points      points = Σ_c points_c amount_c

    The question's words are linked to tables, columns and cells through one index of the database, built at its first use.
    Whether a candidate prepares, and which columns it reads, says the database itself, in the sandbox and without running
    anything; joins and literals come from the tree. What does not prepare is impossible and goes last, with the first-pass
    order among themselves. Where the call has a schema without rows, names alone decide.

    With `notes`, `rerank` writes into `extra["schema-linking"]` of each hypothesis its points and, for each broken
    constraint, the link that it breaks.

    **Source**: Zeng et al. 2022, arXiv:2210.10668 (the constraints, in words); points and rule are ours.
    """

    name_of_reasons = NAME

    def __init__(
        self,
        indexes: Indexes,
        sandboxes: Sandboxes,
        *,
        rule: Rule = "soft",
        weight: float = 1.0,
        points: Mapping[str, float] | None = None,
        notes: bool = True,
    ) -> None:
        self.indexes, self.sandboxes = indexes, sandboxes
        self.rule, self.weight = rule, weight
        self.points = {**POINTS, **(points or {})}
        self.notes = notes

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`database`."""
        return (DATABASE,)

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """See the class; -inf for what is impossible. **Raises** `ContextError` without a database."""
        judged = self.judge(query, hypotheses, context)
        return [self._score(one, hypothesis) for one, hypothesis in zip(judged, hypotheses, strict=True)]

    def rerank(self, query: Any, hypotheses: NBest, context: Mapping[str, Any]) -> NBest:
        """The list in its new order, with reasons where `notes` is set."""
        judged = self.judge(query, hypotheses, context)
        scores = [self._score(one, hypothesis) for one, hypothesis in zip(judged, hypotheses, strict=True)]
        noted = list(hypotheses)
        if self.notes:
            noted = [
                h._replace(extra={**h.extra, NAME: self._reasons(one, score)})
                for h, one, score in zip(hypotheses, judged, scores, strict=True)
            ]
        order = sorted(range(len(noted)), key=lambda place: -scores[place])
        return NBest(noted[place] for place in order)

    def explain(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Why each scores as it does: `points`, `score`, `broken`, and `impossible` where it is."""
        judged = self.judge(query, hypotheses, context)
        return [self._reasons(one, self._score(one, h)) for one, h in zip(judged, hypotheses, strict=True)]

    def links(self, query: Any, context: Mapping[str, Any]) -> list[str]:
        """The links of a question, in words."""
        (database,) = databases.given(context)
        return [str(link) for link in self.indexes.of(database).link(str(query or ""))]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What `features` counts."""
        return tuple(POINTS)

    def features(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[list[float]]:
        """How strongly each candidate breaks each constraint, negative, [k f]; for a combination that learns."""
        return [
            [-sum(one.amount for one in entry.broken if one.constraint == name) for name in POINTS]
            for entry in self.judge(query, hypotheses, context)
        ]

    def judge(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[Judged]:
        """What each candidate breaks."""
        (database,) = databases.given(context)
        schema = schema_of(database)
        if schema is None:
            raise ContextError(
                "reranker 'schema-linking' links a question to a database; the call gives no context 'database'"
            )
        text = str(query or "")
        index = self.indexes.of(database)
        question = asked(text, index.link(text), schema)
        verdicts = self._verdicts(database, hypotheses)
        return [self._judged(h, question, index, v) for h, v in zip(hypotheses, verdicts, strict=True)]

    def _verdicts(self, database: Any, hypotheses: Sequence[Hypothesis]) -> Sequence[Verdict | None]:
        if not databases.has_rows(database):
            return [None] * len(hypotheses)
        return self.sandboxes.of(database).check_all([hypothesis.text for hypothesis in hypotheses])

    def _judged(self, hypothesis: Hypothesis, question: Asked, index: LinkIndex, verdict: Verdict | None) -> Judged:
        schema = index.schema
        if verdict is not None and not verdict.ok:
            return Judged((), verdict.reason)
        tree = read(hypothesis.text, schema)
        if tree.tree is None:
            return Judged((), tree.problem or "it is no query") if verdict is None else Judged(())
        use = used(tree.tree, schema, verdict)
        if verdict is None and use.unknown:
            return Judged((), f"the database has no {', '.join(use.unknown)}")
        return Judged(tuple(broken(use, question, index)))

    def _points(self, judged: Judged) -> float:
        return math.fsum(self.points[one.constraint] * one.amount for one in judged.broken)

    def _score(self, judged: Judged, hypothesis: Hypothesis) -> float:
        if judged.impossible:
            return -math.inf
        points = self._points(judged)
        return -points if self.rule == "hard" else hypothesis.score - self.weight * points

    def _reasons(self, judged: Judged, score: float) -> dict[str, Any]:
        if judged.impossible:
            return {"impossible": judged.impossible, "points": None, "score": None, "broken": []}
        told = [
            {"constraint": one.constraint, "points": round(self.points[one.constraint] * one.amount, 4), "why": one.why}
            for one in judged.broken
        ]
        return {"points": round(self._points(judged), 4), "score": score, "broken": told}

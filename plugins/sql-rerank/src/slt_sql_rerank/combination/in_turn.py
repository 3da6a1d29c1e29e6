"""Reranker `in-turn`: one reranker decides, the next one among what it finds equal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sltcore.errors import PluginError
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis, NBest

DIGITS = 9
"""Scores that agree so far are equal."""


class InTurn(Reranker):
    """Candidates in the order of the first reranker; where it gives equal scores, of the second, and so on; then as they came.

    What any of them finds impossible goes last. `score` gives places, 0 for the first, -1 for the next. Rerankers that give
    every candidate another score leave nothing to those behind them: take their rule `hard`.

    **Source**: Zeng et al. 2022, arXiv:2210.10668, combine a plan and schema links; their order is not printed.
    """

    def __init__(self, rerankers: Sequence[Reranker]) -> None:
        if not rerankers:
            raise PluginError("reranker 'in-turn': rerankers is empty; expected at least one")
        self.rerankers = tuple(rerankers)

    def context_keys(self) -> tuple[ContextKey, ...]:
        """Those of all."""
        return tuple({key.name: key for part in self.rerankers for key in part.context_keys()}.values())

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """Minus the place of each; -inf for what is impossible."""
        columns = [part.score(query, hypotheses, context) for part in self.rerankers]
        keys = [tuple(_rounded(column[place]) for column in columns) for place in range(len(hypotheses))]
        order = sorted(range(len(keys)), key=lambda place: tuple(-value for value in keys[place]))
        found = [0.0] * len(keys)
        for rank, place in enumerate(order):
            found[place] = -math.inf if -math.inf in keys[place] else -float(rank)
        return found

    def rerank(self, query: Any, hypotheses: NBest, context: Mapping[str, Any]) -> NBest:
        """The list in its new order, with the reasons of all."""
        return with_reasons(self.rerankers, self.score(query, hypotheses, context), query, hypotheses, context)


def with_reasons(
    parts: Sequence[Reranker], scores: Sequence[float], query: Any, hypotheses: NBest, context: Mapping[str, Any]
) -> NBest:
    """The list sorted by `scores`, stable, with what each part that explains itself writes into `extra`."""
    noted = list(hypotheses)
    for part in parts:
        explain, name = getattr(part, "explain", None), getattr(part, "name_of_reasons", "")
        if explain is not None and name and getattr(part, "notes", True):
            reasons = explain(query, hypotheses, context)
            noted = [h._replace(extra={**h.extra, name: why}) for h, why in zip(noted, reasons, strict=True)]
    finite = [-math.inf if math.isnan(score) else score for score in scores]
    return NBest(noted[place] for place in sorted(range(len(noted)), key=lambda place: -finite[place]))


def _rounded(score: float) -> float:
    return -math.inf if math.isnan(score) else round(score, DIGITS) if math.isfinite(score) else score

"""Reranker `weighted`: a linear combination of what several rerankers know, with weights that are learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from slt_sql_rerank.combination.in_turn import with_reasons
from sltcore.errors import PluginError, did_you_mean
from sltcore.interfaces import Reranker
from sltcore.types import ContextKey, Hypothesis, NBest

FIRST = "first-pass"
NAME = "weighted"
LEARNED: Mapping[str, float] = MappingProxyType(
    {
        "first-pass": 0.5858,
        "log_prob": 0.4374,
        "agrees": -0.1275,
        "missing-table": 3.0038,
        "missing-column": 7.6371,
        "missing-cell": 1.2624,
        "unlinked-column": 2.2845,
        "needless-table": 4.6173,
        "join-off-key": 3.7796,
        "strange-text": 1.8936,
        "other-column": 5.0725,
        "strange-number": 4.592,
    }
)
"""Of `query-plan` (clauses `all`) and `schema-linking`: learned on lists of a small language model for 836 questions of 16
databases of Spider that no model saw, by `experiments/rerank`. With other first-pass scores only their scale differs."""


class Weighted(Reranker, nn.Module):
    """`s_i = Σ_f w_f x_f(i)`: x are the first-pass score and the features of each reranker.

    A reranker with `features` gives several, as `query-plan` its log-probability and `schema-linking` its constraints; any
    other gives its score. What any of them finds impossible stays so. Weights are parameters, named `feature_names`;
    `combination.learning.fit_weights` finds them from lists whose correct candidates are known. Where none are given they
    are `LEARNED`, and 1 for what that does not name.

    **Source**: Zeng et al. 2022, arXiv:2210.10668, for the two sources; the linear model is ours.
    """

    def __init__(
        self, rerankers: Sequence[Reranker], weights: Mapping[str, float] | None = None, *, notes: bool = True
    ) -> None:
        super().__init__()
        self.rerankers = tuple(rerankers)
        self.parts = nn.ModuleList([part for part in rerankers if isinstance(part, nn.Module)])
        self.notes = notes
        given = {FIRST: 1.0, **weights} if weights else LEARNED
        names = self.feature_names
        unknown = sorted(set(weights or ()) - set(names))
        if unknown:
            raise PluginError(
                f"reranker 'weighted': weights names '{unknown[0]}', which is no feature; features: {', '.join(names)}."
                f"{did_you_mean(unknown[0], names)}"
            )
        start = [given.get(name, 0.0 if weights else 1.0) for name in names]
        self.weights = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of the weights, in order."""
        found = [FIRST]
        for place, part in enumerate(self.rerankers):
            own = getattr(part, "feature_names", None)
            found += own if own is not None else [f"reranker {place + 1}"]
        return tuple(found)

    def context_keys(self) -> tuple[ContextKey, ...]:
        """Those of all."""
        return tuple({key.name: key for part in self.rerankers for key in part.context_keys()}.values())

    def features(
        self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]
    ) -> tuple[Tensor, list[bool]]:
        """x [k f] float64, and which candidates are possible, [k]."""
        columns: list[list[float]] = [[hypothesis.score for hypothesis in hypotheses]]
        possible = [True] * len(hypotheses)
        for part in self.rerankers:
            scores = part.score(query, hypotheses, context)
            possible = [before and score > -math.inf for before, score in zip(possible, scores, strict=True)]
            if hasattr(part, "feature_names"):
                columns += [list(column) for column in zip(*part.features(query, hypotheses, context), strict=True)]  # type: ignore[attr-defined]
            else:
                columns.append(list(scores))
        found = torch.tensor(columns, dtype=torch.float64).T
        return torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0), possible

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """The weighted sums; -inf for what is impossible."""
        if not hypotheses:
            return []
        found, possible = self.features(query, hypotheses, context)
        sums = (found @ self.weights.detach().double()).tolist()
        return [value if fine else -math.inf for value, fine in zip(sums, possible, strict=True)]

    def rerank(self, query: Any, hypotheses: NBest, context: Mapping[str, Any]) -> NBest:
        """The list in its new order; `extra["weighted"]` holds each feature's share of the score."""
        scores = self.score(query, hypotheses, context)
        if not self.notes:
            return with_reasons((), scores, query, hypotheses, context)
        found, _ = self.features(query, hypotheses, context)
        shares = (found * self.weights.detach().double()).tolist()
        noted = [
            h._replace(
                extra={**h.extra, NAME: {"score": score if math.isfinite(score) else None, "shares": _told(names)}}
            )
            for h, score, row in zip(hypotheses, scores, shares, strict=True)
            for names in [dict(zip(self.feature_names, row, strict=True))]
        ]
        return with_reasons(self.rerankers, scores, query, NBest(noted), context)


def _told(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in shares.items() if value}

"""A good reranker with a loss, and one that breaks each promise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.interfaces import Reranker
from sltcore.types import Hypothesis, NBest

SMALL: dict[str, object] = {}


class Good(Reranker, nn.Module):
    """The decoder's score times a weight, plus one for the number of words. Source: own, for tests."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> Sequence[float]:
        return [float(value) for value in self.scores(hypotheses)]

    def scores(self, hypotheses: Sequence[Hypothesis]) -> Tensor:
        return torch.tensor([[h.score, float(len(h.text.split()))] for h in hypotheses]) @ self.weight

    def loss(self, query: Any, hypotheses: Sequence[NBest], correct: Tensor) -> Tensor:
        scores = torch.stack([self.scores(nbest) for nbest in hypotheses])
        return -(scores.log_softmax(dim=-1) * correct).sum(dim=-1)

    def order(self, scores: list[float]) -> list[int]:
        """Places, best first."""
        known = [-math.inf if math.isnan(value) else value for value in scores]
        return sorted(range(len(known)), key=lambda place: -known[place])

    def rerank(self, query: Any, hypotheses: NBest, context: Mapping[str, Any]) -> NBest:
        return NBest(hypotheses[place] for place in self.order(list(self.score(query, hypotheses, context))))


class Edits(Good):
    def rerank(self, query: Any, hypotheses: NBest, context: Mapping[str, Any]) -> NBest:
        return NBest(h._replace(score=h.score + 1) for h in super().rerank(query, hypotheses, context))


class TurnsTies(Good):
    def order(self, scores: list[float]) -> list[int]:
        known = [-math.inf if math.isnan(value) else value for value in scores]
        return sorted(range(len(known)), key=lambda place: (known[place], place), reverse=True)


class TrustsNan(Good):
    def order(self, scores: list[float]) -> list[int]:
        return super().order([math.inf if math.isnan(value) else value for value in scores])


class ScoresOneMore(Good):
    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> Sequence[float]:
        found = list(super().score(query, hypotheses, context))
        return [*found, 0.0] if len(found) > 4 else found


class DrawsGlobally(Good):
    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> Sequence[float]:
        return [value + float(torch.rand(())) for value in super().score(query, hypotheses, context)]


class ReducesLoss(Good):
    def loss(self, query: Any, hypotheses: Sequence[NBest], correct: Tensor) -> Tensor:
        return super().loss(query, hypotheses, correct).mean()


BROKEN = {
    "permutation": (Edits, "came back, which was not given like that"),
    "stable": (TurnsTies, r"gave the places \[4, 3, 2, 1, 0\], expected \[0, 1, 2, 3, 4\]"),
    "impossible-last": (TrustsNan, "places 1, 3 and 5 should come last"),
    "one-score-each": (ScoresOneMore, "5 hypotheses got 6 scores"),
    "deterministic": (DrawsGlobally, "scoring one list twice"),
    "loss-shape": (ReducesLoss, "expected two finite numbers"),
}

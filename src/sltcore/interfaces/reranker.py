"""Reranker: another opinion on an n-best list."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sltcore.errors import PluginError
from sltcore.interfaces.part import Part, overrides
from sltcore.types import Hypothesis, NBest, Port

if TYPE_CHECKING:
    from torch import Tensor


class Reranker(Part):
    """Scores hypotheses; the order follows. Nothing is added, edited or dropped."""

    promises: ClassVar[Mapping[str, str]] = {
        "permutation": "reranking returns the same hypotheses in another order",
        "stable": "equal scores keep the order they came in",
        "impossible-last": "hypotheses scored -inf go last, and NaN counts as -inf",
        "one-score-each": "score gives one number for each hypothesis",
        "deterministic": "the same list gives the same scores twice",
        "loss-shape": "loss gives one finite number for each query, where it exists",
    }

    @property
    def consumes(self) -> Port:
        """N-best lists."""
        return Port("Hypotheses")

    @property
    def produces(self) -> Port:
        """The same lists, reordered."""
        return Port("Hypotheses")

    @abstractmethod
    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> Sequence[float]:
        """One score [k] for each hypothesis of one query; higher is better, -inf is impossible."""

    def rerank(self, query: Any, hypotheses: NBest, context: Mapping[str, Any]) -> NBest:
        """The list sorted by `score`, highest first, stable; **Raises** `PluginError` when the count is off."""
        scores = [float(value) for value in self.score(query, hypotheses, context)]
        if len(scores) != len(hypotheses):
            raise PluginError(
                f"{type(self).__name__}.score returned {len(scores)} scores for {len(hypotheses)} hypotheses, "
                f"expected one each"
            )
        finite = [-math.inf if math.isnan(value) else value for value in scores]
        order = sorted(range(len(finite)), key=lambda index: -finite[index])
        return NBest(hypotheses[index] for index in order)

    def loss(self, query: Any, hypotheses: Sequence[NBest], correct: Tensor) -> Tensor:
        """Training loss [b] for `correct` [b k] bool. **Raises** `PluginError` where there is none."""
        raise PluginError(f"{type(self).__name__} has no loss and cannot be trained")

    @property
    def has_loss(self) -> bool:
        """Whether it can be trained."""
        return overrides(self, "loss", Reranker)

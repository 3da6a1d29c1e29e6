"""Reranker `likelihood`: the first-pass score alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sltcore.interfaces import Reranker
from sltcore.types import Hypothesis

Per = Literal["query", "token", "character"]


class LikelihoodReranker(Reranker):
    """Scores s_i, or s_i divided by the candidate's length, for lists whose scores favour short queries.

    Lengths are tokens where the hypothesis has them (else words), or characters; at least 1.

    **Source**: own for the plain score; by length as in Wu et al. 2016, arXiv:1609.08144, section 7, with exponent 1.
    """

    def __init__(self, *, per: Per = "query") -> None:
        self.per = per

    def score(self, query: Any, hypotheses: Sequence[Hypothesis], context: Mapping[str, Any]) -> list[float]:
        """First-pass scores in nats, by length where asked."""
        return [hypothesis.score / self._length(hypothesis) for hypothesis in hypotheses]

    def _length(self, hypothesis: Hypothesis) -> int:
        if self.per == "query":
            return 1
        if self.per == "character":
            return max(1, len(hypothesis.text))
        return max(1, len(hypothesis.tokens) or len(hypothesis.text.split()))

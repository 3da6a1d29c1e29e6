"""How sure an n-best list is of each hypothesis and of each of its words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from sltcore.types import Hypothesis

Place = tuple[str, tuple[float, float]]


def with_confidences(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The hypotheses of one list with `extra["confidence"]`, and `extra["word_confidences"]` where words have times.

        confidence_k = exp(score_k) / sum_j exp(score_j)

    over the list: 1 in all, so it says how much one hypothesis leads the others that were kept, not how probable it is
    among everything that could have been said. A word's confidence is the sum over the hypotheses that hold the same
    word at an overlapping time.
    """
    if not hypotheses:
        return []
    top = max(hypothesis.score for hypothesis in hypotheses)
    weights = [
        math.exp(hypothesis.score - top) if hypothesis.score > -math.inf else float(hypothesis.score == top)
        for hypothesis in hypotheses
    ]
    shares = [weight / math.fsum(weights) for weight in weights]
    places: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for index, hypothesis in enumerate(hypotheses):
        for word, (begin, end) in _words(hypothesis):
            places[word].append((index, begin, end))
    known: dict[Place, float] = {}
    found = []
    for hypothesis, share in zip(hypotheses, shares, strict=True):
        extra = {**hypothesis.extra, "confidence": share}
        if "words" in extra:
            extra["word_confidences"] = tuple(
                _share_of(place, places[place[0]], shares, known) for place in _words(hypothesis)
            )
        found.append(hypothesis._replace(extra=extra))
    return found


def _words(hypothesis: Hypothesis) -> list[Place]:
    words = hypothesis.extra.get("words")
    return [] if words is None else list(zip(words, hypothesis.times, strict=True))


def _share_of(
    place: Place, others: Sequence[tuple[int, float, float]], shares: Sequence[float], known: dict[Place, float]
) -> float:
    if place not in known:
        begin, end = place[1]
        holders = {index for index, first, last in others if first < end and begin < last}
        known[place] = min(math.fsum(shares[index] for index in holders), 1.0)
    return known[place]

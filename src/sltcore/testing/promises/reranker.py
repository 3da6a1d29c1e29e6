"""The promises of rerankers, as tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sltcore.interfaces import Reranker
from sltcore.testing import inputs
from sltcore.testing.case import Case, seeded
from sltcore.testing.difference import difference
from sltcore.testing.promises.promise import Promises, promise
from sltcore.types import NBest

IMPOSSIBLE = (0.5, -math.inf, 2.0, math.nan, 2.0, -math.inf)


class RerankerPromises(Promises):
    """What `sltcore.interfaces.Reranker` promises."""

    kind: ClassVar[str] = "reranker"
    promises: ClassVar[Mapping[str, str]] = Reranker.promises

    @promise("return the given hypotheses themselves; a new opinion is the order, not an edited score or text")
    def test_permutation(self, case: Case) -> str | None:
        part = case.fresh()
        for scores in ([0.0, 3.0, -1.0, 2.0], list(IMPOSSIBLE), [1.0]):
            given = inputs.nbest(len(scores))
            out = reranked(case, part, given, scores)
            rest = list(given)
            for hypothesis in out:
                if hypothesis not in rest:
                    return (
                        f"{hypothesis.text!r} (score {hypothesis.score:.6g}) came back, which was not given like that"
                    )
                rest.remove(hypothesis)
            if rest:
                return f"{len(rest)} of {len(given)} hypotheses are missing, the first is {rest[0].text!r}"
        return None

    @promise("sort by the score alone with a stable sort: sorted(range(k), key=lambda i: -scores[i])")
    def test_stable(self, case: Case) -> str | None:
        part = case.fresh()
        for scores, order in (([1.0] * 5, [0, 1, 2, 3, 4]), ([0.0, 2.0, 0.0, 2.0], [1, 3, 0, 2])):
            given = inputs.nbest(len(scores))
            places = places_of(reranked(case, part, given, scores), given)
            kept = [place for place in places if place is not None]
            if kept != order and sorted(kept) == sorted(order):
                return f"scores {scores} gave the places {kept}, expected {order}"
        return None

    @promise("turn NaN into -inf before sorting; NaN compares false with everything and scrambles a sort")
    def test_impossible_last(self, case: Case) -> str | None:
        part = case.fresh()
        given = inputs.nbest(len(IMPOSSIBLE))
        places = places_of(reranked(case, part, given, IMPOSSIBLE), given)
        possible = {0, 2, 4}
        if any(place in possible for place in places[3:]):
            return f"scores {list(IMPOSSIBLE)} gave the places {places}; places 1, 3 and 5 should come last"
        return None

    @promise("return one number for each hypothesis, -inf for one that is impossible; never drop or add one")
    def test_one_score_each(self, case: Case) -> str | None:
        part = case.part
        for raw in case.contexts:
            for size in (1, 2, 5):
                scores = score(case, part, inputs.nbest(size), raw)
                if len(scores) != size:
                    return f"{size} hypotheses got {len(scores)} scores"
                if any(value == math.inf for value in scores):
                    return f"the scores are {scores}; +inf is no score"
        return None

    @promise("switch dropout off in evaluation, and draw randomness only from context['generator']")
    def test_deterministic(self, case: Case) -> str | None:
        part = case.part
        for raw in case.contexts:
            found = difference(
                score(case, part, inputs.nbest(4), raw), score(case, part, inputs.nbest(4), raw, noise=1)
            )
            if found:
                return f"scoring one list twice: {found}"
        return None

    @promise("return the loss of each query, as reduction='none' does")
    def test_loss_shape(self, case: Case) -> str | None:
        part = case.part
        if not part.has_loss:
            pytest.skip("it has no loss")
        nbests = [inputs.nbest(3, seed=row) for row in range(2)]
        correct = torch.tensor([[True, False, False], [False, True, False]])
        with seeded(0):
            loss = part.loss([query(case)] * 2, nbests, correct)
        if not isinstance(loss, Tensor) or loss.shape != (2,) or not bool(loss.isfinite().all()):
            return f"loss returned {loss!r}, expected two finite numbers [b]"
        return None


def query(case: Case) -> Any:
    """What the hypotheses answer."""
    return case.small.get("query", "one two three")


def score(
    case: Case, part: Any, hypotheses: NBest, raw: Mapping[str, Any] | None = None, *, noise: int = 0
) -> list[float]:
    """One call; `noise` seeds the global generators, which nothing should read."""
    with seeded(noise), torch.no_grad():
        return [float(value) for value in part.score(query(case), hypotheses, case.context(part, raw or {}, 1))]


def reranked(case: Case, part: Any, hypotheses: NBest, scores: Sequence[float]) -> NBest:
    """`rerank` where `score` says `scores`, so that the ordering is judged apart from the opinion."""
    part.score = lambda *arguments, **options: list(scores)
    with seeded(0), torch.no_grad():
        out: NBest = part.rerank(query(case), hypotheses, case.context(part, {}, 1))
    return out


def places_of(out: NBest, given: NBest) -> list[int | None]:
    """Where each returned hypothesis stood, by its tokens."""
    before = [hypothesis.tokens for hypothesis in given]
    return [before.index(h.tokens) if h.tokens in before else None for h in out]

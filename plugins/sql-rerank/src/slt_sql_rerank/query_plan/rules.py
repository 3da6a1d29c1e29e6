"""From a plan's opinion of each candidate to scores that order a list."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slt_sql_rerank.query_plan.distribution import Distribution, Set


def hard(sets: Sequence[Set | None], wanted: Set) -> list[float]:
    """1 for the first candidate whose clauses are the wanted ones, 0 for the rest: it goes first, nothing else moves.

    `sets` are the clauses of each candidate, None where it is no query.
    """
    chosen = next((place for place, names in enumerate(sets) if names == wanted), None)
    return [1.0 if place == chosen else 0.0 for place in range(len(sets))]


def soft(
    scores: Sequence[float], sets: Sequence[Set | None], plan: Distribution, among: Sequence[str], weight: float
) -> list[float]:
    """s_i + weight * log p(Y_i); -inf for a candidate that is no query, where the weight is not 0.

    For a plan by labels log p is, up to a constant, sum_c [y_c log p_c + (1 - y_c) log(1 - p_c)].
    """
    found = []
    for score, names in zip(scores, sets, strict=True):
        if weight == 0:
            found.append(score)
        else:
            found.append(-math.inf if names is None else score + weight * plan.log_prob(names, among))
    return found

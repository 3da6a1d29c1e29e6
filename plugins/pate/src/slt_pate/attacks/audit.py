"""Empirical lower bounds of epsilon: what an attacker's hits prove about a mechanism, at a stated confidence."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from slt_pate.attacks.statistics import checked_scores, clopper_pearson
from sltcore.errors import PrivacyError

MOST_EPSILON = 100.0


class LowerBound(NamedTuple):
    """Epsilon is at least this, at delta, unless something of probability 1 - confidence happened."""

    epsilon: float
    delta: float
    confidence: float


def epsilon_of_two_worlds(
    with_canary: ArrayLike, without: ArrayLike, *, delta: float, confidence: float = 0.95, thresholds: int = 100
) -> LowerBound:
    """A lower bound from scores of runs with a canary and of runs without it, one score of each run.

    epsilon >= ln((TPR - delta) / FPR) and ln((TNR - delta) / FNR), of rates bounded by Clopper-Pearson. The threshold is chosen on the
    even runs among `thresholds` quantiles, and rates are counted on the odd ones, so that choosing costs no confidence; two
    directions and two rates share it.

    **Raises** `PrivacyError` for fewer than 4 scores of either, or a delta or confidence that is none.

    **Source**: Jagielski, Ullman, Oprea 2020, arXiv:2006.07709, section 3; Nasr et al. 2021, arXiv:2101.04535.
    """
    inside, outside = checked_scores(with_canary, without)
    _check(delta, confidence)
    if min(len(inside), len(outside)) < 4:
        raise PrivacyError(
            f"{len(inside)} runs with the canary and {len(outside)} without; expected at least 4 of each"
        )
    levels = np.linspace(0, 1, thresholds)
    candidates = np.unique(np.quantile(np.concatenate([inside[::2], outside[::2]]), levels))

    def bound(threshold: float, first: int) -> float:
        own, others = inside[first::2], outside[first::2]
        hits, alarms = int((own >= threshold).sum()), int((others >= threshold).sum())
        return max(
            _ratio(hits, len(own), alarms, len(others), delta, confidence),
            _ratio(len(others) - alarms, len(others), len(own) - hits, len(own), delta, confidence),
        )

    chosen = max(candidates, key=lambda threshold: bound(float(threshold), 0))
    return LowerBound(bound(float(chosen), 1), delta, confidence)


def _ratio(hits: int, trials: int, misses: int, others: int, delta: float, confidence: float) -> float:
    # Four bounds (a low and a high one, in two directions) must hold together.
    each = 1 - (1 - confidence) / 4
    low = clopper_pearson(hits, trials, confidence=each, sides=1)[0]
    high = clopper_pearson(misses, others, confidence=each, sides=1)[1]
    return max(0.0, math.log((low - delta) / high)) if low > delta else 0.0


def epsilon_of_one_run(
    correct: int, guesses: int, canaries: int, *, delta: float, confidence: float = 0.95
) -> LowerBound:
    """A lower bound from a single run: of `canaries`, each in the data by a fair coin of its own, the attacker names `guesses` as in or
    out, and is right about `correct`.

    For an (epsilon, delta)-private mechanism, P[right >= v] <= f(v) + 2 m delta max_{1<=i<=v} (f(v-i) - f(v)) / i, where f(v) = P[B >= v] and
    B of Binomial(guesses, e^epsilon / (1 + e^epsilon)). The bound is the largest epsilon at which the right side is at most 1 - confidence.

    Which canaries are named may depend on all scores, but `guesses` must be fixed before: trying several numbers needs the
    confidence shared among them (`epsilon_of_scores`). Neighbours differ in one canary that is added or taken away.

    **Raises** `PrivacyError` for counts that are none.

    **Source**: Steinke, Nasr, Jagielski 2023, arXiv:2305.08846, theorem 5.2.
    """
    _check(delta, confidence)
    if not 0 <= correct <= guesses <= canaries or canaries < 1:
        raise PrivacyError(
            f"{correct} right of {guesses} guesses about {canaries} canaries; expected right <= guesses <= canaries"
        )
    if _chance(correct, guesses, canaries, 0.0, delta) > 1 - confidence:
        return LowerBound(0.0, delta, confidence)
    low, high = 0.0, 1.0
    while high < MOST_EPSILON and _chance(correct, guesses, canaries, high, delta) <= 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        if _chance(correct, guesses, canaries, middle, delta) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return LowerBound(low, delta, confidence)


def _chance(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """The most that the chance of so many right guesses can be."""
    tails = stats.binom.sf(np.arange(-1, correct), guesses, 1 / (1 + math.exp(-epsilon)))
    least = float(tails[-1])  # P[B >= correct]
    if not delta or not correct:
        return least
    more = float(np.max((tails[-2::-1] - least) / np.arange(1, correct + 1)))
    return min(1.0, least + 2 * canaries * delta * more)


def epsilon_of_scores(
    scores: ArrayLike,
    is_in: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0),
) -> LowerBound:
    """A lower bound from the scores [m] of one run's canaries and who was in, bool [m].

    The highest scores are guessed in and as many of the lowest out; the best of several numbers of guesses (`shares` of the
    canaries), each at its part of 1 - confidence.

    **Raises** `PrivacyError` for scores that do not fit.
    """
    values, inside = np.asarray(scores, np.float64), np.asarray(is_in, dtype=bool)
    if values.ndim != 1 or values.shape != inside.shape or not values.size or np.isnan(values).any():
        raise PrivacyError(
            f"scores {values.shape} and memberships {inside.shape}; expected one of each for every canary"
        )
    order = np.argsort(values, kind="stable")
    each = 1 - (1 - confidence) / len(shares)
    best = 0.0
    for share in shares:
        half = max(1, int(share * len(values)) // 2)
        half = min(half, len(values) // 2)
        if not half:
            continue
        correct = int(inside[order[-half:]].sum() + (~inside[order[:half]]).sum())
        found = epsilon_of_one_run(correct, 2 * half, len(values), delta=delta, confidence=each)
        best = max(best, found.epsilon)
    return LowerBound(best, delta, confidence)


def _check(delta: float, confidence: float) -> None:
    if isinstance(delta, bool) or not 0 <= delta < 1:
        raise PrivacyError(f"delta is {delta!r}, expected a number from 0 to below 1")
    if not 0 < confidence < 1:
        raise PrivacyError(f"confidence is {confidence!r}, expected a number between 0 and 1")

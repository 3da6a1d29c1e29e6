"""Curves, areas and intervals that attacks are told by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sltcore.errors import PrivacyError

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95, sides: int = 2) -> tuple[float, float]:
    """Exact bounds of a probability from `successes` of `trials`: (low, high); with one side each bound holds alone.

    **Raises** `PrivacyError` for counts that are none.

    **Source**: Clopper, Pearson 1934.
    """
    if not 0 <= successes <= trials or not 0 < confidence < 1:
        raise PrivacyError(
            f"{successes} of {trials} at confidence {confidence}; expected 0 <= successes <= trials, and a confidence between 0 and 1"
        )
    tail = (1 - confidence) / sides
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high


def checked_scores(members: ArrayLike, others: ArrayLike) -> tuple[Floats, Floats]:
    """Scores float64 [m] and [n], higher for members. **Raises** `PrivacyError` for none, or one that is no number."""
    found = []
    for name, values in (("members", members), ("non-members", others)):
        array = np.asarray(values, np.float64)
        if array.ndim != 1 or not array.size or np.isnan(array).any():
            raise PrivacyError(
                f"scores of {name} have shape {array.shape}; expected one number for each of at least one of them"
            )
        found.append(array)
    return found[0], found[1]


def area_under_curve(members: ArrayLike, others: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """The chance that a member scores higher than a non-member, ties half; the interval is DeLong's on the logit scale.

    **Raises** `PrivacyError` for scores that are none.

    **Source**: DeLong, DeLong, Clarke-Pearson 1988; Sun, Xu 2014 for the computation by ranks.
    """
    inside, outside = checked_scores(members, others)
    m, n = len(inside), len(outside)
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    area = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    of_members = (ranks[:m] - stats.rankdata(inside)) / n
    of_others = 1 - (ranks[m:] - stats.rankdata(outside)) / m
    variance = sum(part.var(ddof=1) / len(part) for part in (of_members, of_others) if len(part) > 1)
    if variance <= 0 or not 0 < area < 1:  # no spread is seen: what a fair share of agreeing pairs still allows
        low, high = clopper_pearson(round(area * min(m, n)), min(m, n), confidence=confidence)
        return Interval(area, min(low, area), max(high, area))
    wide = stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(variance) / (area * (1 - area))
    logit = np.log(area / (1 - area))
    low, high = (float(1 / (1 + np.exp(-(logit + side * wide)))) for side in (-1, 1))
    return Interval(area, low, high)


def true_positives_at(members: ArrayLike, others: ArrayLike, rate: float, *, confidence: float = 0.95) -> Interval:
    """The share of members above the threshold that at most `rate` of the non-members pass; Clopper-Pearson's interval for that
    threshold.

    **Raises** `PrivacyError` for scores that are none, and a rate that is not from 0 to 1.
    """
    inside, outside = checked_scores(members, others)
    if not 0 <= rate <= 1:
        raise PrivacyError(f"false positive rate is {rate!r}, expected a number from 0 to 1")
    allowed = int(np.floor(rate * len(outside) + 1e-9))
    ordered = np.sort(outside)[::-1]
    found = int((inside > ordered[allowed]).sum()) if allowed < len(outside) else len(inside)
    return Interval(found / len(inside), *clopper_pearson(found, len(inside), confidence=confidence))


def curve(members: ArrayLike, others: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1), float64 [k] each."""
    inside, outside = checked_scores(members, others)
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    hits = np.searchsorted(np.sort(inside), thresholds, side="left")
    alarms = np.searchsorted(np.sort(outside), thresholds, side="left")
    true = np.concatenate([[0.0], 1 - hits / len(inside)])
    false = np.concatenate([[0.0], 1 - alarms / len(outside)])
    return false, true

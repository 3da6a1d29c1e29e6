"""What became of claims that were written before the run: supported, not supported, or undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sltcore.errors import DataError
from sltcore.experiment.power import settling
from sltcore.experiment.statistics import Estimate, benjamini_hochberg, holm
from sltcore.spec.experiments import Claim

Outcome = Literal["supported", "not supported", "undecided"]
Direction = Literal["better", "not-worse", "different"]
Correction = Literal["holm", "benjamini-hochberg", "none"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim and its verdict.

    `estimate` is the difference arm - versus (None: there is none, and `notes` say why), `low` and `high` its interval
    at the claim's level. `p` is the smallest 1 - level at which there is a verdict, `p_adjusted` the same after the
    correction for several claims.
    """

    claim: Claim
    better: Literal["lower", "higher", ""]
    verdict: Outcome
    estimate: Estimate | None = None
    low: float = math.nan
    high: float = math.nan
    p: float | None = None
    p_adjusted: float | None = None
    notes: tuple[str, ...] = ()


def decide(low: float, high: float, *, direction: Direction, margin: float = 0.0) -> Outcome:
    """The verdict of an interval of the gain: of arm - versus where higher is better, of versus - arm where lower is.

    - better: supported where low > margin, not supported where high <= margin;
    - not-worse: supported where low >= -margin, not supported where high < -margin;
    - different: supported where low > margin or high < -margin, not supported where both are within -margin to margin;
    - undecided otherwise, and where a bound is NaN.
    """
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if direction == "better":
        supported, refuted = low > margin, high <= margin
    elif direction == "not-worse":
        supported, refuted = low >= -margin, high < -margin
    else:
        supported, refuted = low > margin or high < -margin, low >= -margin and high <= margin
    return "supported" if supported else "not supported" if refuted else "undecided"


def judge(claim: Claim, estimate: Estimate, *, better: str, drawn: bool = True) -> Judgement:
    """The verdict of one claim before any correction; `estimate` is arm - versus, in percent if the claim is relative.

    `better` is the direction of the value ("lower" or "higher"), which only the direction `different` can do without;
    `drawn` says whether anything in the two arms depends on a seed at all.
    **Raises** `DataError` where the value has no direction and the claim needs one.
    """
    if better not in ("lower", "higher") and claim.direction != "different":
        raise DataError(
            f"the claim on {claim.value} says '{claim.direction}', but the metric names no direction for that value; "
            f"use direction: different, or mend the metric's directions"
        )
    sign = -1.0 if better == "lower" else 1.0

    def outcome(low: float, high: float) -> Outcome:
        gains = sorted((sign * low, sign * high))
        return decide(gains[0], gains[1], direction=claim.direction, margin=claim.margin)

    low, high = estimate.interval(claim.level)
    verdict = outcome(low, high)
    p = estimate.smallest(lambda below, above: outcome(below, above) != "undecided")
    if verdict != "undecided":
        p = min(p, 1 - claim.level)  # found by bisection, to a two-thousandth of itself
    return Judgement(
        claim=claim,
        better="lower" if better == "lower" else "higher" if better == "higher" else "",
        verdict=verdict,
        estimate=estimate,
        low=low,
        high=high,
        p=p,
        p_adjusted=p,
        notes=tuple(_remarks(claim, estimate, drawn=drawn)),
    )


def unmeasured(claim: Claim, why: str) -> Judgement:
    """A claim for which there is no figure."""
    return Judgement(claim=claim, better="", verdict="undecided", notes=(f"No figure: {why}.",))


def settle(judgements: Sequence[Judgement], correction: Correction) -> list[Judgement]:
    """The verdicts after correction for their number, each undecided one with what would settle it.

    A claim that is supported by itself and whose adjusted p is above 1 - level becomes undecided. One that is not
    supported stays so: the correction protects from believing too much, it saves no claim. A claim without figure
    counts in the number with p = 1, as it was made before the run.
    """
    p = [1.0 if entry.p is None else entry.p for entry in judgements]
    several = len(judgements) > 1 and correction != "none"
    adjusted = (holm(p) if correction == "holm" else benjamini_hochberg(p)) if several else p
    return [_settled(entry, value, correction) for entry, value in zip(judgements, adjusted, strict=True)]


def _settled(judgement: Judgement, adjusted: float, correction: Correction) -> Judgement:
    claim, estimate = judgement.claim, judgement.estimate
    if estimate is None or judgement.p is None:
        return judgement
    alpha = 1 - claim.level
    notes = list(judgement.notes)
    verdict = judgement.verdict
    level = claim.level
    if verdict == "supported" and adjusted > alpha * (1 + 1e-9):
        verdict = "undecided"
        notes.insert(
            0,
            f"By itself it would be supported (p = {_p(judgement.p)}), but not after the correction for several claims "
            f"({_NAMES[correction]}: p = {_p(adjusted)}, needed {alpha:.2g}).",
        )
        level = 1 - alpha * judgement.p / adjusted
    if verdict == "undecided" and not math.isnan(judgement.low):
        notes.append(settling(estimate, _distance(judgement), level=level))
    return replace(judgement, verdict=verdict, p_adjusted=adjusted, notes=tuple(notes))


_NAMES = {"holm": "Holm", "benjamini-hochberg": "Benjamini-Hochberg", "none": "none"}


def _p(value: float) -> str:
    return f"{value:.2g}"


def _distance(judgement: Judgement) -> float:
    """From the difference found to the bound that decides."""
    claim, estimate = judgement.claim, judgement.estimate
    assert estimate is not None  # callers have looked
    gain = -estimate.value if judgement.better == "lower" else estimate.value
    if claim.direction == "better":
        return abs(gain - claim.margin)
    if claim.direction == "not-worse":
        return abs(gain + claim.margin)
    return abs(abs(gain) - claim.margin)


def _remarks(claim: Claim, estimate: Estimate, *, drawn: bool) -> list[str]:
    """What a reader must know to weigh the interval."""
    found = []
    if len(estimate.seeds) == 1 and drawn:
        found.append("One seed: the interval says what other utterances would give, not what another seed would.")
    if estimate.clusters < 2:
        what = f"one value of {claim.clusters}" if claim.clusters else "one utterance"
        found.append(f"All utterances have {what}, so there is no interval; at least 2 are needed, 40 are better.")
    elif estimate.clusters < 20:
        what = f"values of {claim.clusters}" if claim.clusters else "utterances"
        found.append(f"Only {estimate.clusters} {what}: an interval of so few is rather too narrow.")
    if estimate.clusters >= 2 and not len(estimate.distances):
        found.append("The value does not exist on most selections of utterances, so there is no interval.")
    return found

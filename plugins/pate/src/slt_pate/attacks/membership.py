"""Membership inference: what an attack's scores tell about who was in the training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slt_pate.attacks.statistics import Interval, area_under_curve, checked_scores, true_positives_at
from sltcore.errors import PrivacyError

Floats = NDArray[np.float64]
Losses = Callable[[Any, Sequence[Any]], ArrayLike]
"""`losses(model, rows)`: the loss of each row [n], in nats."""

RATES = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Attack:
    """How well scores tell `members` from others: the area under the curve (0.5: not at all), and the share of members found at
    low false positive rates, each with its interval. A rate below 1 over the non-members is measured at no false positive."""

    members: int
    others: int
    area: Interval
    found_at: Mapping[float, Interval]

    def __str__(self) -> str:
        found = ", ".join(
            f"{100 * rate:g} % false: {100 * share.value:.1f} % found ({100 * share.low:.1f} to {100 * share.high:.1f})"
            for rate, share in self.found_at.items()
        )
        area = f"{self.area.value:.3f} ({self.area.low:.3f} to {self.area.high:.3f})"
        return f"area {area}; {found}; {self.members} members, {self.others} others"


def evaluate_attack(
    members: ArrayLike, others: ArrayLike, *, rates: Sequence[float] = RATES, confidence: float = 0.95
) -> Attack:
    """An attack from its scores, higher for what it takes for a member.

    **Raises** `PrivacyError` for scores that are none.

    **Source**: Carlini et al. 2022, arXiv:2112.03570, section III, for true positives at low false positive rates.
    """
    inside, outside = checked_scores(members, others)
    found = {rate: true_positives_at(inside, outside, rate, confidence=confidence) for rate in rates}
    return Attack(len(inside), len(outside), area_under_curve(inside, outside, confidence=confidence), found)


def loss_attack(
    losses: Losses, model: Any, members: Sequence[Any], others: Sequence[Any], *, reference: Any = None, **options: Any
) -> Attack:
    """The attack that takes rows of low loss for members; with a `reference` model, of low loss compared with that one's.

    **Raises** `PrivacyError` for losses that are none.

    **Source**: Yeom et al. 2018, arXiv:1709.01604; Watson et al. 2022, arXiv:2111.08440, for the difference to a reference.
    """
    scores = []
    for rows in (members, others):
        found = losses_of(losses, model, rows)
        if reference is not None:
            found = found - losses_of(losses, reference, rows)
        scores.append(-found)
    return evaluate_attack(*scores, **options)


def losses_of(losses: Losses, model: Any, rows: Sequence[Any]) -> Floats:
    """Losses float64 [n], +inf kept. **Raises** `PrivacyError` for another number of them, or one that is no number."""
    found = np.asarray(losses(model, rows), np.float64)
    if found.shape != (len(rows),) or np.isnan(found).any():
        raise PrivacyError(
            f"losses gave {found.shape} for {len(rows)} rows, or one that is no number; expected one number for each"
        )
    return found


def unit_scores(scores: ArrayLike, units: Sequence[str]) -> dict[str, float]:
    """The mean score of each unit's rows: an attack on speakers from scores of utterances."""
    found: dict[str, list[float]] = {}
    for score, unit in zip(np.asarray(scores, np.float64), units, strict=True):
        found.setdefault(unit, []).append(float(score))
    return {unit: float(np.mean(own)) for unit, own in found.items()}

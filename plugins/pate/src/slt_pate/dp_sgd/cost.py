"""What steps of DP-SGD cost, and the least noise that a budget allows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from slt_pate.budget import check_delta, epsilon_of
from slt_pate.events import Charge, SampledGaussian
from sltcore.errors import PrivacyError

LEAST_NOISE, MOST_NOISE = 0.01, 4000.0
LEAST_NOISE_OF_PLD = 0.3
"""Below, the discretised loss distribution grows large, and Rényi divergence is close to it."""
MOST_EPSILON_OF_PLD = 50.0
DIGITS = 1e-3
"""Relative precision of the noise that a budget asks for, rounded up."""


def epsilon_of_steps(charges: Sequence[Charge], delta: float) -> float:
    """Data-independent epsilon at delta; 0 for no charges.

    The less of two upper bounds: Rényi divergence, and where all charges are steps of DP-SGD also dp-accounting's
    privacy loss distribution, rounded pessimistically. Neighbours differ in a unit that is added or taken away.

    **Raises** `PrivacyError` when delta is not between 0 and 1.

    **Source**: Mironov, Talwar, Zhang 2019, arXiv:1908.10530; Doroshenko et al. 2022, arXiv:2207.04380.
    """
    check_delta(delta)
    merged = _merged(charges)
    if not merged:
        return 0.0
    by_divergence = epsilon_of(merged, delta)
    events = [charge.event for charge in merged]
    if by_divergence > MOST_EPSILON_OF_PLD or not all(
        isinstance(event, SampledGaussian) and event.noise_multiplier >= LEAST_NOISE_OF_PLD for event in events
    ):
        return by_divergence
    return min(by_divergence, float(_distribution(merged).get_epsilon(delta)))


def _merged(charges: Sequence[Charge]) -> tuple[Charge, ...]:
    counts: dict[Any, int] = {}
    for charge in charges:
        counts[charge.event] = counts.get(charge.event, 0) + charge.count
    return tuple(Charge(event, count) for event, count in counts.items() if count)


@functools.lru_cache(maxsize=16)
def _distribution(charges: tuple[Charge, ...]) -> Any:
    """dp-accounting's accountant with all charges composed."""
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for charge in charges:
        assert isinstance(charge.event, SampledGaussian)
        event: Any = GaussianDpEvent(charge.event.noise_multiplier)
        if charge.event.rate < 1:
            event = PoissonSampledDpEvent(charge.event.rate, event)
        accountant.compose(event, charge.count)
    return accountant


def least_noise_multiplier(
    within: Callable[[float], bool], *, what: str, enough: float | None = None, step: float = 2.0
) -> float:
    """The least noise multiplier that is `within` a budget, to 1e-3 relative, rounded up; cost falls as noise grows.

    `enough` is one that is known to suffice; from there on the search goes down by factors of `step`.
    **Raises** `PrivacyError` where the most noise is not enough.
    """
    high = 1.0 if enough is None else enough
    while enough is None and not within(high):
        high *= step
        if high > MOST_NOISE:
            raise PrivacyError(
                f"no noise up to {MOST_NOISE:g} times the clip keeps the steps within {what}; take fewer steps, a lower rate, or a "
                f"larger epsilon"
            )
    low = high / step
    while low > LEAST_NOISE and within(low):
        high, low = low, low / step
    while high / low > 1 + DIGITS:
        middle = math.sqrt(low * high)
        if within(middle):
            high = middle
        else:
            low = middle
    return high

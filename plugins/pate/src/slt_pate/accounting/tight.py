"""Epsilon without the detour over Rényi divergence, where the whole privacy loss is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.optimize import brentq
from scipy.special import log_ndtr

from slt_pate.accounting.conversion import check_delta, epsilon
from slt_pate.accounting.independent import GRID, rdp
from slt_pate.accounting.orders import ORDERS
from slt_pate.events import Charge, Event, GaussianMax, NoisyVector, SampledGaussian, ThresholdTest
from sltcore.errors import PrivacyError

REACH = 16.0
"""Standard deviations of discrete noise that are compared with continuous noise; e^-129 of the mass lies further."""
FINEST = 256.0
"""Grid steps in a standard deviation below which the comparison is not made."""
CELL = 1e-4
"""Width of a cell of privacy loss for DP-SGD, rounded up in each."""


def tight_epsilon(charges: Sequence[Charge], delta: float, *, classes: int | None = None) -> float:
    """The least data-independent epsilon at delta: of the sum of divergences, and of the exact loss where there is one.

    Gaussian releases (`GaussianMax`, `ThresholdTest`, `NoisyVector`) together are one Gaussian release that moves by
    mu = sqrt(sum_i count_i (s_i / sigma_i)^2) deviations: `gaussian_delta`. For the discrete noise that is drawn epsilon
    grows by what `grid_loss` bounds; `classes` is the length of noisy vectors, without which those keep to the sum of
    divergences. Steps of DP-SGD (`SampledGaussian`) go through dp-accounting's privacy loss distribution, rounded up. Other
    events keep to the sum of divergences. For charges fixed beforehand, and for Gaussian ones also for charges chosen as one
    goes, provided the whole was bounded beforehand.

    **Raises** `PrivacyError` for a delta not between 0 and 1, and where steps of DP-SGD and releases of votes are mixed, whose
    neighbours are not the same.

    **Source**: Dong, Roth, Su 2022, arXiv:1905.02383, corollary 3.3 and section 2; Balle, Wang 2018, arXiv:1805.06530,
    theorem 8; Smith, Thakurta 2022, arXiv:2210.17520 (charges chosen as one goes); Koskela et al. 2020, arXiv:1906.03049
    (privacy loss distributions). The passage to discrete noise is ours.
    """
    check_delta(delta)
    kept = [charge for charge in charges if charge.count]
    if not kept:
        return 0.0
    kinds = {isinstance(charge.event, SampledGaussian) for charge in kept}
    if len(kinds) == 2:
        raise PrivacyError(
            "charges hold steps of DP-SGD, whose neighbours differ in a unit that is added, and releases of votes, whose "
            "neighbours differ in a teacher's answers; account for them apart"
        )
    total = sum(charge.count * rdp(charge.event, ORDERS) for charge in kept)
    found = epsilon(total, ORDERS, delta).epsilon
    if kinds == {True}:
        return min(found, _of_steps(kept, delta))
    loss = _grid(kept, classes)
    if loss is None:
        return found
    shift, others = loss
    moved = math.sqrt(math.fsum(charge.count * _moved(charge.event) ** 2 for charge in kept))
    # what lies beyond REACH is charged to delta with the factor that the least epsilon so far allows
    if found + shift > 100:
        return found
    left = (delta - others * (1 + math.exp(found + shift))) * math.exp(-shift)
    if not 0 < left < 1:
        return found
    return min(found, gaussian_epsilon(moved, left) + 2 * shift)


def gaussian_delta(moved: float, epsilon: float) -> float:
    """Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu): delta of N(mu, 1) against N(0, 1).

    **Source**: Balle, Wang 2018, arXiv:1805.06530, theorem 8.
    """
    if moved <= 0:
        return 0.0
    first = float(log_ndtr(moved / 2 - epsilon / moved))
    second = epsilon + float(log_ndtr(-moved / 2 - epsilon / moved))
    return math.exp(first) * max(0.0, -math.expm1(min(0.0, second - first)))


def gaussian_epsilon(moved: float, delta: float) -> float:
    """The least epsilon at delta of N(mu, 1) against N(0, 1), rounded up by the precision of its search, 1e-12 relative."""
    check_delta(delta)
    if gaussian_delta(moved, 0.0) <= delta:
        return 0.0
    high = moved * moved / 2 + moved * math.sqrt(-2 * math.log(delta))  # there the first term alone is below delta
    root = brentq(lambda at: math.log(max(gaussian_delta(moved, at), 1e-320)) - math.log(delta), 0.0, high, xtol=1e-12)
    return float(root) * (1 + 1e-12) + 2e-12


def grid_loss(sigma: float, *, grid: float = GRID) -> float:
    """The most that the log ratio of a discrete Gaussian to a continuous one rounded to the grid is off by, within `REACH`
    deviations: (REACH^2 + 1) / (23 s^2), s = sigma / grid >= 256.

    A cell's average of the density lies between e^(-1/(24 s^2)) and e^(REACH^2 / (23.9 s^2)) of that at its centre; the two
    normalisations differ by 2 e^(-2 pi^2 s^2).

    **Raises** `PrivacyError` for a sigma of fewer grid steps.
    """
    steps = sigma / grid
    if not steps >= FINEST:
        raise PrivacyError(f"sigma is {sigma:g} votes, {steps:.3g} grid steps; expected at least {FINEST:g} steps")
    return (REACH**2 + 1) / (23 * steps**2)


def _moved(event: Event) -> float:
    """How many deviations a unit moves a Gaussian release."""
    if isinstance(event, GaussianMax):
        return math.sqrt(2) / event.sigma
    if isinstance(event, ThresholdTest):
        return 1 / event.sigma
    assert isinstance(event, NoisyVector)
    return event.sensitivity / event.sigma


def _grid(charges: Sequence[Charge], classes: int | None) -> tuple[float, float] | None:
    """For all draws whose place a unit moves: the sum of their `grid_loss`, and the chance that one lies beyond; None where
    the exact loss is not known."""
    shift = draws = 0.0
    for charge in charges:
        event = charge.event
        if isinstance(event, GaussianMax):
            places = 2  # the other counts have the same noise at both neighbours
        elif isinstance(event, ThresholdTest):
            places = 1
        elif isinstance(event, NoisyVector) and classes is not None:
            places = classes
        else:
            return None
        if event.sigma < FINEST * GRID:
            return None
        shift += charge.count * places * grid_loss(event.sigma)
        draws += charge.count * places
    return shift, draws * 4 * math.exp(float(log_ndtr(-REACH + 1 / FINEST)))


def _of_steps(charges: Sequence[Charge], delta: float) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=CELL)
    for charge in charges:
        event = charge.event
        assert isinstance(event, SampledGaussian)
        accountant.compose(PoissonSampledDpEvent(event.rate, GaussianDpEvent(event.noise_multiplier)), charge.count)
    return float(accountant.get_epsilon(delta))

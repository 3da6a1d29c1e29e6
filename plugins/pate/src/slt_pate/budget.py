"""What a run may cost, what it will cost, and how much noise that takes; all from public numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from slt_pate.events import Charge, GaussianMax
from slt_pate.mechanisms import Answers, ConfidentGNMax, GNMax, LNMax, Mechanism, NoisyPosterior
from slt_pate.noise import LEAST, MOST
from sltcore.errors import PrivacyError

MechanismName = Literal["gnmax", "confident-gnmax", "lnmax", "posterior", "posterior-laplace", "plurality"]
RATIO = 1.5
"""sigma_threshold over sigma where it is not given: the test only decides whether to answer and can bear more noise."""
DIGITS = 1e-4
"""Relative precision of the noise that a budget asks for, rounded up."""
ROUNDING = 1e-9
"""Relative error that sums of costs may have."""


class Plurality(Mechanism):
    """The class with the most votes, without noise: no privacy. It stands in comparisons, at epsilon infinity."""

    def events(self, queries: int) -> tuple[Charge, ...]:
        """No event of the accountant: the cost is infinite."""
        return ()

    def release_batch(self, data: ArrayLike) -> Answers:
        """Classes int64 [q] of votes int [q v]; the lower index among equals."""
        votes = np.asarray(data)
        return Answers(votes.argmax(axis=1), np.ones(len(votes), dtype=bool), ())


@dataclass(frozen=True)
class Noise:
    """Which mechanism, and its noise in votes; `sigma` None asks for the least that a budget allows.

    `threshold` is the share of teachers that must agree for an answer of confident-gnmax, before noise.
    """

    mechanism: MechanismName = "gnmax"
    sigma: float | None = None
    threshold: float = 0.8
    sigma_threshold: float | None = None

    def build(self, teachers: int, sigma: float | None = None) -> Mechanism:
        """The mechanism for so many teachers. **Raises** `PrivacyError` where no sigma is known."""
        chosen = self.sigma if sigma is None else sigma
        if self.mechanism == "plurality":
            return Plurality()
        if chosen is None:
            raise PrivacyError(
                "sigma is empty, and without a planned number of queries no noise follows from the budget; give sigma in votes"
            )
        match self.mechanism:
            case "gnmax":
                return GNMax(chosen)
            case "lnmax":
                return LNMax(chosen)
            case "posterior":
                return NoisyPosterior(chosen, teachers=teachers)
            case "posterior-laplace":
                return NoisyPosterior(chosen, "laplace", teachers=teachers)
            case "confident-gnmax":
                test = RATIO * chosen if self.sigma_threshold is None else self.sigma_threshold
                return ConfidentGNMax(self.threshold * teachers, test, sigma=chosen)


def worst_case(mechanism: Mechanism, queries: int, answers: int | None = None) -> tuple[Charge, ...]:
    """The most that `queries` cost of which at most `answers` are answered; the rest pay for their test alone."""
    charges = mechanism.events(queries)
    if answers is None or not isinstance(mechanism, ConfidentGNMax):
        return charges
    return tuple(
        Charge(one.event, min(one.count, answers)) if isinstance(one.event, GaussianMax) else one for one in charges
    )


def epsilon_of(charges: Sequence[Charge], delta: float) -> float:
    """Data-independent epsilon at delta of charges added up in Rényi divergence; 0 for none.

    **Raises** `PrivacyError` when delta is not between 0 and 1.
    """
    check_delta(delta)
    if not charges:
        return 0.0
    from slt_pate.accounting.conversion import epsilon
    from slt_pate.accounting.independent import rdp
    from slt_pate.accounting.orders import ORDERS

    total = sum(charge.count * rdp(charge.event, ORDERS) for charge in charges)
    return float(epsilon(total, ORDERS, delta)[0])


def check_delta(delta: Any) -> None:
    """**Raises** `PrivacyError` when delta is no number between 0 and 1."""
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise PrivacyError(
            f"delta is {delta!r}, expected a number between 0 and 1, well below 1 over the number of units"
        )


def fits(charges: Sequence[Charge], epsilon: float, delta: float) -> bool:
    """Whether charges stay within a new budget, as the filter counts that guards the ledger.

    For Gaussian noise that is epsilon_of(charges) <= epsilon; for Laplace noise it is a little stricter, as the filter's
    order is fixed before the first charge. **Raises** `PrivacyError` for a budget that no order can keep.
    """
    from slt_pate.accounting.filter import RdpFilter

    return RdpFilter(epsilon, delta).allows(charges)


def least_noise(noise: Noise, teachers: int, *, within: Callable[[Mechanism], bool], what: str = "the budget") -> float:
    """The least sigma in votes with which a mechanism is `within` a budget, to 1e-4 relative, rounded up.

    Bisection on the logarithm; data-independent cost falls as noise grows. **Raises** `PrivacyError` where the most noise
    that the samplers draw is not enough.
    """
    high = 1.0
    while not within(noise.build(teachers, high)):
        high *= 2
        if high > MOST / (2 * RATIO):
            raise PrivacyError(
                f"no noise up to {MOST / (2 * RATIO):.3g} votes keeps the planned queries within {what}; ask fewer queries, or "
                f"allow more"
            )
    low = high / 2
    while low > LEAST and within(noise.build(teachers, low)):
        high, low = low, low / 2
    while high / low > 1 + DIGITS:
        middle = math.sqrt(low * high)
        if within(noise.build(teachers, middle)):
            high = middle
        else:
            low = middle
    return high * (1 + ROUNDING)

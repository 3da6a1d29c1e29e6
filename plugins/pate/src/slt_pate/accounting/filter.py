"""A budget that charges chosen as one goes cannot exceed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from slt_pate.accounting.conversion import check_delta, slack
from slt_pate.accounting.independent import rdp
from slt_pate.accounting.orders import ORDERS, check_orders
from slt_pate.events import Charge, Event
from sltcore.errors import PrivacyError


class RdpFilter:
    """Stops before the sum of data-independent divergences at one order, fixed beforehand, exceeds what (epsilon, delta)
    allows there.

    sum_i RDP_i(a) <= r(a),  r(a) = epsilon - ln(1 - 1/a) + ln(delta a) / (a - 1).

    Events may be chosen after the answers to earlier ones are known; the whole still is (epsilon, delta)-DP. That is true
    of a fixed order only, so the least epsilon over all orders (`epsilon`) may be a little below what the filter counts
    against. `order` None takes the one that is best for Gaussian noise, whose divergence is proportional to a: the largest
    r(a) / a. It depends on the budget alone, so a filter built again for the same budget is the same.

    **Raises** `PrivacyError` for a budget that is not positive, or that no order can keep.

    **Source**: Feldman, Zrnic 2021, arXiv:2008.11193, theorem 4.3, with constant budgets.
    """

    def __init__(self, epsilon: float, delta: float, orders: ArrayLike = ORDERS, *, order: float | None = None) -> None:
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float | np.number) or not 0 < epsilon < np.inf:
            raise PrivacyError(f"epsilon is {epsilon!r}, expected a positive finite number")
        check_delta(delta)
        found = check_orders(orders if order is None else [order])
        allowed = epsilon - slack(found, delta)
        best = int(np.argmax(allowed / found))
        if allowed[best] <= 0:
            raise PrivacyError(
                f"no order from {found.min():g} to {found.max():g} keeps epsilon {epsilon:g} at delta {delta:g}; "
                "give larger orders, a larger epsilon or a larger delta"
            )
        self.epsilon, self.delta = float(epsilon), float(delta)
        self.order, self.budget = float(found[best]), float(allowed[best])
        self._counts: Counter[Event] = Counter()
        self._costs: dict[Event, float] = {}

    @property
    def used(self) -> float:
        """Divergence charged so far at `order`, in nats, of at most `budget`; the same however charges were grouped."""
        return self._sum(self._counts)

    def cost(self, charges: Sequence[Charge]) -> float:
        """Divergence of charges at `order`, in nats. **Raises** `PrivacyError` for a count that is no whole number from 0."""
        return self._sum(self._counted(charges))

    def allows(self, charges: Sequence[Charge]) -> bool:
        """Whether charges fit into what is left."""
        return self._sum(self._counts + self._counted(charges)) <= self.budget

    def charge(self, charges: Sequence[Charge]) -> None:
        """Count charges. **Raises** `PrivacyError` when they exceed what is left; then nothing is counted."""
        if not self.allows(charges):
            raise PrivacyError(
                f"the budget is epsilon {self.epsilon:g} at delta {self.delta:g}: {self.used / self.budget:.1%} of it is used and "
                f"{self.cost(charges) / self.budget:.1%} more is asked for; ask fewer queries, or with more noise"
            )
        self._counts += self._counted(charges)

    def remaining(self) -> float:
        """The share of the budget that is left, 0 to 1."""
        return max(0.0, 1 - self.used / self.budget)

    def affordable(self, event: Event) -> int:
        """How many times an event still fits."""
        one = self.cost([Charge(event)])
        count = int((self.budget - self.used) / one) if one > 0 else 0
        while count and not self.allows([Charge(event, count)]):  # rounding of the division
            count -= 1
        return count

    def _sum(self, counts: Counter[Event]) -> float:
        return math.fsum(count * self._cost(event) for event, count in counts.items())

    def _cost(self, event: Event) -> float:
        if event not in self._costs:
            self._costs[event] = float(rdp(event, [self.order])[0])
        return self._costs[event]

    def _counted(self, charges: Sequence[Charge]) -> Counter[Event]:
        counts: Counter[Event] = Counter()
        for charge in charges:
            if (
                not isinstance(charge, Charge)
                or isinstance(charge.count, bool)
                or not isinstance(charge.count, int | np.integer)
            ):
                raise PrivacyError(f"{charge!r} is no charge, expected slt_pate.events.Charge with a whole count")
            if charge.count < 0:
                raise PrivacyError(f"{charge!r} has a negative count; nothing that was released can be taken back")
            self._cost(charge.event)  # tells at once what is no event
            counts[charge.event] += int(charge.count)
        return counts

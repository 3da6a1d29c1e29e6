"""From Rényi divergence to epsilon at a delta, and back."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slt_pate.accounting.orders import check_orders
from sltcore.errors import PrivacyError

Floats = NDArray[np.float64]


class Epsilon(NamedTuple):
    """An epsilon and the order that gives it."""

    epsilon: float
    order: float


def epsilon(rdp: ArrayLike, orders: ArrayLike, delta: float) -> Epsilon:
    """The least epsilon over orders: RDP(a) + ln(1 - 1/a) - ln(delta a) / (a - 1), and 0 where that is below it.

    `rdp` float64 [a] in nats, for each of `orders` float64 [a]. Where the divergence is so small that delta bounds the
    total variation, epsilon is 0: delta^2 >= 1 - e^(-RDP).

    **Raises** `PrivacyError` for a delta not between 0 and 1, and costs that are negative, not a number, or do not fit the
    orders.

    **Source**: Balle et al. 2020, arXiv:1905.09982, theorem 21; Canonne, Kamath, Steinke 2020, arXiv:2004.00010,
    proposition 12; the total variation by Bretagnolle and Huber.
    """
    costs, found = _checked(rdp, orders)
    check_delta(delta)
    every = np.maximum(0, costs + slack(found, delta))
    every[delta**2 + np.expm1(-costs) >= 0] = 0
    best = int(np.argmin(every))
    return Epsilon(float(every[best]), float(found[best]))


def slack(orders: ArrayLike, delta: float) -> Floats:
    """What epsilon has beyond the divergence at each order: ln(1 - 1/a) - ln(delta a) / (a - 1), float64 [a]."""
    found = np.asarray(orders, np.float64)
    return np.log1p(-1 / found) - (math.log(delta) + np.log(found)) / (found - 1)


def delta(rdp: ArrayLike, orders: ArrayLike, epsilon: float) -> float:
    """The least delta over orders at an epsilon: e^((a-1)(RDP(a) - epsilon + ln(1 - 1/a))) / a, and at most
    sqrt(1 - e^(-RDP)), the bound of total variation.

    **Raises** `PrivacyError` for an epsilon that is negative or not a number, and as `epsilon` for costs.
    """
    costs, found = _checked(rdp, orders)
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float | np.number) or not epsilon >= 0:
        raise PrivacyError(f"epsilon is {epsilon!r}, expected a number from 0 on")
    if math.isinf(epsilon):
        return 0.0
    logs = (found - 1) * (costs - epsilon + np.log1p(-1 / found)) - np.log(found)
    total_variation = np.sqrt(-np.expm1(-costs))
    return float(min(1.0, np.exp(np.minimum(0, logs)).min(), total_variation.min()))


def check_delta(delta: Any) -> None:
    """**Raises** `PrivacyError` when delta is no number between 0 and 1."""
    if isinstance(delta, bool) or not isinstance(delta, int | float | np.number) or not 0 < delta < 1:
        raise PrivacyError(
            f"delta is {delta!r}, expected a number between 0 and 1, well below 1 over the number of units"
        )


def _checked(rdp: ArrayLike, orders: ArrayLike) -> tuple[Floats, Floats]:
    found, costs = check_orders(orders), np.atleast_1d(np.asarray(rdp, np.float64))
    if costs.shape != found.shape:
        raise PrivacyError(f"costs have shape {costs.shape}, expected one for each of {found.size} orders")
    if np.isnan(costs).any() or (costs < 0).any():
        raise PrivacyError("costs hold a negative number or none at all, expected divergences from 0 on")
    return costs, found

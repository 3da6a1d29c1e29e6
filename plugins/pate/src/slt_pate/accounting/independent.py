"""Rényi divergence of each event whatever the data, at any order."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slt_pate.accounting.orders import ORDERS, check_orders
from slt_pate.accounting.published_noise import noise_cost
from slt_pate.accounting.sampled_gaussian import sampled_gaussian
from slt_pate.events import (
    Event,
    GaussianMax,
    LaplaceMax,
    NoisyVector,
    NoisyVectorLaplace,
    Publication,
    SampledGaussian,
    ThresholdTest,
)
from sltcore.errors import PrivacyError

Floats = NDArray[np.float64]
GRID = 2.0**-20
"""Steps of the noise that is drawn, in votes."""


def rdp(event: Event, orders: ArrayLike = ORDERS) -> Floats:
    """The most that one event diverges between neighbours, at each order: float64 [a], in nats.

    | event | RDP(a) |
    | --- | --- |
    | `GaussianMax` | a / sigma^2: a moved vote is sqrt(2) in L2 |
    | `ThresholdTest` | a / (2 sigma^2) |
    | `NoisyVector` | a s^2 / (2 sigma^2) |
    | `LaplaceMax` | the least of two Laplace coordinates that move by one, and of any 2/scale-DP mechanism |
    | `NoisyVectorLaplace` | all of s in one coordinate, which is the worst place for it |
    | `SampledGaussian` | `sampled_gaussian` |
    | `Publication` | `noise_cost`; infinite at orders for which `beta` is too large |

    They are those of the discrete noise that is drawn: a discrete Gaussian diverges no more than the continuous one, and
    `laplace` is the discrete law itself.

    **Raises** `PrivacyError` for noise or sensitivity that is not positive and finite, and for orders not above 1.

    **Source**: Mironov 2017, arXiv:1702.07476, table II and proposition 10; Canonne, Kamath, Steinke 2020,
    arXiv:2004.00010, theorem 4 (discrete Gaussian); Papernot et al. 2018, arXiv:1802.08908, section 4.
    """
    found = check_orders(orders)
    cost: Floats = _cost(event, found)
    return cost


@singledispatch
def _cost(event: Any, orders: Floats) -> Floats:
    raise PrivacyError(f"{event!r} is no event of slt_pate.events, expected {Event}")


@_cost.register
def _(event: GaussianMax, orders: Floats) -> Floats:
    return orders / _positive(event, "sigma", event.sigma) ** 2


@_cost.register
def _(event: ThresholdTest, orders: Floats) -> Floats:
    return orders / (2 * _positive(event, "sigma", event.sigma) ** 2)


@_cost.register
def _(event: NoisyVector, orders: Floats) -> Floats:
    moved = _positive(event, "sensitivity", event.sensitivity) / _positive(event, "sigma", event.sigma)
    return orders * moved**2 / 2


@_cost.register
def _(event: LaplaceMax, orders: Floats) -> Floats:
    moved = 1 / _positive(event, "scale", event.scale)
    return np.minimum(2 * laplace(moved, orders, GRID * moved), _pure(2 * moved, orders))


@_cost.register
def _(event: NoisyVectorLaplace, orders: Floats) -> Floats:
    scale = _positive(event, "scale", event.scale)
    return laplace(_positive(event, "sensitivity", event.sensitivity) / scale, orders, GRID / scale)


@_cost.register
def _(event: SampledGaussian, orders: Floats) -> Floats:
    rate = event.rate
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise PrivacyError(f"SampledGaussian has rate {rate!r}, expected a probability above 0, at most 1")
    return sampled_gaussian(_positive(event, "noise_multiplier", event.noise_multiplier), float(rate), orders)


@_cost.register
def _(event: Publication, orders: Floats) -> Floats:
    quantile = event.quantile
    if isinstance(quantile, bool) or not isinstance(quantile, int | float) or not 0 <= quantile < math.inf:
        raise PrivacyError(f"Publication has quantile {quantile!r}, expected a finite number from 0 on")
    beta, noise = _positive(event, "beta", event.beta), _positive(event, "noise", event.noise)
    return np.array([noise_cost(float(order), beta=beta, noise=noise, quantile=quantile) for order in orders])


def laplace(moved: float, orders: Floats, step: float) -> Floats:
    """Of a discrete Laplace law with deviation 1 on a grid of `step`, h, that moves by m, in nats, float64 [a].

    m + ln(1 - s (1 - e^(-cm))) / (a - 1),  c = 2a - 1,  s = 1 / (1 + e^-h) - tanh(h/2) / (1 - e^(-ch)).

    As h vanishes s becomes (a - 1) / c, that of the continuous law, which diverges a little less.
    """
    twice = 2 * orders - 1
    share = 1 / (1 + math.exp(-step)) + math.tanh(step / 2) / np.expm1(-twice * step)
    return np.clip(moved + np.log1p(share * np.expm1(-twice * moved)) / (orders - 1), 0, moved)


def _pure(epsilon: float, orders: Floats) -> Floats:
    """Of any epsilon-DP mechanism: that of randomised response, the worst of them.

    e^((a-1) D) = p^a q^(1-a) + q^a p^(1-a), p = e^e / (1 + e^e), q = 1 - p, and that is
    1 + 2 sinh(a e / 2) sinh((a-1) e / 2) / cosh(e / 2).
    """
    a, e = orders, epsilon
    near = np.minimum(a * e, 50)  # beyond, the other form has all digits and this one would overflow
    small = np.log1p(2 * np.sinh(near / 2) * np.sinh(near * (a - 1) / (2 * a)) / math.cosh(min(e, 50) / 2))
    log_p, log_q = -math.log1p(math.exp(-e)), -e - math.log1p(math.exp(-e))
    large = np.logaddexp(a * log_p + (1 - a) * log_q, a * log_q + (1 - a) * log_p)
    return np.clip(np.where(a * e < 50, small, large) / (a - 1), 0, e)


def _positive(event: Event, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise PrivacyError(f"{type(event).__name__} has {name} {value!r}, expected a positive finite number")
    return float(value)

"""Rényi divergence of a step of DP-SGD: a Gaussian mechanism on a Poisson sample."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

Floats = NDArray[np.float64]
REACH = 13.0
"""Standard deviations beyond the outermost peak that are integrated; e^-84 of the mass lies further."""
MOST_POINTS = 2_000_000


def sampled_gaussian(noise: float, rate: float, orders: Floats) -> Floats:
    """Divergence at each order, float64 [a], of (1-q) N(0, noise^2) + q N(1, noise^2) from N(0, noise^2), q the rate.

    The other direction diverges less. Whole orders are sums of a+1 terms. The others are integrated by the trapezoid rule,
    whose error vanishes exponentially for so smooth a function; where noise is so small that this takes too many points,
    the bound is taken from the whole orders around: (a - 1) RDP(a) is convex in a.

    **Source**: Mironov, Talwar, Zhang 2019, arXiv:1908.10530, theorems 4 and 5, section 3.3 for whole orders.
    """
    if rate == 1:
        return orders / (2 * noise**2)
    return np.array([max(0.0, _log_moment(noise, rate, float(order))) / (order - 1) for order in orders])


def _log_moment(noise: float, rate: float, order: float) -> float:
    if order == round(order):
        return _whole(noise, rate, round(order))
    step = min(noise / 16, noise**2 / 3)
    points = math.ceil((order + 2 * REACH * noise) / step)
    if points <= MOST_POINTS:
        return _integrated(noise, rate, order, points)
    low, high = math.floor(order), math.ceil(order)
    at_low = 0.0 if low == 1 else _whole(noise, rate, low)
    return at_low + (order - low) * (_whole(noise, rate, high) - at_low)


def _whole(noise: float, rate: float, order: int) -> float:
    """ln sum_k C(a, k) (1-q)^(a-k) q^k e^((k^2-k) / (2 noise^2))."""
    k = np.arange(order + 1.0)
    log_choose = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms = log_choose + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * noise**2)
    return float(logsumexp(terms))


def _integrated(noise: float, rate: float, order: float, points: int) -> float:
    """ln E[(1 - q + q e^((2z - 1) / (2 noise^2)))^a], z of N(0, noise^2)."""
    z, step = np.linspace(-REACH * noise, order + REACH * noise, points, retstep=True)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * z - 1) / (2 * noise**2))
    log_density = -0.5 * (z / noise) ** 2 - math.log(noise * math.sqrt(2 * math.pi))
    if (order * ratio).max() < 600:
        # E[ratio] is 1: summed is what lies beyond 1 and beyond the linear part, whose digits would hide it
        excess = np.exp(log_density) * (np.expm1(order * ratio) - order * np.expm1(ratio))
        return float(np.log1p(excess.sum() * step))
    return float(logsumexp(log_density + order * ratio) + math.log(step))

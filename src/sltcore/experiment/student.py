"""Quantiles of the normal and of Student's distribution, for any number of degrees of freedom."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

MOST_DEGREES = 1e6  # from here on the normal distribution is meant


def normal_quantile(probability: float) -> float:
    """z with P(Z <= z) = probability."""
    return NormalDist().inv_cdf(probability)


@lru_cache(maxsize=4096)
def student_quantile(probability: float, degrees: float) -> float:
    """t with P(T <= t) = probability, by bisection; the normal's beyond 1e6 degrees or where they are NaN."""
    if math.isnan(degrees) or degrees >= MOST_DEGREES:
        return normal_quantile(probability)
    if probability < 0.5:
        return -student_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def student_cdf(t: float, degrees: float) -> float:
    """P(T <= t) = 1 - I_x(degrees / 2, 1 / 2) / 2 for t >= 0, with x = degrees / (degrees + t^2)."""
    tail = incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t)) / 2
    return 1 - tail if t >= 0 else tail


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    **Source**: continued fraction, Abramowitz & Stegun, Handbook of Mathematical Functions, 1964, eq. 26.5.8, evaluated
    by Lentz's method.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # beyond it the fraction converges slowly
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for step in range(2000):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 + term * d
        d = 1 / (d if abs(d) > tiny else tiny)
        c = 1 + term / c
        c = c if abs(c) > tiny else tiny
        value *= c * d
        if step and abs(1 - c * d) < 1e-15:
            break
    return front * (value - 1)

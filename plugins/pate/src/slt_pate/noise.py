"""Discrete Gaussian and discrete Laplace noise, sampled exactly from the operating system's cryptographic source.

Noise is an integer number of grid steps, `STEPS` steps to a vote. Each candidate of a rejection sampler is decided by 64
random bits against a probability in float64; where the bits lie within the rounding error of that probability, integers of
growing precision and further bits decide. What is returned therefore has the stated law exactly. No random bit is kept
between calls, so nothing is shared after a fork.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sltcore.errors import PrivacyError

GRID_BITS = 20
STEPS = 2**GRID_BITS
"""Grid steps in a vote."""

LEAST, MOST = 2.0**-20, 2.0**24
"""Bounds of a noise scale in votes: within them every product below fits into 64 bits."""

WORD = 64
TRUST = 2.0**-40
"""Relative error below which the float64 route is not trusted; its true error is under 2**-44, see `_decide`."""
CHUNK = 1 << 16

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]


def discrete_gaussian(sigma: float | Fraction, size: int) -> Integers:
    """Integers of the discrete Gaussian, `P(x) = exp(-x^2 / (2 sigma^2)) / sum_y exp(-y^2 / (2 sigma^2))`.

    `sigma` in grid steps, taken as the exact rational that the float is; variance at most `sigma^2`. Returns int64 [size].

    **Raises** `PrivacyError` when `sigma` is not between 2**-20 and 2**24 votes.

    **Source**: Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", 2020, algorithm 3, with t =
    floor(sigma) + 1. We decide the Bernoulli draws by comparing lazily drawn bits with bounds of the probability, where
    they count draws of Bernoulli(gamma / k).
    """
    exact = _checked(sigma, "sigma")
    t = math.floor(exact) + 1
    centre, width = exact * exact / t, 2 * exact * exact
    centre_f, width_f = float(centre), float(width)

    def attempt(count: int) -> Integers:
        candidates = _laplace(t, 1, count)
        far = np.abs(candidates).astype(np.float64) - centre_f
        accepted = _decide(
            np.square(far) / width_f, lambda at: (abs(int(candidates[at])) - centre) ** 2 / width, _words(len(far))
        )
        return candidates[accepted]

    return _collect(attempt, size, 0.47)


def discrete_laplace(scale: float | Fraction, size: int) -> Integers:
    """Integers of the discrete Laplace law, `P(x) = (e^(1/s) - 1) / (e^(1/s) + 1) exp(-|x| / s)`.

    `scale` s in grid steps, taken as the exact rational that the float is. Returns int64 [size].

    **Raises** `PrivacyError` when `scale` is not between 2**-20 and 2**24 votes.

    **Source**: Canonne, Kamath, Steinke 2020, algorithm 2; with s = n / d, magnitudes of scale n are divided by d.
    """
    exact = _checked(scale, "scale")
    if exact.numerator > 1 << 53:
        raise PrivacyError(f"scale {exact} has a numerator over 2**53; give a float, or a fraction of smaller terms")
    return _collect(lambda count: _laplace(exact.numerator, exact.denominator, count), size, 0.63)


def gaussian_votes(sigma: float, shape: tuple[int, ...]) -> Integers:
    """Discrete Gaussian noise in grid steps for a `sigma` in votes. Returns int64 of `shape`."""
    return discrete_gaussian(Fraction(sigma) * STEPS, math.prod(shape)).reshape(shape)


def laplace_votes(scale: float, shape: tuple[int, ...]) -> Integers:
    """Discrete Laplace noise in grid steps for a `scale` in votes. Returns int64 of `shape`."""
    return discrete_laplace(Fraction(scale) * STEPS, math.prod(shape)).reshape(shape)


def rounded_gaussian(sigma: float, size: int) -> Integers:
    """Gaussian noise of `sigma` grid steps rounded to whole steps, int64 [size]: for millions of coordinates, as in DP-SGD.

    Added to integers it is the continuous Gaussian mechanism followed by rounding, so its bounds are those of the
    continuous law. It is not exact: Box-Muller in float64 from 96 bits for two values, none beyond 9.5 sigma, cells a step
    wide whose probability is off by some `1e-15 sigma` of itself. A sigma of about 1,000 steps keeps the sum of that over a
    million coordinates under 1e-5.

    **Raises** `PrivacyError` when `sigma` is not between 2**-20 and 2**24 votes.
    """
    scale = float(_checked(sigma, "sigma"))
    found = np.empty(size, dtype=np.int64)
    for start in range(0, size, CHUNK):
        part = found[start : start + CHUNK]
        pairs = (len(part) + 1) // 2
        radius = np.log((_words(pairs).astype(np.float64) + 0.5) * 2.0**-WORD)
        np.sqrt(np.multiply(radius, -2 * scale * scale, out=radius), out=radius)
        angle = np.frombuffer(os.urandom(4 * pairs), dtype=np.uint32) * (2 * math.pi / 2**32)
        part[:pairs] = np.rint(radius * np.cos(angle))
        part[pairs:] = np.rint(radius * np.sin(angle))[: len(part) - pairs]
    return found


def check_scale(value: float, name: str) -> float:
    """A noise scale in votes as a float that the samplers take. **Raises** `PrivacyError` for one they do not."""
    number = float(value) if isinstance(value, int | float | np.integer | np.floating) else math.nan
    if isinstance(value, bool) or not LEAST <= number <= MOST:
        raise PrivacyError(f"{name} is {value!r} votes, expected a number from {LEAST:.3g} to {MOST:.3g}")
    return number


def _checked(value: float | Fraction, name: str) -> Fraction:
    if not (isinstance(value, Fraction) or math.isfinite(value)) or not LEAST * STEPS <= value <= MOST * STEPS:
        raise PrivacyError(
            f"{name} is {float(value):.6g} grid steps, expected from {LEAST * STEPS:.3g} to {MOST * STEPS:.3g} "
            f"({STEPS} steps are one vote)"
        )
    return Fraction(value)


def _words(count: int) -> Words:
    """Fresh uniform 64-bit words."""
    return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


def _collect(attempt: Callable[[int], Integers], size: int, rate: float) -> Integers:
    """Accepted values of as many attempts as it takes. How many that is does not depend on the values."""
    found = np.empty(size, dtype=np.int64)
    filled = 0
    while filled < size:
        missing = size - filled
        values = attempt(min(CHUNK, int(missing / rate) + 16))[:missing]
        found[filled : filled + len(values)] = values
        filled += len(values)
    return found


def _laplace(n: int, d: int, count: int) -> Integers:
    """Up to `count` values with `P(x)` proportional to `exp(-|x| d / n)`."""
    low = _below(n, count)
    kept = _decide(low.astype(np.float64) / float(n), lambda at: Fraction(int(low[at]), n), _words(len(low)))
    low = low[kept]
    size = (low + n * _geometric(len(low))) // d
    negative = np.unpackbits(np.frombuffer(os.urandom((len(low) + 7) // 8), dtype=np.uint8))[: len(low)].astype(bool)
    signed: Integers = np.where(negative, -size, size)[~(negative & (size == 0))]
    return signed


def _below(n: int, count: int) -> Integers:
    """Uniform integers below n < 2**62; the words that would favour small ones are dropped."""
    words = _words(count)
    whole = (1 << WORD) // n * n
    if whole < 1 << WORD:
        words = words[words < np.uint64(whole)]
    return np.mod(words, np.uint64(n)).astype(np.int64)


def _geometric(count: int) -> Integers:
    """How often in a row Bernoulli(1/e) succeeds: v where `e^-(v+1) <= U < e^-v`."""
    words = _words(count)
    edges = _edges()
    values = len(edges) - np.searchsorted(edges, words, side="right")
    # A word that is an edge's integer part leaves U on both sides of the edge.
    below = np.maximum(len(edges) - values - 1, 0)
    for at in np.flatnonzero(edges[below] == words):
        uniform, v = _Uniform(int(words[at])), 0
        while uniform.is_below_exp(Fraction(v + 1)):
            v += 1
        values[at] = v
    return values.astype(np.int64)


@functools.cache
def _edges() -> Words:
    """Integer parts of `2**64 e^-k`, ascending, the first of them 0."""
    edges = []
    for k in range(1, 46):
        low, high = _exp_bounds(Fraction(k), 2 * WORD)
        assert low >> WORD == high >> WORD
        edges.append(low >> WORD)
    return np.array(edges[::-1], dtype=np.uint64)


def _decide(gamma: Floats, exact: Callable[[int], Fraction], words: Words) -> NDArray[np.bool_]:
    """Bernoulli(exp(-gamma)) for each word: whether U, the number whose binary digits begin with the word, is below it.

    `gamma` carries a relative error of a few 2**-52 of its largest term. Up to gamma = 60 that moves `exp` by less than
    2**-44; above, both probabilities are below 2**-86, less than the absolute part of the margin.
    """
    probability = np.exp(-gamma)
    uniform = words.astype(np.float64) * 2.0**-WORD
    margin = probability * TRUST + 2.0**-60
    result = uniform < probability
    for at in np.flatnonzero(np.abs(uniform - probability) <= margin):
        result[at] = _Uniform(int(words[at])).is_below_exp(exact(int(at)))
    return result


class _Uniform:
    """A uniform number in [0, 1) whose binary digits are drawn when they are needed."""

    def __init__(self, word: int) -> None:
        self.digits, self.count = word, WORD

    def is_below_exp(self, gamma: Fraction) -> bool:
        """Whether it is below `exp(-gamma)`. Ends with probability 1, for exp of a rational other than 0 is irrational."""
        if gamma == 0:
            return True
        while True:
            low, high = _exp_bounds(gamma, self.count + WORD)
            if (self.digits + 1) << WORD <= low:
                return True
            if self.digits << WORD >= high:
                return False
            self.digits = self.digits << WORD | int.from_bytes(os.urandom(WORD // 8), "little")
            self.count += WORD


def _exp_bounds(gamma: Fraction, bits: int) -> tuple[int, int]:
    """Integers with `low <= 2**bits exp(-gamma) <= high`, a few steps apart; gamma >= 0.

    The series of exp(-gamma / k) with k = ceil(gamma) alternates with falling terms; its k-th power keeps the bounds.
    """
    k = max(1, math.ceil(gamma))
    guard = 16 + 2 * k.bit_length()
    unit = 1 << (bits + guard)
    a, b = gamma.numerator, gamma.denominator * k
    low = high = term_low = term_high = unit
    place = 0
    while term_high > 1:
        place += 1
        term_low, term_high = term_low * a // (b * place), -(-term_high * a // (b * place))
        if place % 2:
            low, high = low - term_high, high - term_low
        else:
            low, high = low + term_low, high + term_high
    low, high = max(low - term_high, 0), min(high + term_high, unit)
    power_low = power_high = unit
    for _ in range(k):
        power_low, power_high = power_low * low // unit, -(-power_high * high // unit)
    return power_low >> guard, -((-power_high) >> guard)

"""Rounding, narrowing and rescaling of integers: the chip's rules, and what of its numbers is prepared off-line."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_nna.chip import Chip
from slt_nna.grid import NotFiniteError

Codes = npt.NDArray[np.int32]
Wide = npt.NDArray[np.int64]
Scales = npt.NDArray[np.float64]
LARGEST = 62
"""Products stay below 2**62."""
ROUNDINGS = ("half_up", "half_away", "half_even", "truncate")


class Word(NamedTuple):
    """A word of `2 * half` codes, and whether numbers beyond it keep their low bits or are clipped."""

    half: int
    wrap: bool


class Rules:
    """The rounding, the scales and the words of a chip as kernels take them."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.rounding = ROUNDINGS.index(chip.rounding)
        self.wrap = chip.overflow == "wrap"

    def word(self, bits: int) -> Word:
        """Two's complement of so many bits."""
        return Word(1 << (bits - 1), self.wrap)

    def step(self, ratio: float) -> Wide:
        """[4] multiplier, shift, the largest factor that fits, and the rounding: one rescaling."""
        return _step(ratio, self.chip.multiplier_bits, self.rounding)

    def steps(self, scales: Scales, after: float) -> Wide:
        """[channels 4] the same for each scale of an accumulator."""
        return np.stack([self.step(float(scale) / after) for scale in scales])

    def constant_scale(self, largest: float, bits: int) -> float:
        """The scale of symmetric codes of a constant tensor whose largest magnitude is `largest`. **Raises** `NotFiniteError`."""
        if not math.isfinite(largest):
            raise NotFiniteError(f"a weight or constant is {largest}")
        scale = Fraction(largest) / ((1 << (bits - 1)) - 1)
        if scale == 0:
            return 1.0
        rounded = max(float(scale), 2.0**-60)
        if self.chip.scales == "free":
            return rounded
        power = Fraction(1)
        while power < Fraction(rounded):
            power *= 2
        while power / 2 >= Fraction(rounded):
            power /= 2
        return float(power)


@lru_cache(maxsize=65536)
def _step(ratio: float, bits: int, rounding: int) -> Wide:
    m, n = factor(ratio, bits)
    m = min(m, 1 << LARGEST)
    made = np.array([m, n, (1 << LARGEST) // m, rounding], np.int64)
    made.flags.writeable = False
    return made


def factor(ratio: float, bits: int) -> tuple[int, int]:
    """The multiplier M and the shift n that stand for a ratio of scales: exact for powers of two, else M of `bits` bits,
    rounded half to even."""
    exact = Fraction(ratio)
    above, below = exact.numerator, exact.denominator  # of a float, below is a power of two
    if above & (above - 1) == 0 and (above == 1 or below == 1):
        return (above, 0) if above > 1 else (1, min(below.bit_length() - 1, LARGEST))
    n = bits - 1 - (above.bit_length() - below.bit_length())
    while exact * Fraction(2) ** n < 1 << (bits - 1):
        n += 1
    while exact * Fraction(2) ** n >= 1 << bits:
        n -= 1
    m = round(exact * Fraction(2) ** n)
    if m == 1 << bits:
        m, n = 1 << (bits - 1), n - 1
    return (m, min(n, LARGEST)) if n >= 0 else (m << -n, 0)


def entered(x: npt.NDArray[Any], scale: float, bits: int, rounding: str) -> Codes:
    """Host floats as codes: the one place where floats come in. NaN is 0; what is too large is clipped.

    A float32 that a code stands for is that code again: it lies beside code * scale, where truncate would lose one.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        y = np.where(np.isnan(x), 0.0, x.astype(np.float64)) / scale
        near = np.rint(y)
        exact = (near * scale).astype(np.float32) == x
    rules: dict[str, Callable[[Any], Any]] = {
        "half_up": lambda y: np.floor(y + 0.5),
        "half_away": lambda y: np.copysign(np.floor(np.abs(y) + 0.5), y),
        "half_even": np.rint,
        "truncate": np.floor,
    }
    half = float(1 << (bits - 1))
    return np.clip(np.where(exact, near, rules[rounding](y)), -half, half - 1).astype(np.int32)


def constant_codes(w: npt.NDArray[Any], scale: Scales | float, bits: int) -> Codes:
    """Symmetric codes of weights, gains and constants, prepared off-line: the nearest, halves to even."""
    most = float((1 << (bits - 1)) - 1)
    return np.clip(np.rint(w.astype(np.float64) / scale), -most, most).astype(np.int32)


def bias_codes(b: npt.NDArray[Any], scale: Scales | float, bits: int) -> Wide:
    """Codes of biases at the scale of the accumulator, prepared off-line; the whole range of their word."""
    half = float(1 << (bits - 1))
    return np.clip(np.rint(b.astype(np.float64) / scale), -half, half - 1).astype(np.int64)

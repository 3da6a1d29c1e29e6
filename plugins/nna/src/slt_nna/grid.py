"""A grid of numbers on a chip: integer codes times a scale; and how scales are chosen and changed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from sltcore.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor

    from slt_nna.chip import Chip

MAX_SHIFT = 62
LEAST_SCALE = 2.0**-60  # of a tensor whose values are all (nearly) zero: products of two scales stay normal float64


class NotFiniteError(PluginError):
    """A value that has no code; the interception says where it is."""


class Grid(NamedTuple):
    """Codes q in [-2^(bits-1), 2^(bits-1) - 1], values q * scale."""

    scale: float
    bits: int

    @property
    def least(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1))

    @property
    def most(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1


def is_power(value: float) -> bool:
    """Whether a positive number is a power of two, negative exponents included."""
    return math.frexp(value)[0] == 0.5


def snap_up(scale: float, rule: str) -> float:
    """The smallest scale that the chip has and that is not below `scale`: 2^ceil(log2(scale)), or itself where `rule` is
    free. 1 for a scale of 0, of an all-zero tensor.

    >>> snap_up(0.3, "power_of_two"), snap_up(0.25, "power_of_two"), snap_up(0.3, "free")
    (0.5, 0.25, 0.3)
    """
    if scale == 0.0:
        return 1.0
    scale = max(scale, LEAST_SCALE)
    if rule == "free":
        return scale
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


def multiplier(ratio: float, bits: int) -> tuple[int, int]:
    """(M, n) with M / 2^n near `ratio`: by them an integer is brought from one scale to another.

    Powers of two are exact: (1, n), or (2^e, 0). Others have M of `bits` bits, rounded half to even. n is 62 at most.
    """
    mantissa, exponent = math.frexp(ratio)
    if mantissa == 0.5:
        power = exponent - 1
        return (1 << power, 0) if power > 0 else (1, min(-power, MAX_SHIFT))
    shift = bits - exponent
    factor = round(math.ldexp(ratio, shift))
    if factor == 1 << bits:
        factor, shift = 1 << (bits - 1), shift - 1
    if shift < 0:
        return factor << -shift, 0
    return factor, min(shift, MAX_SHIFT)


def weight_scale(chip: Chip, largest: float, bits: int) -> float:
    """The scale of symmetric codes of `bits` bits for a constant tensor whose largest magnitude is `largest`.

    **Raises** `NotFiniteError` for nan and inf.
    """
    if not math.isfinite(largest):
        raise NotFiniteError(f"a weight or constant is {largest}")
    return snap_up(largest / ((1 << (bits - 1)) - 1), chip.scales)


def relabels(chip: Chip, factor: float) -> bool:
    """Whether a product with a positive number only changes the scale: with free scales, or for a power of two."""
    return factor > 0 and math.isfinite(factor) and (chip.scales == "free" or is_power(factor))


def grid_of(value: Any) -> Grid | None:
    """The grid of a tensor that is on the chip, else None."""
    from slt_nna.tags import tag_of

    tag = tag_of(value)
    return None if tag is None else tag.grid


def on_chip(value: Tensor) -> bool:
    """Whether a tensor is on the chip."""
    return grid_of(value) is not None

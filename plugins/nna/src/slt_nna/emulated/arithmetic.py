"""Rescaling and narrowing of integers, as a chip does both: their numbers, and their forms in numba and in torch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_nna.emulated.compiled import inline_function
from slt_nna.grid import Grid, multiplier

if TYPE_CHECKING:
    from slt_nna.chip import Chip

ROUNDINGS = ("half_up", "half_away", "half_even", "truncate")
_UNLIMITED = 1 << 62
Integers = npt.NDArray[np.int64]


class Rescale:
    """v -> R_n(v * M) with the rounding of a chip, without a branch.

    `numbers` are M, n and, for (v + half + (v >> 63 & away) + (v >> n & even)) >> n, the three addends' numbers; and the
    largest |v| whose product fits. `away` is -1 where ties go away from zero, `even` is 1 where they go to even.
    """

    def __init__(self, ratio: float, rounding: str, bits: int) -> None:
        factor, shift = multiplier(ratio, bits)
        factor = min(factor, _UNLIMITED)
        half = 1 << (shift - 1) if shift and rounding != "truncate" else 0
        away = -1 if shift and rounding == "half_away" else 0
        even = 1 if shift and rounding == "half_even" else 0
        limit = _UNLIMITED // factor if shift == 0 else _UNLIMITED
        self.numbers = (factor, shift, half - even, away, even, limit)
        self.array: Integers = np.array(self.numbers, dtype=np.int64)


class Limits(NamedTuple):
    """The codes of a word, and whether larger numbers keep their low bits instead of being clipped."""

    least: int
    most: int
    wrap: bool


class Arithmetic:
    """The rounding, the scales and the words of a chip."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.wrap = chip.overflow == "wrap"
        self.rounding = ROUNDINGS.index(chip.rounding)
        self.accumulator = self.limits(chip.accumulator.bits)
        self.rescale = lru_cache(maxsize=4096)(self._rescale)

    def _rescale(self, ratio: float) -> Rescale:
        return Rescale(ratio, self.chip.rounding, self.chip.multiplier_bits)

    def rescales(self, ratios: npt.NDArray[np.float64]) -> Integers:
        """The numbers of one rescaling for each channel, [channels 6]."""
        return np.stack([self.rescale(float(ratio)).array for ratio in ratios])

    def limits(self, bits: int) -> Limits:
        """The codes of a word of that many bits."""
        return Limits(-(1 << (bits - 1)), (1 << (bits - 1)) - 1, self.wrap)

    @property
    def table_grid(self) -> Grid:
        """The grid of what tables give."""
        bits = self.chip.words.table
        return Grid(2.0 ** -(bits - 1), bits)


NO_LIMITS = Limits(-_UNLIMITED, _UNLIMITED - 1, False)


@inline_function
def rescaled(v, factor, shift, half, away, even, limit):  # type: ignore[no-untyped-def]
    """R_n(v * M) of one integer."""
    v = min(max(v, -limit), limit) * factor
    return (v + half + ((v >> 63) & away) + ((v >> shift) & even)) >> shift


@inline_function
def narrowed(v, least, most, wrap):  # type: ignore[no-untyped-def]
    """S_b(v) of one integer."""
    if wrap:
        return ((v - least) & (most - least)) + least
    return min(max(v, least), most)


def rescaled_tensor(v: Tensor, numbers: tuple[Any, ...]) -> Tensor:
    """R_n(v * M) of an int64 tensor; the numbers may be tensors, one for each channel."""
    factor, shift, half, away, even, limit = numbers
    if isinstance(limit, Tensor):
        v = torch.minimum(torch.maximum(v, -limit), limit) * factor
    else:
        v = v.clamp(-limit, limit) * factor
    return (v + half + ((v >> 63) & away) + ((v >> shift) & even)) >> shift


def narrowed_tensor(v: Tensor, limits: Limits) -> Tensor:
    """S_b(v) of an int64 tensor."""
    least, most, wrap = limits
    return ((v - least) & (most - least)) + least if wrap else v.clamp(least, most)

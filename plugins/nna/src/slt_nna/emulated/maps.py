"""Functions of one code as maps of all codes: tables by look-up, and whatever is made of them and one operand.

A word has 16 bits at most, so that an operator with one operand is a table of all its results; how a chip computes them
is spelled out once, here, and a pass over a tensor only looks up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_nna.emulated.arithmetic import Arithmetic, Limits, narrowed_tensor, rescaled_tensor
from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.chip import Table

KEPT_MAPS = 64
Doubles = npt.NDArray[np.float64]


class Lookup(NamedTuple):
    """A table read at every code of a grid, the least first: `codes` int32, their `values`, and `slopes` (float32), the
    derivative by the operand's value."""

    codes: Tensor
    values: Tensor
    slopes: Tensor


class Map(NamedTuple):
    """Results and slopes (float32) at every code of a grid, behind those of an excluded entry."""

    values: Tensor
    slopes: Tensor
    codes: Tensor


def sigmoid(x: Doubles) -> Doubles:
    result: Doubles = 1.0 / (1.0 + np.exp(-x))
    return result


def phi(x: Doubles) -> Doubles:
    """The standard normal cdf."""
    return torch.special.ndtr(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]


FUNCTIONS: dict[str, tuple[Callable[[Doubles], Doubles], Callable[[Doubles], Doubles]]] = {
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1.0 - sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1.0 - np.tanh(x) ** 2),
    "phi": (phi, lambda x: np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)),
}
"""Each function with its derivative."""


class Maps:
    """The tables of a chip on the grids where they were needed; the latest `KEPT_MAPS` of each kind stay."""

    def __init__(self, arithmetic: Arithmetic, table_gradient: str) -> None:
        self.arithmetic = arithmetic
        self.chip = arithmetic.chip
        self.sloped = table_gradient == "slope"
        self.lookup = lru_cache(maxsize=KEPT_MAPS)(self._lookup)
        self.exponentials = lru_cache(maxsize=KEPT_MAPS)(self._exponentials)
        self.looked_up = lru_cache(maxsize=KEPT_MAPS)(self._looked_up)
        self.gated = lru_cache(maxsize=KEPT_MAPS)(self._gated)
        self.moved = lru_cache(maxsize=KEPT_MAPS)(self._moved)

    def _lookup(self, function: str, grid: Grid) -> Lookup:
        """sigmoid, tanh or phi."""
        table: Table = getattr(self.chip.tables, function)
        n, reach = table.entries, table.range
        true, derivative = FUNCTIONS[function]
        points = np.asarray((np.arange(n) - n // 2) * (2 * reach / n), np.float64)
        entries = self._entries(true(points), table.gain)
        q = torch.arange(grid.least, grid.most + 1)
        codes = self._read(entries, q, grid.scale, 2 * reach / n, n // 2, table.interpolation)
        x = np.arange(grid.least, grid.most + 1) * grid.scale
        inside = np.abs(x) <= reach
        if self.sloped:
            slopes = self._slopes(entries, codes, q, grid.scale, 2 * reach / n, n // 2, table.interpolation)
        else:
            slopes = derivative(np.clip(x, -reach, reach))
        out = self.arithmetic.table_grid
        return Lookup(codes.int(), _values(codes, out), torch.from_numpy(np.where(inside, slopes, 0.0)).float())

    def _exponentials(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """exp of every distance (code of the largest minus code) of a grid: int32 codes, and true values (float32)."""
        table = self.chip.tables.exp
        assert table is not None
        n, reach = table.entries, table.range
        step = reach / (n - 1)
        entries = self._entries(np.exp((np.arange(n) - (n - 1)) * step), table.gain)
        distances = torch.arange(1 << grid.bits)
        codes = self._read(entries, -distances, grid.scale, step, n - 1, table.interpolation)
        return codes.int(), torch.exp(-distances.double() * grid.scale).float()

    def _looked_up(self, function: str, grid: Grid) -> Map:
        """A table on its own."""
        found = self.lookup(function, grid)
        return Map(_led(found.values, -torch.inf), _led(found.slopes, 0.0), _led(found.codes, 0))

    def _gated(self, function: str, grid: Grid, out: Grid) -> Map:
        """q * LUT(q) for silu and gelu."""
        found = self.lookup(function, grid)
        q = torch.arange(grid.least, grid.most + 1)
        ratio = grid.scale * self.arithmetic.table_grid.scale / out.scale
        x = q.double() * grid.scale
        slopes = found.values.double() + x * found.slopes.double()
        return self._finished(q * found.codes.long(), ratio, out, slopes)

    def _moved(self, grid: Grid, factor: float, out: Grid) -> Map:
        """The values times a number on another grid; codes are negated first for a negative one."""
        q = torch.arange(grid.least, grid.most + 1)
        kept = torch.ones_like(q, dtype=torch.bool)
        if factor < 0:
            negated = narrowed_tensor(-q, self.arithmetic.limits(grid.bits))
            kept, q = negated == -q, negated
        slopes = torch.where(kept, factor, 0.0).double()
        if factor == 0.0:
            return self._finished(torch.zeros_like(q), 1.0, out, slopes)
        return self._finished(q, grid.scale * abs(factor) / out.scale, out, slopes)

    # -- steps

    def _finished(self, v: Tensor, ratio: float, out: Grid, slopes: Tensor) -> Map:
        limits: Limits = self.arithmetic.limits(out.bits)
        z = rescaled_tensor(v, self.arithmetic.rescale(ratio).numbers)
        codes = narrowed_tensor(z, limits)
        slopes = torch.where(codes == z, slopes, 0.0).float()
        return Map(_led(_values(codes, out), -torch.inf), _led(slopes, 0.0), _led(codes.int(), 0))

    def _entries(self, true: Doubles, gain: float) -> Tensor:
        grid = self.arithmetic.table_grid
        return torch.from_numpy(np.clip(np.rint(gain * true / grid.scale), grid.least, grid.most).astype(np.int64))

    def _read(self, entries: Tensor, q: Tensor, scale: float, step: float, middle: int, interpolation: str) -> Tensor:
        """The codes of a table, whose entry `middle` is at 0, at the codes `q`."""
        last = len(entries) - 1
        if interpolation == "nearest":
            places = rescaled_tensor(q, self.arithmetic.rescale(scale / step).numbers) + middle
            return entries[places.clamp(0, last)]
        places = rescaled_tensor(q, self.arithmetic.rescale(scale / (step / 256)).numbers) + middle * 256
        places = places.clamp(0, last * 256)
        i, f = places >> 8, places & 255
        first, second = entries[i], entries[(i + 1).clamp(max=last)]
        return rescaled_tensor(first * 256 + (second - first) * f, self.arithmetic.rescale(2.0**-8).numbers)

    def _slopes(self, entries: Tensor, codes: Tensor, q: Tensor, scale: float, *rest: Any) -> Doubles:
        """The slope of what is read: over one step of the table to either side."""
        step: float = rest[0]
        reach = max(1, round(step / scale))
        low, high = (self._read(entries, q + side * reach, scale, *rest) for side in (-1, 1))
        rise = (high - low).double() * self.arithmetic.table_grid.scale
        return (rise / (2 * reach * scale)).numpy()  # type: ignore[no-any-return]


def _values(codes: Tensor, grid: Grid) -> Tensor:
    return (codes.double() * grid.scale).float()


def _led(entries: Tensor, first: float) -> Tensor:
    return torch.cat([entries.new_full((1,), first), entries])

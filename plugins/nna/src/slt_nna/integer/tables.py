"""Functions by look-up: tables prepared off-line, indices by integer arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from slt_nna.chip import Table
from slt_nna.grid import Grid
from slt_nna.integer.kernels import rescale_all
from slt_nna.integer.numbers import Codes, Rules, Wide

FRACTION_BITS = 8

_FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "sigmoid": lambda x: 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x)),
    "tanh": math.tanh,
    "exp": math.exp,
    "phi": lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0)),
}


class Tables:
    """The tables of a chip, read at all codes of the grids where they are needed."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.bits = rules.chip.words.table
        self._read: dict[tuple[str, Grid], Codes] = {}

    @property
    def grid(self) -> Grid:
        """The grid of every table's entries."""
        return Grid(2.0 ** -(self.bits - 1), self.bits)

    def codes(self, function: str, grid: Grid) -> Codes:
        """What the table gives for every code of a grid, the least first; for exp, of 0, -1, -2, ... instead."""
        found = self._read.get((function, grid))
        if found is None:
            q = -np.arange(1 << grid.bits) if function == "exp" else np.arange(1 << grid.bits) - (1 << (grid.bits - 1))
            found = self._read[function, grid] = self.looked_up(q, grid.scale, function).astype(np.int32)
        return found

    def looked_up(self, q: Wide, scale: float, function: str) -> Wide:
        """Entries, or numbers between two of them, for codes at `scale`."""
        table: Table = getattr(self.rules.chip.tables, function)
        entries, count = self.entries(function), table.entries
        step = table.range / (count - 1) if function == "exp" else 2 * table.range / count
        origin = count - 1 if function == "exp" else count // 2
        if table.interpolation == "nearest":
            return entries[np.clip(self._rescaled(q, scale / step) + origin, 0, count - 1)]
        fine = self._rescaled(q, scale / (step / (1 << FRACTION_BITS)))
        place = np.clip(fine + (origin << FRACTION_BITS), 0, (count - 1) << FRACTION_BITS)
        index, rest = place >> FRACTION_BITS, place & ((1 << FRACTION_BITS) - 1)
        low, high = entries[index], entries[np.minimum(index + 1, count - 1)]
        return self._rescaled((low << FRACTION_BITS) + (high - low) * rest, 2.0**-FRACTION_BITS)

    def entries(self, function: str) -> Wide:
        """The entries as codes at the scale 2**-(bits - 1)."""
        table: Table = getattr(self.rules.chip.tables, function)
        count, reach = table.entries, table.range
        if function == "exp":
            points = [(i - (count - 1)) * (reach / (count - 1)) for i in range(count)]
        else:
            points = [(i - count // 2) * (2 * reach / count) for i in range(count)]
        one = float(1 << (self.bits - 1))
        values = np.array([table.gain * _FUNCTIONS[function](x) for x in points], np.float64)
        return np.clip(np.rint(values * one), -one, one - 1).astype(np.int64)

    def _rescaled(self, v: Wide, ratio: float) -> Wide:
        out = np.empty_like(v)
        rescale_all(v, self.rules.step(ratio), out)
        return out

"""The range of every grid: measured while a model runs in float, then frozen."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal, get_args

import torch

from slt_nna.grid import LEAST_SCALE, Grid, snap_up
from sltcore.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor

    from slt_nna.chip import Chip

RangeRule = Literal["max", "percentile", "mse"]
RANGE_RULES: tuple[RangeRule, ...] = get_args(RangeRule)
BINS = 2048
PREFIX = "range."
GOLDEN = 0.6180339887498949
"""Of its multiples no two have the same fraction."""
UNCALIBRATED = "was never calibrated"


class Histogram:
    """How often |x| fell into each of 2048 equal bins over [0, top), and the largest |x| exactly.

    `top` doubles, and neighbouring bins are joined, when a value does not fit. Entries that are not finite (excluded
    attention scores) count for nothing.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.top = 0.0
        self.largest = 0.0
        self.given = False

    @property
    def spoilt(self) -> bool:
        """Whether there were values, and none of them finite."""
        return self.given and not float(self.counts.sum())

    def add(self, values: Tensor) -> None:
        """Count the entries of a tensor of any shape."""
        magnitudes = values.detach().abs().flatten().float()
        self.given = self.given or magnitudes.numel() > 0
        magnitudes = magnitudes[magnitudes.isfinite()]
        if not magnitudes.numel():
            return
        largest = float(magnitudes.max())
        self.largest = max(self.largest, largest)
        if self.top == 0.0 and largest > 0.0:
            self._begin(largest)
        while self.top and largest >= self.top:
            self._double()
        counted = torch.histc(magnitudes.cpu(), BINS, 0.0, self.top or 1.0)
        self.counts += counted.double()

    def _begin(self, largest: float) -> None:
        """Zeros that came before any other value are in the first bin, whatever the top."""
        self.top = math.ldexp(1.0, math.frexp(largest)[1])

    def _double(self) -> None:
        halves = self.counts.view(-1, 2).sum(1)
        self.counts = torch.cat([halves, torch.zeros(BINS - len(halves), dtype=torch.float64)])
        self.top *= 2

    def percentile(self, percent: float) -> float:
        """The upper edge of the bin below which `percent` % of the entries lie, at most the largest |x|."""
        total = float(self.counts.sum())
        if total == 0.0 or percent >= 100.0:
            return self.largest
        reached = torch.cumsum(self.counts, 0) >= total * percent / 100.0
        edge = (int(reached.int().argmax()) + 1) * self.top / BINS
        return min(edge, self.largest)

    def error(self, limit: float, most: int) -> float:
        """Expected squared error of codes up to `most` for a grid that reaches `limit`: s^2/12 within, (|x| - limit)^2
        beyond, bins by their middles."""
        step = limit / most
        middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (self.top / BINS)
        beyond = (middles - limit).clamp(min=0.0)
        inside = torch.where(middles <= limit, torch.minimum(middles.square(), middles.new_tensor(step**2 / 12)), 0.0)
        return float((self.counts * (inside + beyond.square())).sum())


class Ranges:
    """A range for each grid name: the largest |value| that is on the grid. Observed, frozen, or restored.

    While `observing` is true, `grid` gives a stand-in with a negative scale, another one for each name, so that grids
    that will differ differ already. **Source** of the rules: `max` the largest |x|; `percentile` of |x|; `mse` the limit
    with the least expected squared error, of clipping and rounding together (Sung et al., arXiv:1511.06488).
    """

    def __init__(self, chip: Chip, *, rule: RangeRule = "mse", percent: float = 99.9) -> None:
        self.chip = chip
        self.rule = rule
        self.percent = percent
        self.observing = False
        self.limits: dict[str, float] = {}
        self._seen: dict[str, Histogram] = {}
        self._bits: dict[str, int] = {}
        self._grids: dict[tuple[str, int], Grid] = {}

    def grid(self, name: str, bits: int) -> Grid:
        """The grid of that name. **Raises** `PluginError` when its range is not known."""
        found = self._grids.get((name, bits))
        if found is None:
            found = self._grids[name, bits] = self._made(name, bits)
        return found

    def _made(self, name: str, bits: int) -> Grid:
        if self.chip.is_ideal:
            return Grid(1.0, bits)
        if self.observing:
            if self._bits.setdefault(name, bits) != bits:
                raise PluginError(f"grid '{name}' is asked for with {bits} and with {self._bits[name]} bits")
            return Grid(_stand_in(len(self._bits)), bits)
        if name not in self.limits:
            raise PluginError(
                f"the range of '{name}' {UNCALIBRATED}: {self._hint(name)}; attach with calibration inputs that take the "
                "model through all that it does, or keep the operator in float with `exclude`"
            )
        limit, most = self.limits[name], (1 << (bits - 1)) - 1
        return Grid(snap_up(limit / most, self.chip.scales), bits)

    def _hint(self, name: str) -> str:
        if not self.limits:
            return "no range is known at all"
        first = name.split("|")[0].split(":")[0]
        near = [known for known in self.limits if fnmatch.fnmatchcase(known, f"{first}*")]
        return (
            f"known there: {', '.join(near[:4])}" if near else f"{len(self.limits)} others are known, none of '{first}'"
        )

    @property
    def asked(self) -> Collection[str]:
        """The grids that were asked for while observing."""
        return self._bits.keys()

    def observe(self, name: str, values: Tensor) -> None:
        """Count what lies on a grid while observing."""
        self._seen.setdefault(name, Histogram()).add(values)

    def begin(self) -> None:
        """Observe from now on, from nothing."""
        self.observing = True
        self.limits, self._seen, self._bits, self._grids = {}, {}, {}, {}

    def abandon(self) -> None:
        """Observe no more, and know no range: a calibration failed."""
        self.observing = False
        self.limits, self._seen, self._bits, self._grids = {}, {}, {}, {}

    def freeze(self) -> None:
        """Choose every limit, and observe no more. **Raises** `PluginError` for a place without one finite value."""
        for name, histogram in self._seen.items():
            if histogram.spoilt:
                raise PluginError(
                    f"nna: no value measured at '{name}' is finite, so it has no range; look for nan and inf in the "
                    "calibration data and in the model's parameters"
                )
        for name, bits in self._bits.items():
            seen = self._seen.get(name)
            if seen is not None:
                self.limits[name] = self._limit(seen, bits)
        self.observing = False
        self._seen, self._bits, self._grids = {}, {}, {}

    def _limit(self, histogram: Histogram, bits: int) -> float:
        if self.rule == "max" or histogram.largest == 0.0:
            return histogram.largest
        if self.rule == "percentile":
            return histogram.percentile(self.percent)
        most = (1 << (bits - 1)) - 1
        if self.chip.scales == "power_of_two":
            highest = snap_up(histogram.largest / most, "power_of_two")
            limits = [most * math.ldexp(highest, -down) for down in range(13)]
        else:
            limits = [histogram.largest * (64 - part) / 64 for part in range(60)]
        limits = [limit for limit in limits if limit >= LEAST_SCALE * most] or limits[:1]
        return min(limits, key=lambda limit: (histogram.error(limit, most), -limit))

    def state(self) -> dict[str, Tensor]:
        """`range.<grid name>` float64 scalars."""
        return {PREFIX + name: torch.tensor(limit, dtype=torch.float64) for name, limit in self.limits.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. **Raises** `PluginError` for other names and for limits that are no number."""
        limits: dict[str, float] = {}
        for key, value in state.items():
            if not key.startswith(PREFIX) or value.numel() != 1:
                raise PluginError(
                    f"nna: '{key}' {tuple(value.shape)} is no range; expected scalars named {PREFIX}<grid>"
                )
            limit = float(value)
            if not math.isfinite(limit) or limit < 0.0:
                raise PluginError(f"nna: {key} is {limit}, expected a number of at least 0; calibrate again")
            limits[key.removeprefix(PREFIX)] = limit
        self.limits, self._grids, self.observing = limits, {}, False


def _stand_in(count: int) -> float:
    """The negative scale of the count-th grid while no scale is known: times a power of two none becomes another, times any
    other number hardly.

    >>> _stand_in(4) * 0.5 == _stand_in(2)
    False
    """
    return -1.0 - math.fmod(count * GOLDEN, 1.0)

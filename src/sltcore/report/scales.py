"""From values to places on a line, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from sltcore.report.numbers import decimals_of, number

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
LARGEST = 1e100  # what is beyond lies at the end of the axis


class Scale(NamedTuple):
    """Values `low` to `high` at the places `start` to `end`; logarithmic where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; values beyond the ends are put at the ends."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int, *, whole: bool = False) -> list[tuple[float, str]]:
        """At most `most` round values with their labels, at least one; of whole numbers where asked."""
        values = _log_ticks(self.low, self.high, most) if self.log else _ticks(self.low, self.high, most, whole)
        decimals = None if self.log else _decimals(values)
        return [(value, number(value, decimals)) for value in values]


def fitted(values: Sequence[float], *, start: float, end: float, log: bool = False, zero: bool = False) -> Scale:
    """A scale that holds all values with a little room, and zero where asked; only positive ones where `log`."""
    found = [value for value in values if abs(value) < LARGEST and (value > 0 or not log)]
    if zero and not log:
        found.append(0.0)
    low, high = (min(found), max(found)) if found else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        ratio = (high / low) ** 0.04 if high > low else 2.0
        return Scale(low / ratio, high * ratio, start, end, log=True)
    room = (high - low) * 0.06
    if room <= 1e-12 * max(abs(low), abs(high)):
        room = abs(high) * 0.5 or 1.0
    if zero and low == high:
        return Scale(0.0, 1.0, start, end)
    if zero:
        return Scale(low - room if low < 0 else 0.0, high + room if high > 0 else 0.0, start, end)
    return Scale(low - room, high + room, start, end)


def _ticks(low: float, high: float, most: int, whole: bool) -> list[float]:
    size = 10.0 ** math.floor(math.log10((high - low) / max(1, most)))
    size = max(size, 1.0) if whole else size
    for step in STEPS:
        if whole and not (step * size).is_integer():
            continue
        first, last = math.ceil(low / (step * size) - 1e-9), math.floor(high / (step * size) + 1e-9)
        if last - first + 1 <= most:
            break
    return [place * step * size for place in range(first, last + 1)] or [(low + high) / 2]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for within in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**power for power in range(first, last + 1) for m in within if low <= m * 10.0**power <= high]
        if len(found) <= most:
            break
    every = max(1, math.ceil(len(found) / most))
    return found[::every] or [math.sqrt(low * high)]


def _decimals(values: list[float]) -> int | None:
    """As few decimals as tell the ticks apart."""
    if len(values) < 2:
        return decimals_of(values)
    step = values[1] - values[0]
    exponent = math.floor(math.log10(step) + 1e-9)
    if max(map(abs, values)) >= 1e7 or exponent < -6:
        return None
    places = max(0, -exponent)
    return places if math.isclose(step, round(step, places), rel_tol=1e-6) else places + 1

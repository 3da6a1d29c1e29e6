"""Compiled search for the best one-dimensional clusters; importing this module compiles or loads machine code."""

from __future__ import annotations

from typing import Any

from sltcore.alignment.compiled import compile_kernel


@compile_kernel
def partition(mass: Any, first: Any, second: Any, levels: int, costs: Any, cuts: Any) -> None:
    """Cut m points into `levels` runs with the least squared error, exactly, in O(levels m log m).

    `mass`, `first`, `second` [m+1] are running sums of w, w x and w x x over points in order. `costs` [2, m+1] is room to
    work in; cuts [levels, m+1] becomes, for each number of runs and of points, where the last run begins.
    """
    m = len(mass) - 1
    for end in range(m + 1):
        total = mass[end]
        costs[0, end] = second[end] - first[end] * first[end] / total if total > 0.0 else 0.0
        cuts[0, end] = 0
    for level in range(1, levels):
        old, new = (level - 1) % 2, level % 2
        cuts[level, 0] = 0
        costs[new, 0] = 0.0
        stride = 1
        while stride <= m:
            stride *= 2
        while stride >= 1:  # the best cut moves up with the number of points: those known already bound it
            for end in range(stride, m + 1, 2 * stride):
                low = cuts[level, end - stride]
                high = cuts[level, end + stride] if end + stride <= m else end
                high = min(high, end)
                best, where = costs[old, end], end
                for begin in range(low, high + 1):
                    total = mass[end] - mass[begin]
                    here = costs[old, begin]
                    if total > 0.0:
                        sum_ = first[end] - first[begin]
                        here += max(0.0, second[end] - second[begin] - sum_ * sum_ / total)
                    if here < best:
                        best, where = here, begin
                costs[new, end] = best
                cuts[level, end] = where
            stride //= 2

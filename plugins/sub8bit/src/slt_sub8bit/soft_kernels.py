"""Compiled loops of the soft assignment; importing this module compiles or loads machine code.

The interval of a value is found by a table of cells of equal width, `first`: how many levels lie in the cells before. Only
the levels of the value's own cell are compared with it, so that few branches depend on data.
"""

from __future__ import annotations

from typing import Any

from sltcore.alignment.compiled import compile_kernel


@compile_kernel
def locate(
    y: Any, first: Any, low: float, cells_per_unit: float, above: Any, offset: Any, steep: float, places: Any, t: Any
) -> None:
    """Write the interval of y [n], how many levels are not above it, to places [n], and steep * y - offset to t [n].

    `above` [J+1] is the level above each interval, infinity for the last.
    """
    last = len(first) - 1
    for i in range(len(y)):
        value = float(y[i])
        cell = int((value - low) * cells_per_unit)
        place = first[min(max(cell, 0), last)]
        while above[place] <= value:
            place += 1
        places[i] = place
        t[i] = steep * value - offset[place]


@compile_kernel
def mix(places: Any, share: Any, base: Any, rise: Any, soft: Any) -> None:
    """Write base + share * rise of each value's interval to soft [n]."""
    for i in range(len(places)):
        soft[i] = base[places[i]] + share[i] * rise[places[i]]


@compile_kernel
def backward(places: Any, share: Any, g: Any, steep_rise: Any, slope: Any, sums: Any) -> None:
    """Write g times the derivative, steep_rise * share * (1 - share), to slope [n], and add g, g share and g share^2 to the
    sums [2 J+1 3] of its interval; neighbours alternate between two sums, which do not wait for each other."""
    for i in range(len(places)):
        place, part, upstream = places[i], float(share[i]), float(g[i])
        slope[i] = upstream * steep_rise[place] * part * (1.0 - part)
        sums[i & 1, place, 0] += upstream
        sums[i & 1, place, 1] += upstream * part
        sums[i & 1, place, 2] += upstream * part * part


@compile_kernel
def nearest(w: Any, scales: Any, first: Any, low: float, cells_per_unit: float, borders: Any, codes: Any) -> None:
    """Write to codes [rows columns] how many of the sorted `borders` [J] (the last is infinity) lie below w / scale."""
    last = len(first) - 1
    for row in range(w.shape[0]):
        scale = scales[row if len(scales) > 1 else 0]
        for column in range(w.shape[1]):
            value = w[row, column] / scale
            cell = int((float(value) - low) * cells_per_unit)
            place = first[min(max(cell, 0), last)]
            while borders[place] < value:
                place += 1
            codes[row, column] = place


@compile_kernel
def decode(codes: Any, table: Any, scales: Any, out: Any) -> None:
    """Write table[code] * scale to out [rows columns]."""
    for row in range(codes.shape[0]):
        scale = scales[row if len(scales) > 1 else 0]
        for column in range(codes.shape[1]):
            out[row, column] = table[codes[row, column]] * scale


@compile_kernel
def gather(codes: Any, g: Any, scales: Any, sums: Any) -> None:
    """Add g * scale to the sum [J 2] of its code; neighbours alternate between two sums, which do not wait for each other."""
    for row in range(codes.shape[0]):
        scale = scales[row if len(scales) > 1 else 0]
        for column in range(codes.shape[1]):
            sums[codes[row, column], column & 1] += g[row, column] * scale

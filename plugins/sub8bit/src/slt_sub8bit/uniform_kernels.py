"""Compiled loops of uniform grids; importing this module compiles or loads machine code."""

from __future__ import annotations

from typing import Any

import numpy as np

from sltcore.alignment.compiled import compile_kernel


@compile_kernel
def snap(values: Any, steps: Any, offset: Any, lowest: Any, highest: Any, out: Any) -> None:
    """Write (clip(rint(x / s - offset)) + offset) s to out, float32, for values [groups n] with a step for each group."""
    for group in range(values.shape[0]):
        step = steps[group]
        for i in range(values.shape[1]):
            place = np.rint(values[group, i] / step - offset)
            out[group, i] = (min(max(place, lowest), highest) + offset) * step


@compile_kernel
def snap_gradient(
    values: Any, upstream: Any, steps: Any, offset: Any, lowest: Any, highest: Any, slope: Any, sums: Any
) -> None:
    """Write the gradient of the values (zero where they are clipped) to slope, and that of each step to sums."""
    for group in range(values.shape[0]):
        step = steps[group]
        total = 0.0
        for i in range(values.shape[1]):
            x = values[group, i] / step
            place = np.rint(x - offset)
            kept = min(max(place, lowest), highest)
            g = upstream[group, i]
            inside = place == kept
            slope[group, i] = g if inside else np.float32(0.0)
            total += g * ((kept + offset) - (x if inside else np.float32(0.0)))
        sums[group] = total


@compile_kernel
def squared_errors(values: Any, steps: Any, offset: Any, lowest: Any, highest: Any, errors: Any) -> None:
    """Write the squared error of each group on the grid with its step to errors."""
    for group in range(values.shape[0]):
        step = steps[group]
        total = 0.0
        for i in range(values.shape[1]):
            x = values[group, i]
            place = np.rint(x / step - offset)
            gap = (min(max(place, lowest), highest) + offset) * step - x
            total += gap * gap
        errors[group] = total

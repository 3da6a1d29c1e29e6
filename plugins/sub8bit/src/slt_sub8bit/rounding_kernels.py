"""Compiled loops of activations in 8 bits; importing this module compiles or loads machine code."""

from __future__ import annotations

from typing import Any

import numpy as np

from sltcore.alignment.compiled import compile_kernel


@compile_kernel
def largest(bits: Any, tops: Any) -> None:
    """Write the largest magnitude of each row of float32, read as int32 bits, to tops: NaN is above infinity there."""
    for row in range(bits.shape[0]):
        top = np.int32(0)
        for i in range(bits.shape[1]):
            top = max(top, bits[row, i] & np.int32(0x7FFFFFFF))
        tops[row] = top


@compile_kernel
def round_rows(values: Any, tops: Any, inverses: Any, steps: Any, out: Any) -> None:
    """Write rint(x / step) step of each row to out; a row whose step is not finite becomes NaN."""
    for row in range(values.shape[0]):
        inverse, step = inverses[row], steps[row]
        if not tops[row] < np.float32(np.inf):
            for i in range(values.shape[1]):
                out[row, i] = np.float32(np.nan)
            continue
        for i in range(values.shape[1]):
            out[row, i] = np.rint(values[row, i] * inverse) * step

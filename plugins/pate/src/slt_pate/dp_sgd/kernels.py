"""Loops over all weights, compiled for the CPU: one pass over memory where tensor operations take four."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

BLOCK = 2048
MAGIC = 1.5 * 2.0**52


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def squares(values: Any) -> float:
    """sum x^2 in float64, values [p]."""
    total = 0.0
    for place in range(values.size):
        value = np.float64(values[place])
        total += value * value
    return total


@numba.njit(cache=True, nogil=True)
def add_whole(values: Any, factors: Any, total: Any) -> None:
    """total += sum_u round(values_u * factors_u) over rows whose factor is not 0; values [u p] and factors [u] of one dtype,
    total float64 [p]. Products stay below 2**51."""
    for start in range(0, values.shape[1], BLOCK):
        stop = min(start + BLOCK, values.shape[1])
        part = total[start:stop]
        for row in range(values.shape[0]):
            factor = factors[row]
            if factor != 0:
                own = values[row, start:stop]
                for place in range(part.size):
                    # Adding and taking away MAGIC rounds half to even, in vector instructions.
                    part[place] += (np.float64(own[place] * factor) + MAGIC) - MAGIC


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def of_norm(x: Any, mean: Any, rstd: Any, gradient: Any, out: Any) -> None:
    """out [b d] = sum_t gradient (x - mean) rstd; x and gradient [b t d], mean and rstd [b t], all float32."""
    for row in range(x.shape[0]):
        total = out[row]
        total[:] = 0
        for t in range(x.shape[1]):
            m, r = mean[row, t], rstd[row, t]
            own, g = x[row, t], gradient[row, t]
            for d in range(total.size):
                total[d] += g[d] * ((own[d] - m) * r)


@numba.njit(cache=True, nogil=True)
def finish(total: Any, noise: Any, cell: float, scale: float, out: Any) -> None:
    """out = round((total + noise) / cell) * cell * scale, and total = 0; total and noise float64, all [p]; `cell` a power of
    two."""
    inverse, factor = 1 / cell, cell * scale
    for place in range(total.size):
        out[place] = np.rint((total[place] + noise[place]) * inverse) * factor
        total[place] = 0

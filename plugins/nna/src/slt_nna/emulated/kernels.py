"""Passes over single entries, one for each operator: codes in, codes times scale out, and a mask of what was not clipped.

All take contiguous arrays and write into given ones. Chip values come in as float32 and are codes after division by their
scale; excluded entries are minus infinity, and stay so. `step` holds the six numbers of a `Rescale`.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from slt_nna.emulated.arithmetic import narrowed, rescaled
from slt_nna.emulated.compiled import compile_kernel, inline_function


@compile_kernel
def requantize_columns(acc, inverse, bias, step, register, word, wrap, scale, out, mask):
    """Products [rows columns], a bias code for each column, one rescaling; counts clipped and overflowed entries."""
    factor, shift, half, away, even, limit = step[0], step[1], step[2], step[3], step[4], step[5]
    low, high, least, most = register[0], register[1], word[0], word[1]
    clipped, overflowed = 0, 0
    for i in range(acc.shape[0]):
        for j in range(acc.shape[1]):
            v = np.int64(np.rint(acc[i, j] * inverse)) + bias[j]
            u = narrowed(v, low, high, wrap)
            z = rescaled(u, factor, shift, half, away, even, limit)
            y = narrowed(z, least, most, wrap)
            out[i, j] = np.float32(y * scale)
            kept = (y == z) & (u == v)
            mask[i, j] = kept
            clipped += not kept
            overflowed += u != v
    return clipped, overflowed


@compile_kernel
def requantize_channels(acc, inverse, bias, steps, register, word, wrap, scale, out, mask):
    """As `requantize_columns`, with a rescaling for each column: `steps` [6 columns]."""
    low, high, least, most = register[0], register[1], word[0], word[1]
    factor, shift, half, away, even, limit = steps[0], steps[1], steps[2], steps[3], steps[4], steps[5]
    clipped, overflowed = 0, 0
    for i in range(acc.shape[0]):
        for j in range(acc.shape[1]):
            v = np.int64(np.rint(acc[i, j] * inverse)) + bias[j]
            u = narrowed(v, low, high, wrap)
            z = rescaled(u, factor[j], shift[j], half[j], away[j], even[j], limit[j])
            y = narrowed(z, least, most, wrap)
            out[i, j] = np.float32(y * scale)
            kept = (y == z) & (u == v)
            mask[i, j] = kept
            clipped += not kept
            overflowed += u != v
    return clipped, overflowed


@compile_kernel
def requantize_rows(acc, inverse, bias, steps, register, word, wrap, scale, out, mask):
    """Products [rows columns] whose row i is of channel i % channels; `bias` [channels], `steps` [channels or 1, 6]."""
    low, high, least, most = register[0], register[1], word[0], word[1]
    channels, several = len(bias), len(steps) > 1
    clipped, overflowed = 0, 0
    for i in range(acc.shape[0]):
        channel = i % channels
        step = steps[channel if several else 0]
        factor, shift, half, away, even, limit = step[0], step[1], step[2], step[3], step[4], step[5]
        start = bias[channel]
        for j in range(acc.shape[1]):
            v = np.int64(np.rint(acc[i, j] * inverse)) + start
            u = narrowed(v, low, high, wrap)
            z = rescaled(u, factor, shift, half, away, even, limit)
            y = narrowed(z, least, most, wrap)
            out[i, j] = np.float32(y * scale)
            kept = (y == z) & (u == v)
            mask[i, j] = kept
            clipped += not kept
            overflowed += u != v
    return clipped, overflowed


@compile_kernel
def accumulate(acc, part, inverse, register, wrap, mask):
    """acc = S_A(acc + part) of one tile, in place; `acc` float64 holds integers; counts overflows."""
    low, high = register[0], register[1]
    overflowed = 0
    for i in range(acc.size):
        v = np.int64(acc[i]) + np.int64(np.rint(part[i] * inverse))
        u = narrowed(v, low, high, wrap)
        acc[i] = u
        if u != v:
            mask[i] = 0
            overflowed += 1
    return overflowed


@compile_kernel
def enter(x, scale, rounding, least, most, out, mask):
    """Float numbers to codes; `rounding` 0 half up, 1 half away, 2 half even, 3 truncate.

    What a code stands for is that code: in float32 a value lies beside code * scale, and truncate must not lose it.
    """
    clipped = 0
    for i in range(x.size):
        y = x[i] / scale
        if rounding == 0:
            y = np.floor(y + 0.5)
        elif rounding == 1:
            y = np.copysign(np.floor(np.abs(y) + 0.5), y)
        elif rounding == 2:
            y = np.rint(y)
        else:
            near = np.rint(y)
            y = near if np.float32(near * scale) == x[i] else np.floor(y)
        y = 0.0 if y != y else y
        z = min(max(y, least), most)
        out[i] = np.float32(z * scale)
        mask[i] = z == y
        clipped += z != y
    return clipped


@compile_kernel
def quantize_weight(w, scales, most, values, codes, sums, both):
    """Symmetric codes of a weight [rows columns], its values where wanted, and sum |code| of each row."""
    several = len(scales) > 1
    for i in range(w.shape[0]):
        scale = scales[i if several else 0]
        total = 0.0
        for j in range(w.shape[1]):
            code = min(max(np.rint(w[i, j] / scale), -most), most)
            values[i, j] = np.float32(code * scale)
            if both:
                codes[i, j] = np.float32(code)
        for j in range(w.shape[1]):
            total += abs(values[i, j])
        sums[i] = np.rint(total / scale)


@compile_kernel
def codes_of(x, inverse, out):
    """Codes, in float, of chip values."""
    for i in range(x.size):
        out[i] = np.rint(x[i] * inverse)


@compile_kernel
def add(a, inverse_a, step_a, b, inverse_b, step_b, sign, word, wrap, scale, out, mask):
    """S_b(rescale(a) + sign * rescale(b))."""
    factor, shift, half, away, even, limit = step_a[0], step_a[1], step_a[2], step_a[3], step_a[4], step_a[5]
    factor2, shift2, half2, away2, even2, limit2 = step_b[0], step_b[1], step_b[2], step_b[3], step_b[4], step_b[5]
    least, most = word[0], word[1]
    clipped = 0
    for i in range(a.size):
        there = (a[i] > -np.inf) & (b[i] > -np.inf)
        p = np.int64(np.rint(a[i] * inverse_a)) if there else 0
        q = np.int64(np.rint(b[i] * inverse_b)) if there else 0
        u = rescaled(p, factor, shift, half, away, even, limit)
        z = u + sign * rescaled(q, factor2, shift2, half2, away2, even2, limit2)
        y = narrowed(z, least, most, wrap)
        out[i] = np.float32(y * scale) if there else np.float32(-np.inf)
        kept = (y == z) & there
        mask[i] = kept
        clipped += not kept
    return clipped


@compile_kernel
def multiply(a, inverse_a, b, inverse_b, step, word, wrap, scale, out, mask):
    """S_b(rescale(a * b))."""
    factor, shift, half, away, even, limit = step[0], step[1], step[2], step[3], step[4], step[5]
    least, most = word[0], word[1]
    clipped = 0
    for i in range(a.size):
        there = (a[i] > -np.inf) & (b[i] > -np.inf)
        p = np.int64(np.rint(a[i] * inverse_a)) if there else 0
        q = np.int64(np.rint(b[i] * inverse_b)) if there else 0
        z = rescaled(p * q, factor, shift, half, away, even, limit)
        y = narrowed(z, least, most, wrap)
        out[i] = np.float32(y * scale) if there else np.float32(-np.inf)
        kept = (y == z) & there
        mask[i] = kept
        clipped += not kept
    return clipped


@inline_function
def place(x, inverse, least, most):
    """The place of a code in a map of all codes: 0 for what is excluded, 1 for the least code."""
    y = np.rint(x * inverse)
    y = min(y, most) if y >= least else least - 1.0
    return np.int64(y) - (np.int64(least) - 1)


@compile_kernel
def look_up(x, inverse, least, most, entries, out):
    """entries[code] of every value; `entries` float32, the first for excluded ones."""
    for i in range(x.size):
        out[i] = entries[place(x[i], inverse, least, most)]


@compile_kernel
def look_up_gradient(gradient, x, inverse, least, most, slopes, out):
    """gradient * slopes[code]."""
    for i in range(x.size):
        out[i] = gradient[i] * slopes[place(x[i], inverse, least, most)]


@compile_kernel
def gate(a, from_a, inverse_a, b, from_b, inverse_b, least, most, entries, step, word, wrap, scale, out, mask):
    """S_b(rescale(a * entries[b])) [rows columns] of the columns that begin at `from_a` of a and at `from_b` of b;
    `entries` int32 codes."""
    factor, shift, half, away, even, limit = step[0], step[1], step[2], step[3], step[4], step[5]
    low, high = word[0], word[1]
    clipped = 0
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            left = a[i, from_a + j]
            spot = place(b[i, from_b + j], inverse_b, least, most)
            there = (left > -np.inf) & (spot > 0)
            p = np.int64(np.rint(left * inverse_a)) if there else 0
            z = rescaled(p * entries[spot], factor, shift, half, away, even, limit)
            y = narrowed(z, low, high, wrap)
            out[i, j] = np.float32(y * scale) if there else np.float32(-np.inf)
            kept = (y == z) & there
            mask[i, j] = kept
            clipped += not kept
    return clipped


@compile_kernel
def gate_gradient(gradient, mask, a, from_a, b, from_b, inverse_b, least, most, values, slopes, grad_a, grad_b):
    """The gradients of a * values[b]."""
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            spot = place(b[i, from_b + j], inverse_b, least, most)
            g = gradient[i, j] if mask[i, j] else np.float32(0)
            left = a[i, from_a + j] if mask[i, j] else np.float32(0)
            grad_a[i, j] = g * values[spot] if mask[i, j] else np.float32(0)
            grad_b[i, j] = g * left * slopes[spot]


@compile_kernel
def masked(gradient, mask, out):
    """The gradient where nothing was clipped, else 0."""
    for i in range(gradient.size):
        out[i] = gradient[i] if mask[i] else np.float32(0)

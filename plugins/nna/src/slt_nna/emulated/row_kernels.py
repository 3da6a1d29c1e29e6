"""Softmax and layer norm over the last axis of arrays [rows columns], in integers."""
# mypy: disable-error-code="no-untyped-def,assignment"

from __future__ import annotations

import numpy as np

from slt_nna.emulated.arithmetic import narrowed, rescaled
from slt_nna.emulated.compiled import compile_kernel, inline_function

TINY = 2.0**-126
"""The least normal float32: what stands for the variance of a constant row without eps."""


@compile_kernel
def softmax(x, inverse, entries, bits, out, mask):
    """Probabilities of values; `entries[m - q]` are the codes of exp for each distance from the largest code."""
    most = (1 << (bits - 1)) - 1  # 1 itself is clipped, whatever the chip does with overflows elsewhere
    scale = 2.0 ** -(bits - 1)
    columns = x.shape[1]
    terms = np.empty(columns, np.int32)
    clipped = 0
    for i in range(x.shape[0]):
        largest = np.float32(-np.inf)
        for j in range(columns):
            largest = max(largest, x[i, j])
        if largest == -np.inf:
            for j in range(columns):
                out[i, j] = 0
                mask[i, j] = 1
            continue
        top = np.rint(largest * inverse)
        total = 0
        for j in range(columns):
            there = x[i, j] > -np.inf
            distance = np.int64(top - np.rint(x[i, j] * inverse)) if there else 0
            term = entries[distance] if there else np.int32(0)
            terms[j] = term
            total += term
        half, divisor = total >> 1, np.float64(max(total, 1))
        for j in range(columns):
            # both numbers are below 2^52, so that the floor of the rounded quotient is that of the exact one
            z = np.int64(np.floor(((np.int64(terms[j]) << (bits - 1)) + half) / divisor)) if total > 0 else 0
            y = min(z, most)
            out[i, j] = np.float32(y * scale)
            mask[i, j] = y == z
            clipped += y != z
    return clipped


@compile_kernel
def softmax_gradient(gradient, mask, x, inverse, entries, out):
    """p * (g - sum g p) with the true p; `entries[m - q]` are values of exp, g is 0 where p was clipped."""
    columns = x.shape[1]
    terms = np.empty(columns, np.float32)
    for i in range(x.shape[0]):
        largest = np.float32(-np.inf)
        for j in range(columns):
            largest = max(largest, x[i, j])
        if largest == -np.inf:
            for j in range(columns):
                out[i, j] = 0
            continue
        top = np.rint(largest * inverse)
        total, mixed = np.float32(0), np.float32(0)
        for j in range(columns):
            there = x[i, j] > -np.inf
            distance = np.int64(top - np.rint(x[i, j] * inverse)) if there else 0
            terms[j] = entries[distance] if there else np.float32(0)
        for j in range(columns):
            g = gradient[i, j] if mask[i, j] else np.float32(0)
            total += terms[j]
            mixed += terms[j] * g
        mean = mixed / total
        for j in range(columns):
            g = gradient[i, j] if mask[i, j] else np.float32(0)
            out[i, j] = terms[j] / total * (g - mean)


@inline_function
def root(v):
    """The largest integer whose square is at most v >= 0."""
    guess = np.int64(np.sqrt(np.float64(v)))
    while guess * guess > v:
        guess -= 1
    while (guess + 1) * (guess + 1) <= v:
        guess += 1
    return guess


@compile_kernel
def layer_norm(x, scale_x, drop, offset, eps, gain, shift_by, step, word, wrap, scale, out, mask, means, deviations):
    """Normalised values times gains plus shifts.

    `drop` bits of the centred codes are shifted out, so that their squares fit; `offset` is E; `gain` and `shift_by` are
    codes. `means` and `deviations` (inverse) are those of the values, in float, for the gradient.
    """
    factor, shift, half, away, even, limit = step[0], step[1], step[2], step[3], step[4], step[5]
    least, most = word[0], word[1]
    inverse = 1.0 / scale_x
    columns = x.shape[1]
    codes = np.empty(columns, np.int64)
    clipped = 0
    for i in range(x.shape[0]):
        total, squares = 0, 0
        for j in range(columns):
            code = np.int64(np.rint(x[i, j] * inverse))
            codes[j] = code
            total += code
            squares += code * code
        if drop == 0:
            squared = columns * squares - total * total  # sum of (D q - sum q)^2 over D
        else:
            squared = 0
            for j in range(columns):
                squared += ((columns * codes[j] - total) >> drop) ** 2
            squared //= columns
        sigma = root(squared + offset)
        mean = total / columns
        variance = max(squares / columns - mean * mean, 0.0) * scale_x * scale_x
        means[i] = np.float32(mean * scale_x)
        deviations[i] = np.float32(1.0 / np.sqrt(max(variance + eps, TINY)))
        divisor, more = np.float64(max(sigma, 1)), sigma >> 1
        for j in range(columns):
            t = (columns * codes[j] - total) >> drop
            # both numbers are below 2^52, so that the floor of the rounded quotient is that of the exact one
            n = np.int64(np.floor((t * 4096 + more) / divisor)) if sigma > 0 else 0
            z = rescaled(n * gain[j] + shift_by[j], factor, shift, half, away, even, limit)
            y = narrowed(z, least, most, wrap)
            out[i, j] = np.float32(y * scale)
            mask[i, j] = y == z
            clipped += y != z
    return clipped

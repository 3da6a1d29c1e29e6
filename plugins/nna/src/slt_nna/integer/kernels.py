"""The chip's arithmetic on integers, compiled. All in one file, since numba watches only the file of a kernel for changes.

A `step` is one rescaling as `slt_nna.integer.numbers.Rules.step` gives it, `half` and `wrap` a word, a `register` [4] the
accumulator: segments in a tile, half, wrap, and whether a segment's sum needs int64.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from slt_nna.compiling import announce_compilation

EXCLUDED = -(1 << 31)
HALF_UP, HALF_AWAY, HALF_EVEN = 0, 1, 2
BLOCK = 512


def kernel(function: Any) -> Any:
    """`function` compiled on its first call and kept on disk, or compiled in each process where no folder is writable."""
    announce_compilation()
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return part(function)


def part(function: Any) -> Any:
    """`function` as a part of kernels."""
    return numba.njit(nogil=True, error_model="numpy")(function)


# -- single integers


@part
def shifted(v, n, rounding):
    """v / 2**n, rounded."""
    if n == 0:
        return v
    half = np.int64(1) << (n - 1)
    if rounding == HALF_UP:
        return (v + half) >> n
    if rounding == HALF_AWAY:
        return (v + half) >> n if v >= 0 else -((half - v) >> n)
    floor = v >> n
    if rounding == HALF_EVEN:
        rest = v - (floor << n)
        if rest > half or (rest == half and floor & 1):
            floor += 1
    return floor


@part
def narrowed(v, half, wrap):
    """v in a word of 2 * half codes."""
    if wrap:
        return ((v + half) & (2 * half - 1)) - half
    return min(max(v, -half), half - 1)


@part
def rescaled(v, step):
    """v from one scale to another."""
    m, limit = step[0], step[2]
    return shifted(min(max(v, -limit), limit) * m, step[1], step[3])


@part
def requantized(v, step, half, wrap):
    """v from one scale to a word at another."""
    return narrowed(rescaled(v, step), half, wrap)


@part
def accumulated(x, i, w, j, start, register):
    """The accumulator that begins at `start` behind all products of x[i] and w[j], and how often narrowing changed it.

    Both have three axes: rows, segments, and a segment's entries; narrowing comes after `register[0]` segments.
    """
    most, half, wrap, wide = register[0], register[1], register[2], register[3]
    acc, changed = np.int64(start), np.int64(0)
    for tile in range(x.shape[1] // most):
        for s in range(tile * most, tile * most + most):
            if wide:
                for k in range(x.shape[2]):
                    acc += np.int64(x[i, s, k]) * np.int64(w[j, s, k])
            else:
                total = np.int32(0)
                for k in range(x.shape[2]):
                    total = np.int32(total + np.int32(x[i, s, k]) * np.int32(w[j, s, k]))
                acc += total
        kept = narrowed(acc, half, wrap)
        changed += kept != acc
        acc = kept
    return acc, changed


# -- sums of products


@kernel
def products(x, w, start, register, out):
    """out[g i j] of rows x[g i] and w[g j] in segments, begun at start[g j]; returns how often narrowing changed a sum."""
    changed = np.int64(0)
    for g in range(x.shape[0]):
        rows, others = x[g], w[g]
        for i in range(rows.shape[0]):
            for j in range(others.shape[0]):
                acc, more = accumulated(rows, i, others, j, start[g, j], register)
                out[g, i, j] = acc
                changed += more
    return changed


@kernel
def column_products(x, w, start, register, out):
    """out[g j i] of columns x[g k i] and w[g j k], for short sums that fit into int32 and one tile."""
    half, wrap = register[1], register[2]
    changed = 0
    sums = np.empty(BLOCK, np.int32)
    for g in range(x.shape[0]):
        for begin in range(0, x.shape[2], BLOCK):
            count = min(BLOCK, x.shape[2] - begin)
            for j in range(w.shape[1]):
                sums[:count] = 0
                for k in range(x.shape[1]):
                    factor = np.int32(w[g, j, k])
                    column = x[g, k, begin : begin + count]
                    for i in range(count):
                        sums[i] = np.int32(sums[i] + factor * np.int32(column[i]))
                for i in range(count):
                    acc = start[g, j] + sums[i]
                    kept = narrowed(acc, half, wrap)
                    changed += kept != acc
                    out[g, j, begin + i] = kept
    return changed


# -- single entries of flat arrays


@kernel
def rescale_all(v, step, out):
    """From one scale to another, not narrowed."""
    for i in range(v.size):
        out[i] = rescaled(v[i], step)


@kernel
def requantize_all(v, step, half, wrap, masked, out):
    """From one scale to a word at another; where `masked`, excluded entries stay so."""
    for i in range(v.size):
        if masked and v[i] == EXCLUDED:
            out[i] = EXCLUDED
        else:
            out[i] = requantized(np.int64(v[i]), step, half, wrap)


@kernel
def requantize_columns(v, steps, half, wrap, out):
    """[rows columns] of sums, with a step for each column."""
    for i in range(v.shape[0]):
        for j in range(v.shape[1]):
            out[i, j] = requantized(v[i, j], steps[j], half, wrap)


@kernel
def add_all(p, q, sign, step_p, step_q, half, wrap, out):
    """p + sign * q, each rescaled first."""
    for i in range(p.size):
        if p[i] == EXCLUDED or q[i] == EXCLUDED:
            out[i] = EXCLUDED
        else:
            z = rescaled(np.int64(p[i]), step_p) + sign * rescaled(np.int64(q[i]), step_q)
            out[i] = narrowed(z, half, wrap)


@kernel
def multiply_all(p, q, step, half, wrap, out):
    """p * q."""
    for i in range(p.size):
        if p[i] == EXCLUDED or q[i] == EXCLUDED:
            out[i] = EXCLUDED
        else:
            out[i] = requantized(np.int64(p[i]) * np.int64(q[i]), step, half, wrap)


@kernel
def gate_all(p, q, entries, step, half, wrap, out):
    """p times the entry of q; `entries` begin with that of the least code."""
    least = entries.size >> 1
    for i in range(p.size):
        if p[i] == EXCLUDED or q[i] == EXCLUDED:
            out[i] = EXCLUDED
        else:
            out[i] = requantized(np.int64(p[i]) * np.int64(entries[q[i] + least]), step, half, wrap)


@kernel
def look_up_all(q, entries, out):
    """The entry of q; `entries` begin with that of the least code."""
    least = entries.size >> 1
    for i in range(q.size):
        out[i] = EXCLUDED if q[i] == EXCLUDED else entries[q[i] + least]


# -- rows


@kernel
def softmax(q, entries, bits, out):
    """Shares of exponentials: `entries[k]` is that of a code k below the largest of its row; none of excluded codes.

    A share of 1 is one code too large for its word, and clipped whatever becomes of other overflows.
    """
    terms = np.empty(q.shape[1], np.int64)
    most = (np.int64(1) << (bits - 1)) - 1
    for i in range(q.shape[0]):
        largest, total = np.int64(EXCLUDED), np.int64(0)
        for k in range(q.shape[1]):
            largest = max(largest, np.int64(q[i, k]))
        for k in range(q.shape[1]):
            terms[k] = 0 if q[i, k] == EXCLUDED else entries[largest - q[i, k]]
            total += terms[k]
        for k in range(q.shape[1]):
            out[i, k] = 0 if total == 0 else min(((terms[k] << (bits - 1)) + (total >> 1)) // total, most)


@part
def root(v):
    """The largest integer whose square is at most v, bit by bit."""
    found = np.int64(0)
    bit = np.int64(1) << 62
    while bit > v:
        bit >>= 2
    while bit != 0:
        if v >= found + bit:
            v -= found + bit
            found = (found >> 1) + bit
        else:
            found >>= 1
        bit >>= 2
    return found


@kernel
def layer_norm(q, drop, extra, gain, shift, step, half, wrap, out):
    """Normalised rows with 12 fraction bits, times gains plus shifts; `extra` stands for eps."""
    width = q.shape[1]
    t = np.empty(width, np.int64)
    for i in range(q.shape[0]):
        total = np.int64(0)
        for k in range(width):
            total += q[i, k]
        squares = np.int64(0)
        for k in range(width):
            t[k] = (width * np.int64(q[i, k]) - total) >> drop
            squares += t[k] * t[k]
        sigma = root(squares // width + extra)
        for k in range(width):
            n = np.int64(0) if sigma == 0 else (t[k] * 4096 + (sigma >> 1)) // sigma
            out[i, k] = requantized(n * gain[k] + shift[k], step, half, wrap)


# -- recurrence


@kernel
def lstm(
    given,
    starts,
    sizes,
    back,
    none,
    register,
    steps,
    words,
    sigmoid,
    tanh,
    tanh_c,
    project,
    project_register,
    h,
    c,
    out,
):
    """One layer, frame after frame; h int16 and c int32 [b d] are changed, out [rows p] is filled.

    `given` [rows 4d] are input products at the scale of the gates (i f g o), `starts` and `sizes` the first row and the
    rows of each frame in the order of time. `back` [4d s l] and `project` [p s l] are in segments, as are h [b s l] and
    the input of the projection, with zeros behind; without a projection `project` is empty. `steps`: recurrent products to
    gates, f c and i g to the cell, o y to the output (or to the input of the projection), projection to h. `words`: halves
    of gates, cell, output and inner, and wrap. Tables by code, the least first. `none` are zeros. Returns how often
    narrowing changed a sum.
    """
    width, changed = c.shape[1], np.int64(0)
    again = np.empty(4 * width, np.int64)
    inner = np.zeros((1, project.shape[1], project.shape[2]), np.int16)
    flat_inner, flat_h = inner.reshape(-1), h.reshape(h.shape[0], -1)
    half, cell_half, wrap = words[0], words[1], words[4] != 0
    for frame in range(starts.size):
        for b in range(sizes[frame]):
            row = starts[frame] + b
            for j in range(4 * width):
                again[j], more = accumulated(h, b, back, j, none[j], register)
                changed += more
            for j in range(4 * width):
                z = given[row, j] + rescaled(again[j], steps[0])
                again[j] = narrowed(z, half, wrap) + half
            for j in range(width):
                i, f = np.int64(sigmoid[again[j]]), np.int64(sigmoid[again[width + j]])
                g, o = np.int64(tanh[again[2 * width + j]]), np.int64(sigmoid[again[3 * width + j]])
                z = rescaled(f * c[b, j], steps[1]) + rescaled(i * g, steps[2])
                c[b, j] = narrowed(z, cell_half, wrap)
                y = requantized(o * np.int64(tanh_c[c[b, j] + cell_half]), steps[3], words[3], wrap)
                if project.shape[0] == 0:
                    flat_h[b, j] = y
                else:
                    flat_inner[j] = y
            for j in range(project.shape[0]):
                acc, more = accumulated(inner, 0, project, j, np.int64(0), project_register)
                changed += more
                flat_h[b, j] = requantized(acc, steps[4], words[2], wrap)
            for j in range(out.shape[1]):
                out[row, j] = flat_h[b, j]
    return changed


@kernel
def gru(given, starts, sizes, back, bias, register, steps, words, sigmoid, tanh, h, out):
    """As `lstm`, gates r z n. `steps`: recurrent products to gates, r times products, (1 - z) n and z h to the output;
    `words`: halves of gates, table (its 1) and output, and wrap."""
    width, changed = out.shape[1], np.int64(0)
    again = np.empty(3 * width, np.int64)
    flat_h = h.reshape(h.shape[0], -1)
    half, one, out_half, wrap = words[0], words[1], words[2], words[3] != 0
    for frame in range(starts.size):
        for b in range(sizes[frame]):
            row = starts[frame] + b
            for j in range(3 * width):
                again[j], more = accumulated(h, b, back, j, bias[j], register)
                changed += more
            for j in range(width):
                r = np.int64(sigmoid[narrowed(given[row, j] + rescaled(again[j], steps[0]), half, wrap) + half])
                z = given[row, width + j] + rescaled(again[width + j], steps[0])
                z = np.int64(sigmoid[narrowed(z, half, wrap) + half])
                own = narrowed(rescaled(again[2 * width + j], steps[0]), half, wrap)
                new = narrowed(given[row, 2 * width + j], half, wrap) + rescaled(r * own, steps[1])
                n = np.int64(tanh[narrowed(new, half, wrap) + half])
                mixed = rescaled((one - z) * n, steps[2]) + rescaled(z * np.int64(flat_h[b, j]), steps[3])
                flat_h[b, j] = narrowed(mixed, out_half, wrap)
                out[row, j] = flat_h[b, j]
    return changed

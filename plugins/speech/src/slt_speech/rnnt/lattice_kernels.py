"""Compiled loops of the transducer loss; importing this module compiles or loads machine code.

All work on one utterance and a run of its frames. A cell (t, k) of a frame is the label position u = first[t] + k: the
full lattice has first = 0 and s = u + 1 cells, a pruned one has fewer. What passes from frame to frame stands in `arrive`
and `leave` [u+1], so that callers may hand over a long utterance in pieces. Sums of paths are float64 throughout: their
logarithms are in the thousands, where float32 has three decimals left.

numba has no vectorised exp without a library of Intel's; here is one as a polynomial, which LLVM vectorises.
"""
# mypy: disable-error-code="untyped-decorator,call-arg,arg-type,no-any-return,var-annotated"

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from sltcore.alignment.compiled import OPTIONS, compile_kernel

# exp(r) = 1 + r + r^2 (C2 + C3 r + ..) for |r| <= ln(2) / 2, relative error 3e-9: a weighted least-squares fit,
# reweighted until its largest error is flat.
C2, C3 = np.float32(0.4999999403953552), np.float32(0.1666652113199234)
C4, C5, C6 = np.float32(0.04166838899254799), np.float32(0.00836874544620514), np.float32(0.0013814540579915047)
LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH = np.float32(0.693359375)  # few bits: its product with a small integer is exact (Cody and Waite)
LN2_LOW = np.float32(math.log(2.0) - 0.693359375)
ROUNDING = np.float32(1.5 * 2**23)  # added and taken away again it rounds; its last bits are the integer
LEAST = np.float32(-88.0)  # below, exp is 0: the exponent field of the result is 0
ONE = np.float32(1.0)
MANTISSA, BIAS, SIGN, MAGNITUDE = np.int32(23), np.int32(127 << 23), np.int32(31), np.int32(0x7FFFFFFF)
CONTRACTED: dict[str, Any] = {**OPTIONS, "fastmath": {"contract"}}
REORDERED: dict[str, Any] = {**OPTIONS, "fastmath": {"contract", "reassoc"}}
"""A sum in any order, which vectors need; infinities and NaN keep their meaning."""


@intrinsic
def bits_of(context: Any, value: Any) -> Any:
    """The bits of a float32 as an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def float_of(context: Any, value: Any) -> Any:
    """The float32 that has the bits of an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@numba.njit(**CONTRACTED)
def exp32(x: Any) -> Any:
    """exp(x) for x <= 88; NaN stays NaN."""
    x = LEAST if x < LEAST else x
    shifted = x * LOG2_E + ROUNDING
    n = shifted - ROUNDING
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = ((((C6 * r + C5) * r + C4) * r + C3) * r + C2) * (r * r) + (r + ONE)
    return p * float_of(np.int32((bits_of(shifted) << MANTISSA) + BIAS))


@numba.njit(**OPTIONS)
def largest32(row: Any) -> Any:
    """The largest entry, NaN being the largest: compared as integers, whose maximum LLVM vectorises without NaN rules."""
    best = np.int32(-MAGNITUDE)
    for j in range(len(row)):
        bits = bits_of(row[j])
        key = np.int32(bits ^ ((bits >> SIGN) & MAGNITUDE))
        best = key if key > best else best
    return float_of(np.int32(best ^ ((best >> SIGN) & MAGNITUDE)))


@numba.njit(**REORDERED)
def total32(row: Any, top: Any) -> Any:
    total = np.float32(0.0)
    for j in range(len(row)):
        total += exp32(row[j] - top)
    return total


@numba.njit(**CONTRACTED)
def softmax32(row: Any, normalizer: float, factor: float, out: Any) -> None:
    high = np.float32(normalizer)
    low, times = np.float32(normalizer - high), np.float32(factor)
    for j in range(len(row)):
        out[j] = times * exp32((row[j] - high) - low)


def log_sum_exp(row: Any) -> Any:
    """ln(sum(exp(row))) in float64, -inf where all entries are."""
    return np.logaddexp.reduce(row, dtype=np.float64)


def softmax_row(row: Any, normalizer: Any, factor: Any, out: Any) -> Any:
    """Write factor * exp(row - normalizer) to out."""
    out[:] = factor * np.exp(row - normalizer)


@overload(log_sum_exp, jit_options=OPTIONS)
def compiled_log_sum_exp(row: Any) -> Any:
    """By the type of the entries: float32 vectorised, float64 as the mathematical library has it."""
    if row.dtype == types.float32:

        def single(row: Any) -> Any:
            top = largest32(row)
            if top == -np.inf:
                return -np.inf
            return np.float64(top) + math.log(np.float64(total32(row, top)))

        return single

    def double(row: Any) -> Any:
        top = -np.inf
        for j in range(len(row)):
            top = top if row[j] <= top else row[j]  # NaN goes through
        if top == -np.inf:
            return -np.inf
        total = 0.0
        for j in range(len(row)):
            total += math.exp(row[j] - top)
        return top + math.log(total)

    return double


@overload(softmax_row, jit_options=OPTIONS)
def compiled_softmax_row(row: Any, normalizer: Any, factor: Any, out: Any) -> Any:
    """By the type of the entries, as `compiled_log_sum_exp`."""
    if row.dtype == types.float32:

        def single(row: Any, normalizer: Any, factor: Any, out: Any) -> Any:
            softmax32(row, normalizer, factor, out)

        return single

    def double(row: Any, normalizer: Any, factor: Any, out: Any) -> Any:
        for j in range(len(row)):
            out[j] = factor * math.exp(row[j] - normalizer)

    return double


@numba.njit(**OPTIONS)
def log_add(a: float, b: float) -> float:
    """ln(e^a + e^b); NaN goes through."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == -np.inf else high + math.log1p(math.exp(low - high))


@numba.njit(**OPTIONS)
def share(logarithm: float) -> float:
    """exp, at most 1: where sums are so large that their rounding errors are nats, a share of paths is still a share."""
    return 1.0 if logarithm > 0.0 else math.exp(logarithm)


@numba.njit(**OPTIONS)
def close_outside(carried: Any, start: int, size: int) -> None:
    """No path passes to another frame outside the cells of this one."""
    for u in range(min(start, len(carried))):
        carried[u] = -np.inf
    for u in range(start + size, len(carried)):
        carried[u] = -np.inf


@compile_kernel
def forward_frames(
    logits: Any, first: Any, targets: Any, blank: int, normalizers: Any, alpha: Any, arrive: Any
) -> None:
    """Sums alpha [t s] of all paths into each cell, and the log-sum-exp [t s] of its logits [t s v].

    `targets` [u]; `arrive` [u+1] holds sums of paths into the first of these frames, and then those out of the last.
    """
    positions, cells = len(arrive), logits.shape[1]
    for t in range(logits.shape[0]):
        start = first[t]
        along = -np.inf
        for k in range(cells):
            u = start + k
            alpha[t, k] = -np.inf
            normalizers[t, k] = -np.inf
            if u >= positions:
                continue
            here = log_add(arrive[u], along)
            along = -np.inf
            arrive[u] = -np.inf
            if here == -np.inf:
                continue
            row = logits[t, k]
            normalizer = log_sum_exp(row)
            if normalizer == -np.inf:
                continue
            alpha[t, k] = here
            normalizers[t, k] = normalizer
            arrive[u] = here + (row[blank] - normalizer)
            if u + 1 < positions:
                along = here + (row[targets[u]] - normalizer)
        close_outside(arrive, start, cells)


@numba.njit(**OPTIONS)
def write_gradient(row: Any, normalizer: float, blank: int, label: int, parts: Any, limits: Any, out: Any) -> None:
    """scale * clip(softmax * (blank + label) - [blank] - [label]) of one cell, whose occupancies `parts` are."""
    by_blank, by_label = parts
    scale, clamp, negligible = limits
    occupied = by_blank + by_label
    if occupied <= negligible:
        out[:] = 0
        return
    factor = occupied if clamp < np.inf else occupied * scale
    softmax_row(row, normalizer, factor, out)
    scale_here = 1.0 if clamp < np.inf else scale
    # the difference of two near numbers: in float64
    out[blank] = scale_here * (occupied * math.exp(row[blank] - normalizer) - by_blank)
    if label >= 0:
        out[label] = scale_here * (occupied * math.exp(row[label] - normalizer) - by_label)
    if clamp < np.inf:
        for j in range(len(out)):
            value = out[j]
            value = clamp if value > clamp else value
            out[j] = scale * (-clamp if value < -clamp else value)


@compile_kernel
def backward_frames(
    logits: Any,
    first: Any,
    targets: Any,
    blank: int,
    normalizers: Any,
    alpha: Any,
    leave: Any,
    total: float,
    label_weight: float,
    limits: Any,
    gradient: Any,
) -> None:
    """Gradient [t s v] of -total with respect to logits [t s v], from the last frame to the first.

    `leave` [u+1] holds sums of paths out of the last of these frames, and then those out of the frame before the first;
    `total` is the sum of all paths; label arcs count `label_weight` times; `limits`: the upstream gradient, the largest
    absolute value before it, the occupancy of a cell up to which its gradient is written as zero.
    """
    positions, cells = len(leave), logits.shape[1]
    for t in range(logits.shape[0] - 1, -1, -1):
        start = first[t]
        beyond = -np.inf
        for k in range(cells - 1, -1, -1):
            u = start + k
            if u >= positions or alpha[t, k] == -np.inf:
                gradient[t, k, :] = 0
                beyond = -np.inf
                if u < positions:
                    leave[u] = -np.inf
                continue
            row, normalizer = logits[t, k], normalizers[t, k]
            down = leave[u] + (row[blank] - normalizer)
            label, right = -1, -np.inf
            if u + 1 < positions:
                label = targets[u]
                right = beyond + (row[label] - normalizer)
            beyond = log_add(down, right)
            leave[u] = beyond
            above = alpha[t, k] - total
            parts = (share(above + down), label_weight * share(above + right))
            write_gradient(row, normalizer, blank, label, parts, limits, gradient[t, k])
        close_outside(leave, start, cells)


@compile_kernel
def sum_paths(blank: Any, label: Any, alpha: Any) -> float:
    """Fill alpha [t+1 u+1] with sums of paths over log-probabilities blank [t u+1] and label [t u]; gives the last."""
    frames, labels = blank.shape[0], blank.shape[1] - 1
    for t in range(frames + 1):
        for u in range(labels + 1):
            down = alpha[t - 1, u] + blank[t - 1, u] if t else (-np.inf if u else 0.0)
            right = alpha[t, u - 1] + label[t, u - 1] if u and t < frames else -np.inf
            alpha[t, u] = log_add(down, right)
    return alpha[frames, labels]


@compile_kernel
def occupy(blank: Any, label: Any, alpha: Any, total: float, beta: Any, by_blank: Any, by_label: Any) -> None:
    """Write the shares of all paths that take each arc, [t u+1] and [t u]; `beta` [u+1] is room to work in."""
    frames, labels = blank.shape[0], blank.shape[1] - 1
    beta[:] = -np.inf
    beta[labels] = 0.0
    for t in range(frames - 1, -1, -1):
        for u in range(labels, -1, -1):
            down = beta[u] + blank[t, u]
            right = beta[u + 1] + label[t, u] if u < labels else -np.inf
            beta[u] = log_add(down, right)
            by_blank[t, u] = share(alpha[t, u] + down - total)
            if u < labels:
                by_label[t, u] = share(alpha[t, u] + right - total)

"""Sums of products in the chip's accumulator: exact inside a tile, narrowed behind it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_nna.integer import kernels
from slt_nna.integer.numbers import Rules, Wide

Packed = npt.NDArray[Any]
INT32 = 1 << 31
SHORT = 48
"""Sums of fewer products are made for many places at once."""
LEAST_BLOCK = 16


class Sums(NamedTuple):
    """Accumulators int64, and how many narrowings changed a number."""

    values: Wide
    overflows: int


def packed(codes: npt.NDArray[Any], bits: int) -> Packed:
    """Codes in the smallest type that holds words of so many bits."""
    return np.ascontiguousarray(codes, dtype=np.int8 if bits <= 8 else np.int16)


def operand(codes: npt.NDArray[Any]) -> Packed:
    """What takes part in products with weights or other operands."""
    return np.ascontiguousarray(codes, dtype=np.int16)


class Register(NamedTuple):
    """The accumulator for sums of `inner` products of words of two widths.

    A sum is cut into `pieces` segments of `length`, so that int32 holds each; the last is filled up with zeros, which
    change nothing. `numbers` is what kernels take.
    """

    length: int
    pieces: int
    numbers: Wide

    def segments(self, rows: Packed) -> Packed:
        """[... k] as [... pieces length]."""
        missing = self.pieces * self.length - rows.shape[-1]
        if missing:
            rows = np.concatenate([rows, np.zeros((*rows.shape[:-1], missing), rows.dtype)], -1)
        return rows.reshape(*rows.shape[:-1], self.pieces, self.length)


def register(rules: Rules, inner: int, bits: int, other: int) -> Register:
    """The accumulator of a chip."""
    accumulator = rules.chip.accumulator
    block = (INT32 - 1) >> (bits + other - 2)
    tile = min(accumulator.tile or inner, inner) or 1
    if tile == inner:  # one tile: as many segments as are needed
        per_tile = -(-tile // block) if block >= LEAST_BLOCK else 1
        length = -(-tile // per_tile)
    else:
        length = next((each for each in range(min(block, tile), LEAST_BLOCK - 1, -1) if tile % each == 0), tile)
        per_tile = tile // length
    count = -(-inner // tile) * per_tile
    half, wrap = rules.word(accumulator.bits)
    return Register(length, count, np.array([per_tile, half, wrap, length > block], np.int64))


def sums_of_rows(rules: Rules, x: Packed, bits: int, w: Packed, other: int, start: Wide | None) -> Sums:
    """Accumulators [g n m] of rows x [g n k] and w [g m k], words of `bits` and `other` bits, begun at `start` [g m]."""
    out = np.empty((x.shape[0], x.shape[1], w.shape[1]), np.int64)
    begun = np.zeros((x.shape[0], w.shape[1]), np.int64) if start is None else start
    sums = register(rules, x.shape[2], bits, other)
    return Sums(out, int(kernels.products(sums.segments(x), sums.segments(w), begun, sums.numbers, out)))


def short(rules: Rules, inner: int, bits: int, other: int) -> bool:
    """Whether `sums_of_columns` can make a sum: of few products, in int32, in one tile."""
    tile = rules.chip.accumulator.tile
    return inner <= SHORT and inner << (bits + other - 2) < INT32 and (tile is None or tile >= inner)


def sums_of_columns(rules: Rules, x: Packed, bits: int, w: Packed, other: int, start: Wide | None) -> Sums:
    """Accumulators [g m n] of columns x [g k n] and w [g m k]."""
    out = np.empty((x.shape[0], w.shape[1], x.shape[2]), np.int64)
    begun = np.zeros((x.shape[0], w.shape[1]), np.int64) if start is None else start
    return Sums(out, int(kernels.column_products(x, w, begun, register(rules, x.shape[1], bits, other).numbers, out)))


class Geometry(NamedTuple):
    """How a convolution moves over one or two axes; the padding is symmetric, of zeros."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def unfolded(x: Packed, sizes: tuple[int, ...], geometry: Geometry, *, columns: bool) -> tuple[Packed, tuple[int, ...]]:
    """What x [b c places] has under a kernel at each place: [groups k b*places] (or [groups b*places k]), k channels
    first, and the places of the result."""
    groups, axes = geometry.groups, len(sizes)
    x = np.pad(x, [(0, 0), (0, 0), *((side, side) for side in geometry.padding)])
    spans = tuple(rate * (size - 1) + 1 for rate, size in zip(geometry.dilation, sizes, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + axes)))  # type: ignore[call-overload]
    steps = tuple(slice(None, None, step) for step in geometry.stride)
    taps = tuple(slice(None, None, rate) for rate in geometry.dilation)
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    batch, places = windows.shape[0], windows.shape[2 : 2 + axes]
    windows = windows.reshape(batch, groups, -1, *places, *sizes) if groups == 1 else _grouped(windows, groups)
    before, kernel = tuple(range(3, 3 + axes)), tuple(range(3 + axes, 3 + 2 * axes))
    order = (1, 2, *kernel, 0, *before) if columns else (1, 0, *before, 2, *kernel)
    shape = (groups, -1, batch * int(np.prod(places))) if columns else (groups, batch * int(np.prod(places)), -1)
    inner = windows.shape[2] * int(np.prod(sizes))
    sized = tuple(inner if each == -1 else each for each in shape)
    return np.ascontiguousarray(windows.transpose(order)).reshape(sized), tuple(places)


def _grouped(windows: Packed, groups: int) -> Packed:
    """[b c ...] seen as [b groups c/groups ...], without a copy."""
    strides = windows.strides
    channels = windows.shape[1] // groups
    shape = (windows.shape[0], groups, channels, *windows.shape[2:])
    return np.lib.stride_tricks.as_strided(windows, shape, (strides[0], channels * strides[1], *strides[1:]))

"""Linear layers and products of activations: exact sums of codes, narrowed tile by tile where they may overflow."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.emulated.gradient import Operator, combined
from slt_nna.emulated.weights import (
    bias_codes,
    exact_type,
    largest_code,
    operand,
    overflows,
    quantized,
    tiled,
)
from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.emulated.passes import Passes


class Accumulated(NamedTuple):
    """Products x @ w.T (codes are `acc` * `inverse`), the bias that is still to be added, and what a tile overflowed."""

    acc: Tensor
    inverse: float
    bias: Tensor | None
    mask: Tensor | None


def accumulated(
    passes: Passes, x: Tensor, gx: Grid, weight: Tensor, unit: float, largest: float, bias: Tensor | None
) -> Accumulated:
    """x [rows f] times weight [g f], whose codes are `weight` / `unit` and sum up to `largest` at most in a row."""
    tile = passes.arithmetic.chip.accumulator.tile
    start = 0.0 if bias is None or not bias.numel() else float(bias.abs().max())
    bound = largest * (1 << (gx.bits - 1))
    features = x.shape[-1]
    several = tile is not None and tile < features
    given, scale = operand(passes, x, gx)
    inverse = 1.0 / (scale * unit)
    if bound >= (1 << 24) or (several and overflows(passes.arithmetic, bound + start)):
        bound = largest * largest_code(x, gx)
    kind = exact_type(bound)
    if kind != torch.float32:
        given, weight = given.to(kind), weight.to(kind)
    if not (several and overflows(passes.arithmetic, bound + start)):
        return Accumulated(functional.linear(given, weight), inverse, bias, None)
    assert tile is not None
    spans = [slice(begin, begin + tile) for begin in range(0, features, tile)]
    parts = [partial(functional.linear, given[..., span], weight[:, span]) for span in spans]
    acc, mask = tiled(passes, (*x.shape[:-1], weight.shape[0]), bias, parts, inverse, x.device)
    return Accumulated(acc, 1.0, None, mask)


class Linear(Operator):
    """functional.linear."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, passes: Passes, gx: Grid, out: Grid
    ) -> Tensor:
        arithmetic = passes.arithmetic
        channels = arithmetic.chip.weight_scales == "channel"
        codes = quantized(arithmetic, weight, arithmetic.chip.words.weight, channels=channels)
        given, kept = bias_codes(
            arithmetic, bias, np.float64(codes.scale) * gx.scale if channels else codes.scale * gx.scale
        )
        rows = x.reshape(-1, x.shape[-1])
        found = accumulated(passes, rows, gx, codes.operand, codes.unit, codes.largest, given)
        ratio = codes.scale * gx.scale / out.scale
        value, mask = passes.requantize(found.acc, found.inverse, found.bias, ratio, out, register=found.mask is None)
        ctx.save_for_backward(rows, codes.values, combined(mask, found.mask), kept)
        ctx.passes, ctx.shape = passes, x.shape
        return value.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, values, mask, kept = ctx.saved_tensors
        g = ctx.passes.masked(gradient.reshape(-1, gradient.shape[-1]), mask)
        wanted = ctx.needs_input_grad
        to_x = torch.mm(g, values).view(ctx.shape) if wanted[0] else None
        to_weight = torch.mm(g.t(), rows) if wanted[1] else None
        to_bias = g.sum(0) if wanted[2] else None
        if to_bias is not None and kept is not None:
            to_bias = to_bias * kept
        return to_x, to_weight, to_bias, None, None, None


class Product(Operator):
    """torch.matmul of two activations, times a number."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, passes: Passes, ga: Grid, gb: Grid, out: Grid, factor: float) -> Tensor:
        acc, inverse, mask = _product(passes, a, ga, b, gb)
        ratio = ga.scale * gb.scale * factor / out.scale
        value, clipped = passes.requantize(acc, inverse, None, ratio, out, register=mask is None)
        ctx.save_for_backward(a, b, combined(clipped, mask))
        ctx.passes, ctx.factor = passes, factor
        return value

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, mask = ctx.saved_tensors
        g = ctx.passes.masked(gradient, mask)
        if ctx.factor != 1.0:
            g = g * ctx.factor
        to_a = torch.matmul(g, b.transpose(-1, -2)).sum_to_size(a.shape) if ctx.needs_input_grad[0] else None
        to_b = torch.matmul(a.transpose(-1, -2), g).sum_to_size(b.shape) if ctx.needs_input_grad[1] else None
        return to_a, to_b, None, None, None, None, None


def _product(passes: Passes, a: Tensor, ga: Grid, b: Tensor, gb: Grid) -> tuple[Tensor, float, Tensor | None]:
    """Products, the factor that makes them codes, and what tiles overflowed."""
    tile = passes.arithmetic.chip.accumulator.tile
    features = a.shape[-1]
    several = tile is not None and tile < features
    bound = float(features << (ga.bits + gb.bits - 2))
    if bound >= (1 << 24) or (several and overflows(passes.arithmetic, bound)):
        bound = features * largest_code(a, ga) * largest_code(b, gb)
    kind = exact_type(bound)
    (left, scale_a), (right, scale_b) = operand(passes, a, ga), operand(passes, b, gb)
    left, right = left.to(kind), right.to(kind)
    inverse = 1.0 / (scale_a * scale_b)
    if not (several and overflows(passes.arithmetic, bound)):
        return torch.matmul(left, right), inverse, None
    assert tile is not None
    shape = (*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    spans = [slice(begin, begin + tile) for begin in range(0, features, tile)]
    parts = [partial(torch.matmul, left[..., span], right[..., span, :]) for span in spans]
    acc, mask = tiled(passes, shape, None, parts, inverse, a.device)
    return acc, 1.0, mask

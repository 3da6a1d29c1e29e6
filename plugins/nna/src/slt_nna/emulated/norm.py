"""Softmax, layer norm and batch norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from slt_nna.emulated import portable, row_kernels
from slt_nna.emulated.gradient import Operator
from slt_nna.emulated.passes import array, empty, on_cpu, word
from slt_nna.emulated.threads import spread
from slt_nna.emulated.weights import quantized
from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.emulated.arithmetic import Arithmetic
    from slt_nna.emulated.passes import Passes

NORM_SCALE = 2.0**-12
MAX_BITS = 62


class Softmax(Operator):
    """Probabilities over the last axis; the gradient is that of the true softmax of the values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: Passes, grid: Grid, tables: tuple[Tensor, Tensor]) -> Tensor:
        value, mask = passes.softmax(x, grid, tables[0])
        ctx.save_for_backward(x, mask)
        ctx.passes, ctx.grid, ctx.table = passes, grid, tables[1]
        return value

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mask = ctx.saved_tensors
        return ctx.passes.softmax_gradient(gradient, mask, x, ctx.grid, ctx.table), None, None, None


class Affine(NamedTuple):
    """Gains as codes and values, shifts as codes; `kept` masks shifts that were not clipped, None where none was."""

    scale: float
    gain: Tensor
    values: Tensor
    shift: Tensor
    kept: Tensor | None


class LayerNorm(Operator):
    """Normalisation over the last axis; the gradient is that of the true one of the values."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, passes: Passes, gx: Grid, out: Grid, eps: float
    ) -> Tensor:
        arithmetic = passes.arithmetic
        affine = _affine(arithmetic, x, weight, bias)
        columns = x.shape[-1]
        drop, offset = dropped(gx.bits, columns), _offset(eps, columns, gx.scale)
        offset >>= 2 * drop
        step = arithmetic.rescale(NORM_SCALE * affine.scale / out.scale)
        limits = arithmetic.limits(out.bits)
        rows = x.contiguous().view(-1, columns)
        if on_cpu(x):
            value, mask = empty(rows)
            means, deviations = torch.empty(len(rows), 1), torch.empty(len(rows), 1)
            given, into, kept_there = array(rows), array(value), array(mask)
            mean, deviation = array(means)[:, 0], array(deviations)[:, 0]
            codes = (array(affine.gain), array(affine.shift), step.array, word(limits), limits.wrap, out.scale)
            rest = (gx.scale, drop, offset, eps, *codes)
            clipped = spread(
                len(given),
                rows.numel(),
                lambda part: row_kernels.layer_norm(
                    given[part], *rest, into[part], kept_there[part], mean[part], deviation[part]
                ),
            )
            kept = mask if clipped else None
        else:
            value, kept = portable.layer_norm(
                rows, gx.scale, drop, offset, affine.gain, affine.shift, step, limits, out.scale
            )
            variances, means = torch.var_mean(rows, -1, correction=0, keepdim=True)
            deviations = torch.rsqrt(variances + eps)
        held = None if weight is None else affine.values
        ctx.save_for_backward(rows, means, deviations, held, kept, affine.kept)
        ctx.passes, ctx.shape, ctx.affine = passes, x.shape, (weight is not None, bias is not None)
        return value.view(x.shape)

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, means, deviations, gain, mask, kept = ctx.saved_tensors
        g = ctx.passes.masked(gradient.reshape(rows.shape), mask)
        wanted = [ctx.needs_input_grad[0], *(ctx.needs_input_grad[1 + place] for place in (0, 1))]
        shift = torch.zeros_like(gain) if gain is not None else None
        to_x, to_weight, to_bias = torch.ops.aten.native_layer_norm_backward(
            g,
            rows,
            rows.shape[-1:],
            means,
            deviations,
            gain,
            shift,
            [wanted[0], wanted[1], wanted[2] and gain is not None],
        )
        if wanted[2]:
            to_bias = g.sum(0) if gain is None else to_bias
            to_bias = to_bias if kept is None else to_bias * kept
        to_x = to_x.view(ctx.shape) if wanted[0] else None
        return to_x, to_weight if wanted[1] else None, to_bias if wanted[2] else None, None, None, None, None


def _affine(arithmetic: Arithmetic, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Affine:
    columns = x.shape[-1]
    if weight is None:
        ones = torch.ones(columns, dtype=torch.int64, device=x.device)
        scale, gain, values = 1.0, ones, ones.float()
    else:
        codes = quantized(arithmetic, weight, arithmetic.chip.words.weight)
        scale = float(codes.scale)
        values = codes.values.view(-1)
        gain = torch.round(values.double() / scale).long()
    if bias is None:
        return Affine(scale, gain, values, torch.zeros_like(gain), None)
    bits = arithmetic.chip.words.bias
    exact = torch.round(bias.detach().double() / (NORM_SCALE * scale))
    shift = exact.clamp(-float(1 << (bits - 1)), float((1 << (bits - 1)) - 1))
    kept = shift == exact
    return Affine(scale, gain, values, shift.long(), None if bool(kept.all()) else kept)


def dropped(bits: int, columns: int) -> int:
    """How many bits of centred codes are left out so that the sum of their squares has 62."""
    width = math.ceil(math.log2(columns)) if columns > 1 else 0
    return max(0, math.ceil((2 * (bits + width) + width - MAX_BITS) / 2))


def _offset(eps: float, columns: int, scale: float) -> int:
    exact = eps * columns**2 / scale**2
    return int(min(max(math.floor(exact), 0), 1 << MAX_BITS))


class BatchNorm(Operator):
    """Normalisation by running statistics, which are part of gains and shifts, channels on axis 1."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        passes: Passes,
        gx: Grid,
        out: Grid,
        eps: float,
    ) -> Tensor:
        arithmetic = passes.arithmetic
        deviation = 1.0 / torch.sqrt(var.double() + eps)
        gain = deviation if weight is None else weight.detach().double() * deviation
        shift = -mean.double() * gain if bias is None else bias.detach().double() - mean.double() * gain
        scale, codes = _symmetric(arithmetic, gain)
        bits = arithmetic.chip.words.bias
        exact = torch.round(shift / (scale * gx.scale))
        start = exact.clamp(-float(1 << (bits - 1)), float((1 << (bits - 1)) - 1))
        shape = [-1] + [1] * (x.ndim - 2)
        products = torch.round(x.double() / gx.scale) * codes.view(shape)
        ratio = scale * gx.scale / out.scale
        value, mask = passes.requantize(products, 1.0, start.long(), ratio, out, register=False, axis=1)
        ctx.save_for_backward(x, mask, (codes * scale).float(), mean, deviation.float(), (start == exact).float())
        ctx.passes = passes
        return value

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, gain, mean, deviation, kept = ctx.saved_tensors
        g = ctx.passes.masked(gradient, mask)
        shape = [-1] + [1] * (x.ndim - 2)
        others = [axis for axis in range(x.ndim) if axis != 1]
        wanted = ctx.needs_input_grad
        to_x = g * gain.view(shape) if wanted[0] else None
        total = g.sum(others)
        to_weight = ((g * x).sum(others) - mean * kept * total) * deviation if wanted[1] else None
        to_bias = total * kept if wanted[2] else None
        return to_x, to_weight, to_bias, None, None, None, None, None, None


def _symmetric(arithmetic: Arithmetic, values: Tensor) -> tuple[float, Tensor]:
    """The scale and the codes, in float64, of a float64 tensor."""
    from slt_nna.grid import weight_scale

    bits = arithmetic.chip.words.weight
    largest = float(values.abs().max()) if values.numel() else 0.0
    scale = weight_scale(arithmetic.chip, largest, bits)
    most = float((1 << (bits - 1)) - 1)
    return scale, torch.round(values / scale).clamp(-most, most)

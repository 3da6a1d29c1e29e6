"""Convolutions over one or two axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.emulated.gradient import Operator, combined
from slt_nna.emulated.linear import Accumulated
from slt_nna.emulated.weights import (
    Codes,
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


class Geometry(NamedTuple):
    """How a kernel moves over its input, by axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Convolution(Operator):
    """functional.conv1d and conv2d, x [b c t] or [b c h w]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        passes: Passes,
        gx: Grid,
        out: Grid,
        geometry: Geometry,
    ) -> Tensor:
        arithmetic = passes.arithmetic
        channels = arithmetic.chip.weight_scales == "channel"
        codes = quantized(arithmetic, weight, arithmetic.chip.words.weight, channels=channels)
        given, kept = bias_codes(
            arithmetic, bias, np.float64(codes.scale) * gx.scale if channels else codes.scale * gx.scale
        )
        found = _accumulated(passes, x, gx, codes, weight.shape, given, geometry)
        ratio = codes.scale * gx.scale / out.scale
        register = found.mask is None
        value, mask = passes.requantize(found.acc, found.inverse, found.bias, ratio, out, register=register, axis=1)
        ctx.save_for_backward(x, codes.values, combined(mask, found.mask), kept)
        ctx.passes, ctx.geometry, ctx.weight_shape = passes, geometry, weight.shape
        return value

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, values, mask, kept = ctx.saved_tensors
        g = ctx.passes.masked(gradient, mask)
        stride, padding, dilation, groups = ctx.geometry
        still = [0] * len(stride)
        wanted = ctx.needs_input_grad
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
            g, x, values.view(ctx.weight_shape), None, stride, padding, dilation, False, still, groups,
            [wanted[0], wanted[1], False],
        )  # fmt: skip
        if wanted[2]:
            to_bias = g.sum([axis for axis in range(g.ndim) if axis != 1])
            to_bias = to_bias if kept is None else to_bias * kept
        return to_x, to_weight, to_bias, None, None, None, None


def _accumulated(
    passes: Passes, x: Tensor, gx: Grid, codes: Codes, shape: tuple[int, ...], bias: Tensor | None, geometry: Geometry
) -> Accumulated:
    tile = passes.arithmetic.chip.accumulator.tile
    start = 0.0 if bias is None or not bias.numel() else float(bias.abs().max())
    bound = codes.largest * (1 << (gx.bits - 1))
    several = tile is not None and tile < codes.operand.shape[1]
    if bound >= (1 << 24) or (several and overflows(passes.arithmetic, bound + start)):
        bound = codes.largest * largest_code(x, gx)
    kind = exact_type(bound)
    given, scale = operand(passes, x, gx)
    given, weight = given.to(kind), codes.operand.to(kind)
    inverse = 1.0 / (scale * codes.unit)
    if several and overflows(passes.arithmetic, bound + start):
        assert tile is not None
        out, parts = _tiles(given, weight, shape, geometry, tile)
        column = None if bias is None else bias.view(-1, *[1] * (x.ndim - 2))
        acc, mask = tiled(passes, out, column, parts, inverse, x.device)
        return Accumulated(acc, 1.0, None, mask)
    convolve: Any = functional.conv1d if len(shape) == 3 else functional.conv2d
    stride, padding, dilation, groups = geometry
    acc = convolve(given, weight.view(shape), None, stride, padding, dilation, groups)
    return Accumulated(acc, inverse, bias, None)


def _tiles(
    x: Tensor, weight: Tensor, shape: tuple[int, ...], geometry: Geometry, tile: int
) -> tuple[tuple[int, ...], list[Callable[[], Tensor]]]:
    """The shape of the output, and the products of each tile of the flattened inputs of the kernel."""
    stride, padding, dilation, groups = geometry
    flat = len(shape) == 3
    if flat:  # one axis is two, the first of one entry
        x, kernel = x[:, :, None], (1, shape[2])
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    else:
        kernel = (shape[2], shape[3])
    columns = functional.unfold(x, kernel, dilation, padding, stride)
    b, places = columns.shape[0], columns.shape[2]
    columns = columns.view(b, groups, -1, places)
    rows = weight.view(groups, -1, weight.shape[1])
    sizes = [
        (x.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    ]
    out = (b, weight.shape[0], *(sizes[1:] if flat else sizes))

    def part(span: slice) -> Tensor:
        return torch.matmul(rows[None, :, :, span], columns[:, :, span]).reshape(out)

    spans = [slice(begin, begin + tile) for begin in range(0, weight.shape[1], tile)]
    return out, [partial(part, span) for span in spans]

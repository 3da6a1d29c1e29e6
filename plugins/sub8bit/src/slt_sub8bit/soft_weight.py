"""The soft weight of a kernel: scaled, companded, softly assigned to levels, expanded, scaled back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slt_sub8bit.soft_assignment import Sides, in_threads, parts_of, soft_assign, summed

BLOCK = 1 << 14
"""Weights worked on at once: a block and its intermediate values stay in a core's cache."""


def compand(u: Tensor, mu: float) -> Tensor:
    """sgn(u) ln(1 + mu |u|) / ln(1 + mu); u itself for mu = 0."""
    return u if mu == 0 else torch.log1p(mu * u.abs()).mul(1 / math.log1p(mu)).copysign(u)


def expand(y: Tensor, mu: float) -> Tensor:
    """The inverse of `compand`."""
    return y if mu == 0 else torch.expm1(y.abs() * math.log1p(mu)).mul(1 / mu).copysign(y)


def soft_weight(weight: Tensor, z: Tensor, scale: Tensor, *, mu: float, alpha: float) -> Tensor:
    """scale * expand(soft_assign(compand(weight / scale))), differentiable in `weight` and `z`.

    **Shapes**: weight [rows ...] float32; z [J] sorted, companded; scale [] or [rows 1 ...], a constant.

    On the CPU all steps run block by block, forwards and backwards, so that nothing of the kernel's size is kept but the
    result; the derivatives of compand and expand need no further logarithm: with c = ln(1 + mu) / mu they are
    1 / (c (1 + mu |u|)) and c (1 + mu |expand(y)|).
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return expand(soft_assign(compand(weight / scale, mu), z, alpha=alpha), mu) * scale
    found: Tensor = _SoftWeight.apply(weight, z, scale, mu, alpha)  # type: ignore[no-untyped-call]
    return found


class _SoftWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, z: Tensor, scale: Tensor, mu: float, alpha: float) -> Tensor:  # type: ignore[override]
        from slt_sub8bit.soft_kernels import locate, mix

        sides = Sides(z.detach().double(), alpha)
        shared, lines = sides.columns(), sides.lines()
        weight = weight.detach().contiguous()
        out, share = torch.empty_like(weight), torch.empty_like(weight)
        places = torch.empty_like(weight, dtype=torch.int16)
        w, o, p, k, s = _matrix(weight), _matrix(out), _matrix(share), _matrix(places), scale.reshape(-1, 1)

        def work(begin: int, end: int, part: int) -> None:
            for block in _blocks(w, begin, end):
                factor = s if len(s) == 1 else s[block[0]]
                y = _compand(w[block] / factor, mu).view(-1)
                index, right = k[block].view(-1), p[block].view(-1)
                locate(y.numpy(), *shared, index.numpy(), right.numpy())
                mix(index.numpy(), right.sigmoid_().numpy(), *lines, y.numpy())
                torch.mul(_expand(y, mu).view_as(o[block]), factor, out=o[block])

        in_threads(len(w), parts_of(w.numel(), len(w)), work)
        ctx.save_for_backward(places, share, scale, *((weight, out) if mu else ()))
        ctx.sides, ctx.mu, ctx.levels = sides, mu, z.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        from slt_sub8bit.soft_kernels import backward

        places, share, scale, *values = ctx.saved_tensors
        mu, sides = ctx.mu, ctx.sides
        slope = torch.empty_like(share)
        k, p, g, d = (_matrix(tensor) for tensor in (places, share, upstream[0].contiguous(), slope))
        w, o = (_matrix(tensor) for tensor in values) if mu else (None, None)
        s, unit = scale.reshape(-1, 1), math.log1p(mu) / mu if mu else 1.0
        parts = parts_of(p.numel(), len(p))
        sums, steep_rise = np.zeros((parts, 2, len(sides.z) + 1, 3)), sides.steep_rise()

        def work(begin: int, end: int, part: int) -> None:
            for block in _blocks(p, begin, end):
                factor = (s if len(s) == 1 else s[block[0]]) * unit
                arriving = g[block] * factor
                if o is not None:
                    arriving *= (o[block] * (unit / factor)).abs_().mul_(mu).add_(1.0)
                target = d[block]
                backward(
                    k[block].view(-1).numpy(),
                    p[block].view(-1).numpy(),
                    arriving.view(-1).numpy(),
                    steep_rise,
                    target.view(-1).numpy(),
                    sums[part],
                )
                if w is not None:
                    target /= (w[block] * (unit / factor)).abs_().mul_(mu).add_(1.0)
                target /= factor

        in_threads(len(p), parts, work)
        return slope, sides.gradient(summed(sums)).to(ctx.levels), None, None, None


def _matrix(weight: Tensor) -> Tensor:
    return weight.view(weight.shape[0], -1)


def _blocks(matrix: Tensor, begin: int, end: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of blocks of about `BLOCK` values within rows begin to end."""
    columns_of = matrix.shape[1]
    height = max(1, BLOCK // columns_of)
    width = columns_of if height > 1 else BLOCK
    for row in range(begin, end, height):
        for column in range(0, columns_of, width):
            yield slice(row, min(row + height, end)), slice(column, column + width)


def _compand(u: Tensor, mu: float) -> Tensor:
    """`compand`, in place where it can be; `u` is contiguous."""
    return u if mu == 0 else u.abs().mul_(mu).log1p_().mul_(1 / math.log1p(mu)).copysign_(u)


def _expand(y: Tensor, mu: float) -> Tensor:
    return y if mu == 0 else y.abs().mul_(math.log1p(mu)).expm1_().mul_(1 / mu).copysign_(y)

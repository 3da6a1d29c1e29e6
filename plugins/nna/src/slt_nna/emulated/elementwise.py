"""Sums, products, crossings and everything that is a function of one code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slt_nna.emulated.gradient import Operator
from slt_nna.grid import Grid, is_power

if TYPE_CHECKING:
    from slt_nna.emulated.maps import Map
    from slt_nna.emulated.passes import Passes


class Enter(Operator):
    """A host tensor to the nearest codes; the gradient is 0 where they were clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: Passes, out: Grid) -> Tensor:
        value, mask = passes.enter(x.float(), out)
        ctx.save_for_backward(mask)
        ctx.passes, ctx.kind = passes, x.dtype
        return value

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.passes.masked(gradient, *ctx.saved_tensors).to(ctx.kind), None, None


class Constant(Operator):
    """Given values for a float tensor, with its gradient: symmetric codes of weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:
        return values.view(x.shape)

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None


class Add(Operator):
    """a + sign * b."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, passes: Passes, grids: tuple[Grid, Grid, Grid], sign: int) -> Tensor:
        ctx.shapes, ctx.passes, ctx.sign = (a.shape, b.shape), passes, sign
        left, right = torch.broadcast_tensors(a, b)
        value, mask = passes.add(left, grids[0], right, grids[1], grids[2], sign)
        ctx.save_for_backward(mask)
        return value

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        g = ctx.passes.masked(gradient, *ctx.saved_tensors)
        to_a = g.sum_to_size(ctx.shapes[0]) if ctx.needs_input_grad[0] else None
        to_b = g.sum_to_size(ctx.shapes[1]) if ctx.needs_input_grad[1] else None
        return to_a, -to_b if to_b is not None and ctx.sign < 0 else to_b, None, None, None


class Multiply(Operator):
    """a * b."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, passes: Passes, grids: tuple[Grid, Grid, Grid]) -> Tensor:
        left, right = torch.broadcast_tensors(a, b)
        value, mask = passes.multiply(left, grids[0], right, grids[1], grids[2])
        ctx.save_for_backward(a, b, mask)
        ctx.passes = passes
        return value

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, mask = ctx.saved_tensors
        g = ctx.passes.masked(gradient, mask)
        to_a = (g * finite(b)).sum_to_size(a.shape) if ctx.needs_input_grad[0] else None
        to_b = (g * finite(a)).sum_to_size(b.shape) if ctx.needs_input_grad[1] else None
        return to_a, to_b, None, None, None


class Mapped(Operator):
    """A function of one code by the map of all codes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: Passes, grid: Grid, entries: Map) -> Tensor:
        ctx.save_for_backward(x)
        ctx.passes, ctx.grid, ctx.entries = passes, grid, entries
        return passes.look_up(x, grid, entries)

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return ctx.passes.look_up_gradient(gradient, x, ctx.grid, ctx.entries), None, None, None


class Gate(Operator):
    """a * LUT(b) of two tensors."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, passes: Passes, grids: tuple[Grid, Grid, Grid], entries: Map) -> Tensor:
        value, mask = passes.gate(a, grids[0], b, grids[1], entries, grids[2])
        ctx.save_for_backward(a, b, mask)
        ctx.passes, ctx.grid, ctx.entries = passes, grids[1], entries
        return value

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, mask = ctx.saved_tensors
        return *ctx.passes.gate_gradient(gradient, mask, a, b, ctx.grid, ctx.entries), None, None, None


class Scaled(Operator):
    """The codes as they are on a grid whose scale is `factor` times the old one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: Passes, grid: Grid, factor: float) -> Tensor:
        ctx.factor = factor
        return relabelled(x, grid, factor)

    @staticmethod
    def gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.factor, None, None, None


def relabelled(x: Tensor, grid: Grid, factor: float) -> Tensor:
    """float32(code * (scale * factor)): one rounding, as if the codes had been there all along."""
    if is_power(factor):
        return x * factor
    return (torch.round(x.double() / grid.scale) * (grid.scale * factor)).float()


def finite(x: Tensor) -> Tensor:
    """0 where a tensor is excluded."""
    return torch.where(torch.isfinite(x), x, 0.0)

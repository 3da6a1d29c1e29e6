"""GRU: one layer and direction, by one product and one kernel for each frame, and its gradient by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slt_nna.backend import RecurrentGrids
from slt_nna.emulated import recurrent_kernels as kernels
from slt_nna.emulated.gradient import Operator
from slt_nna.emulated.linear import accumulated
from slt_nna.emulated.passes import array
from slt_nna.emulated.recurrence import Frames, Recurrent, both, state_of, words
from slt_nna.emulated.weights import bias_codes, quantized
from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.emulated.maps import Maps
    from slt_nna.emulated.passes import Passes


class Frame:
    """The part of a frame behind the recurrent product."""

    def __init__(
        self, passes: Passes, maps: Maps, grids: RecurrentGrids, units: tuple[float, float], rows: int, width: int
    ) -> None:
        arithmetic, pre, hidden = passes.arithmetic, grids.preactivation, grids.hidden
        table = arithmetic.table_grid
        ratios = (
            units[0] / pre.scale,
            units[1] / pre.scale,
            table.scale * pre.scale / pre.scale,
            table.scale * table.scale / hidden.scale,
            table.scale * hidden.scale / hidden.scale,
        )
        self.passes, self.hidden = passes, hidden
        self.steps = np.stack([arithmetic.rescale(ratio).array for ratio in ratios])
        tables = array(maps.lookup("sigmoid", pre).codes), array(maps.lookup("tanh", pre).codes)
        self.rules = (self.steps, words(passes, None, pre, hidden), arithmetic.wrap, *tables, table.most + 1)
        self.gates = torch.empty(rows, 3 * width, dtype=torch.int16)
        self.inner = torch.empty(rows, width, dtype=torch.int16)
        self.flags = torch.empty(rows, width, dtype=torch.uint8)

    def __call__(
        self, part: slice, given: tuple[Any, ...], back: tuple[Any, ...], previous: Tensor, out: Tensor
    ) -> None:
        """One frame, whose rows are `part`: from both products and the h before to h."""
        gates, inner, flags = (array(each[part]) for each in self.saved)
        scale = self.hidden.scale
        self.passes.overflows += kernels.gru_frame(
            *given, *back, *self.rules, array(previous), 1.0 / scale, scale, gates, inner, flags, array(out)
        )

    @property
    def saved(self) -> tuple[Tensor, ...]:
        """What the gradient needs of every row: gates, the recurrent part of n, flags."""
        return self.gates, self.inner, self.flags


class Gru(Operator):
    """x [rows f] -> h [rows d], last h [b d]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        h0: Tensor | None,
        passes: Passes,
        maps: Maps,
        gx: Grid,
        grids: RecurrentGrids,
        frames: Frames,
    ) -> tuple[Tensor, Tensor]:
        arithmetic = passes.arithmetic
        bits, hidden = arithmetic.chip.words.weight, grids.hidden
        codes_x, codes_h = quantized(arithmetic, w_ih, bits), quantized(arithmetic, w_hh, bits)
        unit_x, unit_h = float(codes_x.scale) * gx.scale, float(codes_h.scale) * hidden.scale
        bias_x, kept_x = bias_codes(arithmetic, b_ih, unit_x)
        bias_h, kept_h = bias_codes(arithmetic, b_hh, unit_h)
        found = accumulated(passes, x, gx, codes_x.operand, codes_x.unit, codes_x.largest, bias_x)
        rows, width = len(x), w_hh.shape[1]
        recurrent = Recurrent(passes, codes_h, hidden, frames.batch, bias=bias_h)
        start = np.zeros(3 * width, np.int64) if found.bias is None else array(found.bias)
        step = Frame(passes, maps, grids, (unit_x, unit_h), rows, width)
        h = state_of(h0, (frames.batch, width))
        previous, outputs = torch.empty(rows, width), torch.empty(rows, width)
        acc = array(found.acc)
        for begin, count in frames.forwards():
            part = slice(begin, begin + count)
            previous[part] = h[:count]
            back = *recurrent(previous[part]), recurrent.bias_array
            step(part, (acc[part], found.inverse, start), back, previous[part], outputs[part])
            h[:count] = outputs[part]
        ctx.save_for_backward(
            x, codes_x.values, codes_h.values, kept_x, kept_h, previous, *step.saved, found.mask, recurrent.kept(frames)
        )
        ctx.maps, ctx.grids, ctx.frames = maps, grids, frames
        ctx.set_materialize_grads(False)
        return outputs, h

    @staticmethod
    def gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, values_x, values_h, kept_x, kept_h, previous, gates, inner, flags, mask_x, mask_h = ctx.saved_tensors
        pre, frames = ctx.grids.preactivation, ctx.frames
        rows, width = flags.shape
        given = torch.zeros(previous.shape) if gradients[0] is None else gradients[0].contiguous()
        back = state_of(gradients[1], (frames.batch, width))
        sigmoid, tanh = both(ctx.maps.lookup("sigmoid", pre)), both(ctx.maps.lookup("tanh", pre))
        to_x, to_h, direct = (
            torch.empty(rows, 3 * width),
            torch.empty(rows, 3 * width),
            torch.empty(frames.batch, width),
        )
        for begin, count in frames.backwards():
            part = slice(begin, begin + count)
            kernels.gru_gradient(
                array(given[part]), array(back[:count]), array(gates[part]), pre.least, array(inner[part]), pre.scale,
                array(previous[part]), array(flags[part]), sigmoid, tanh, array(direct[:count]), array(to_x[part]),
                array(to_h[part]),
            )  # fmt: skip
            if mask_x is not None:
                to_x[part] *= mask_x[part]
            if mask_h is not None:
                to_h[part] *= mask_h[part]
            torch.addmm(direct[:count], to_h[part], values_h, out=back[:count])
        wanted = ctx.needs_input_grad
        bias_x = to_x.sum(0) if wanted[3] else None
        bias_h = to_h.sum(0) if wanted[4] else None
        return (
            torch.mm(to_x, values_x) if wanted[0] else None,
            torch.mm(to_x.t(), x) if wanted[1] else None,
            torch.mm(to_h.t(), previous) if wanted[2] else None,
            bias_x if bias_x is None or kept_x is None else bias_x * kept_x,
            bias_h if bias_h is None or kept_h is None else bias_h * kept_h,
            back if wanted[5] else None,
            *[None] * 5,
        )

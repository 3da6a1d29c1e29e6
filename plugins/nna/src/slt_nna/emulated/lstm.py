"""LSTM: one layer and direction, by one product and two kernels for each frame, and its gradient by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slt_nna.backend import RecurrentGrids
from slt_nna.emulated import recurrent_kernels as kernels
from slt_nna.emulated.gradient import Operator, combined
from slt_nna.emulated.linear import accumulated
from slt_nna.emulated.passes import array
from slt_nna.emulated.recurrence import Frames, Recurrent, both, state_of, words
from slt_nna.emulated.weights import bias_codes, quantized
from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.emulated.maps import Maps
    from slt_nna.emulated.passes import Passes


class Cells:
    """The part of a frame behind the recurrent product: gates, tables, c, and the output before a projection."""

    def __init__(
        self,
        passes: Passes,
        maps: Maps,
        grids: RecurrentGrids,
        out: Grid,
        units: tuple[float, float],
        rows: int,
        width: int,
    ) -> None:
        assert grids.state is not None
        rescale, table = passes.arithmetic.rescale, passes.arithmetic.table_grid.scale
        state, pre = grids.state, grids.preactivation
        self.passes, self.least, self.scale, self.wrap = passes, pre.least, out.scale, passes.arithmetic.wrap
        ratios = (table * state.scale / state.scale, table * table / state.scale, table * table / out.scale)
        self.gate_steps = np.stack([rescale(unit / pre.scale).array for unit in units])
        self.cell_steps = np.stack([rescale(ratio).array for ratio in ratios])
        self.gate_words, self.cell_words = words(passes, None, pre), words(passes, state, out)
        found = (maps.lookup("sigmoid", pre), maps.lookup("tanh", pre), maps.lookup("tanh", state))
        self.tables = tuple(array(each.codes) for each in found)
        self.gates = torch.empty(rows, 4 * width, dtype=torch.int16)
        self.before, self.after = (torch.empty(rows, width, dtype=torch.int32) for _ in range(2))
        self.flags = torch.empty(rows, width, dtype=torch.uint8)
        self.arrays = tuple(array(each) for each in (self.gates, self.before, self.after, self.flags))

    def __call__(self, part: slice, given: tuple[Any, ...], back: tuple[Any, ...], c: Any, out: Any) -> None:
        """One frame, whose rows are `part`: from both products to c, in place, and the output."""
        gates, before, after, flags = (each[part] for each in self.arrays)
        self.passes.overflows += kernels.lstm_gates(
            *given, *back, self.gate_steps, self.gate_words, self.wrap, gates, flags
        )
        kernels.lstm_cell(
            gates, self.least, *self.tables, self.cell_steps, self.cell_words, self.wrap, c, before, after, self.scale,
            flags, out,
        )  # fmt: skip

    @property
    def saved(self) -> tuple[Tensor, ...]:
        """What the gradient needs of every row: gates, c before and after, flags."""
        return self.gates, self.before, self.after, self.flags


class Projection:
    """The recurrent projection of an LSTM with one."""

    def __init__(self, passes: Passes, weight: Tensor, cell: Grid, hidden: Grid, rows: int) -> None:
        self.passes, self.cell, self.hidden = passes, cell, hidden
        self.codes = quantized(passes.arithmetic, weight, passes.arithmetic.chip.words.weight)
        self.masks = torch.ones(rows, len(weight), dtype=torch.uint8)

    def __call__(self, part: slice, cells: Tensor) -> Tensor:
        """h of the cells' output of one frame, whose rows are `part`."""
        found = accumulated(
            self.passes, cells, self.cell, self.codes.operand, self.codes.unit, self.codes.largest, None
        )
        ratio = self.codes.scale * self.cell.scale / self.hidden.scale
        value, mask = self.passes.requantize(
            found.acc, found.inverse, None, ratio, self.hidden, register=found.mask is None
        )
        for each in (mask, found.mask):
            if each is not None:
                self.masks[part] &= each
        return value


class Lstm(Operator):
    """x [rows f] -> h [rows p], last h [b p], last c [b d]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        w_hr: Tensor | None,
        h0: Tensor | None,
        c0: Tensor | None,
        passes: Passes,
        maps: Maps,
        gx: Grid,
        grids: RecurrentGrids,
        frames: Frames,
    ) -> tuple[Tensor, Tensor, Tensor]:
        arithmetic, hidden, state = passes.arithmetic, grids.hidden, grids.state
        bits, rows, width = arithmetic.chip.words.weight, len(x), w_hh.shape[0] // 4
        cell = hidden if w_hr is None else grids.cell
        assert cell is not None
        assert state is not None
        codes_x, codes_h = quantized(arithmetic, w_ih, bits), quantized(arithmetic, w_hh, bits)
        units = float(codes_x.scale) * gx.scale, float(codes_h.scale) * hidden.scale
        bias, kept = bias_codes(arithmetic, _sum(b_ih, b_hh), units[0])
        found = accumulated(passes, x, gx, codes_x.operand, codes_x.unit, codes_x.largest, bias)
        start = np.zeros(4 * width, np.int64) if found.bias is None else array(found.bias)
        recurrent = Recurrent(passes, codes_h, hidden, frames.batch)
        step = Cells(passes, maps, grids, cell, units, rows, width)
        projection = None if w_hr is None else Projection(passes, w_hr, cell, hidden, rows)
        h = state_of(h0, (frames.batch, w_hh.shape[1]))
        c = torch.round(state_of(c0, (frames.batch, width)).double() / state.scale).int()
        outputs, previous = torch.empty(rows, w_hh.shape[1]), torch.empty(rows, w_hh.shape[1])
        cells = outputs if projection is None else torch.empty(rows, width)
        acc, c_array, cell_array = array(found.acc), array(c), array(cells)
        for begin, count in frames.forwards():
            part = slice(begin, begin + count)
            previous[part] = h[:count]
            given = acc[part], found.inverse, start
            step(part, given, recurrent(previous[part]), c_array[:count], cell_array[part])
            if projection is not None:
                outputs[part] = projection(part, cells[part])
            h[:count] = outputs[part]
        held = (None, None, None) if projection is None else (projection.codes.values, cells, projection.masks)
        ctx.save_for_backward(
            x, codes_x.values, codes_h.values, kept, previous, *step.saved, found.mask, recurrent.kept(frames), *held
        )
        ctx.maps, ctx.grids, ctx.frames = maps, grids, frames
        ctx.set_materialize_grads(False)
        return outputs, h, (c.double() * state.scale).float()

    @staticmethod
    def gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, values_x, values_h, kept, previous, *rest = ctx.saved_tensors
        saved, (mask_x, mask_h), (values_hr, cells, masks) = rest[:4], rest[4:6], rest[6:]
        back = state_of(gradients[1], (ctx.frames.batch, values_h.shape[1]))
        back_c = state_of(gradients[2], (ctx.frames.batch, saved[3].shape[1]))
        given = torch.zeros(previous.shape) if gradients[0] is None else gradients[0].contiguous()
        projected = None if values_hr is None else torch.empty(len(x), len(values_hr))
        frame = _Backwards(ctx.maps, ctx.grids, saved, combined(mask_x, mask_h))
        for begin, count in ctx.frames.backwards():
            part = slice(begin, begin + count)
            first, second = given[part], back[:count]
            if projected is not None:
                torch.add(first, second, out=projected[part])
                projected[part] *= masks[part]
                first = torch.mm(projected[part], values_hr)
                second = torch.zeros_like(first)
            torch.mm(frame(part, first, second, back_c[:count]), values_h, out=back[:count])
        gates, wanted = frame.gradients, ctx.needs_input_grad
        bias = gates.sum(0) if wanted[3] or wanted[4] else None
        bias = bias if bias is None or kept is None else bias * kept
        return (
            torch.mm(gates, values_x) if wanted[0] else None,
            torch.mm(gates.t(), x) if wanted[1] else None,
            torch.mm(gates.t(), previous) if wanted[2] else None,
            bias if wanted[3] else None,
            bias if wanted[4] else None,
            torch.mm(projected.t(), cells) if projected is not None and wanted[5] else None,
            back if wanted[6] else None,
            back_c if wanted[7] else None,
            *[None] * 5,
        )


class _Backwards:
    """The gradients of the gates, frame by frame."""

    def __init__(self, maps: Maps, grids: RecurrentGrids, saved: list[Tensor], mask: Tensor | None) -> None:
        assert grids.state is not None
        self.pre, self.state, self.mask = grids.preactivation, grids.state, mask
        found = (("sigmoid", self.pre), ("tanh", self.pre), ("tanh", self.state))
        self.tables = [both(maps.lookup(name, grid)) for name, grid in found]
        self.gradients = torch.empty(saved[0].shape)
        self.arrays = [array(each) for each in (*saved, self.gradients)]

    def __call__(self, part: slice, given: Tensor, back: Tensor, back_c: Tensor) -> Tensor:
        """Those of the rows `part`; `back_c` becomes the gradient of the c before."""
        gates, before, after, flags, out = (each[part] for each in self.arrays)
        kernels.lstm_gradient(
            array(given), array(back), array(back_c), gates, self.pre.least, before, after, self.state.least,
            self.state.scale, flags, *self.tables, out,
        )  # fmt: skip
        found = self.gradients[part]
        if self.mask is not None:
            found *= self.mask[part]
        return found


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    """Both biases as one, exact to float64."""
    if one is None or two is None:
        return two if one is None else one
    return one.detach().double() + two.detach().double()

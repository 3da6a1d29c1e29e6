"""LSTM: one layer and direction, by one product and two kernels for each frame, and its gradient by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slt_nna.backend import RecurrentGrids
from slt_nna.emulated import recurrent_kernels as kernels
from slt_nna.emulated.gradient import Operator
from slt_nna.emulated.linear import accumulated
from slt_nna.emulated.passes import array
from slt_nna.emulated.recurrence import Frames, Recurrent, both, state_gradient, words
from slt_nna.emulated.weights import bias_codes, quantized
from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.emulated.maps import Maps
    from slt_nna.emulated.passes import Passes


class Saved(NamedTuple):
    """What the gradient needs of every row: gates [· 4d] int16, c before and after [· d] int32, flags [· d] uint8."""

    gates: Tensor
    before: Tensor
    after: Tensor
    flags: Tensor


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
        arithmetic = passes.arithmetic
        rescale, bits = arithmetic.rescale, arithmetic.chip.words.weight
        state, pre, hidden = grids.state, grids.preactivation, grids.hidden
        assert state is not None
        cell = hidden if w_hr is None else grids.cell
        assert cell is not None
        codes_x, codes_h = quantized(arithmetic, w_ih, bits), quantized(arithmetic, w_hh, bits)
        unit_x, unit_h, table = codes_x.scale * gx.scale, codes_h.scale * hidden.scale, arithmetic.table_grid.scale
        bias = b_ih if b_hh is None else b_hh if b_ih is None else b_ih.double() + b_hh.double()
        given, kept = bias_codes(arithmetic, bias, unit_x)
        found = accumulated(passes, x, gx, codes_x.operand, codes_x.unit, codes_x.largest, given)
        rows, width = len(x), w_hh.shape[0] // 4
        recurrent = Recurrent(passes, codes_h, hidden, frames.batch)
        start = np.zeros(4 * width, np.int64) if found.bias is None else array(found.bias)
        saved = Saved(
            torch.empty(rows, 4 * width, dtype=torch.int16),
            torch.empty(rows, width, dtype=torch.int32),
            torch.empty(rows, width, dtype=torch.int32),
            torch.empty(rows, width, dtype=torch.uint8),
        )
        h = torch.zeros(frames.batch, w_hh.shape[1]) if h0 is None else h0.detach().clone().contiguous()
        c = torch.zeros(frames.batch, width) if c0 is None else c0.detach()
        c_codes = torch.round(c.double() / state.scale).int().contiguous()
        outputs, cells = torch.empty(rows, w_hh.shape[1]), torch.empty(rows, width)
        cells = outputs if w_hr is None else cells
        previous = torch.empty(rows, w_hh.shape[1])
        projection = None if w_hr is None else quantized(arithmetic, w_hr, bits)
        project_masks = None if w_hr is None else torch.ones(rows, w_hh.shape[1], dtype=torch.uint8)
        gate_steps = np.stack([rescale(unit_x / pre.scale).array, rescale(unit_h / pre.scale).array])
        cell_steps = np.stack(
            [
                rescale(table * state.scale / state.scale).array,
                rescale(table * table / state.scale).array,
                rescale(table * table / cell.scale).array,
            ]
        )
        gate_words, cell_words = words(passes, None, pre), words(passes, state, cell)
        sigmoid, tanh = maps.lookup("sigmoid", pre), maps.lookup("tanh", pre)
        tables = array(sigmoid.codes), array(tanh.codes), array(maps.lookup("tanh", state).codes)
        acc_x, gates, flags, c_array = array(found.acc), array(saved.gates), array(saved.flags), array(c_codes)
        before, after, cell_array, wrap = array(saved.before), array(saved.after), array(cells), arithmetic.wrap
        for begin, count in frames.forwards():
            part = slice(begin, begin + count)
            previous[part] = h[:count]
            acc_h, inverse = recurrent(previous[part])
            passes.overflows += kernels.lstm_gates(
                acc_x[part],
                found.inverse,
                start,
                acc_h,
                inverse,
                gate_steps,
                gate_words,
                wrap,
                gates[part],
                flags[part],
            )
            kernels.lstm_cell(
                gates[part], pre.least, *tables, cell_steps, cell_words, wrap, c_array[:count], before[part],
                after[part], cell.scale, flags[part], cell_array[part],
            )  # fmt: skip
            if projection is not None and project_masks is not None:
                done = accumulated(
                    passes, cells[part], cell, projection.operand, projection.unit, projection.largest, None
                )
                ratio = projection.scale * cell.scale / hidden.scale
                value, mask = passes.requantize(done.acc, done.inverse, None, ratio, hidden, register=done.mask is None)
                outputs[part] = value
                for each in (mask, done.mask):
                    if each is not None:
                        project_masks[part] &= each
            h[:count] = outputs[part]
        values_hr = None if projection is None else projection.values
        c_last = (c_codes.double() * state.scale).float()
        ctx.save_for_backward(
            x, codes_x.values, codes_h.values, values_hr, kept, previous, *saved, found.mask, recurrent.kept(frames),
            None if w_hr is None else cells, project_masks,
        )  # fmt: skip
        ctx.passes, ctx.maps, ctx.grids, ctx.frames = passes, maps, grids, frames
        ctx.biased = (b_ih is not None, b_hh is not None)
        ctx.set_materialize_grads(False)
        return outputs, h, c_last

    @staticmethod
    def gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, values_x, values_h, values_hr, kept, previous, *rest = ctx.saved_tensors
        saved, (mask_x, mask_h, cells, project_masks) = Saved(*rest[:4]), rest[4:]
        grids, maps, frames = ctx.grids, ctx.maps, ctx.frames
        pre, state = grids.preactivation, grids.state
        rows, width = saved.flags.shape
        given = torch.zeros(previous.shape) if gradients[0] is None else gradients[0].contiguous()
        back = state_gradient(gradients[1], (frames.batch, values_h.shape[1]))
        back_c = state_gradient(gradients[2], (frames.batch, width))
        tables = [both(maps.lookup(name, grid)) for name, grid in (("sigmoid", pre), ("tanh", pre), ("tanh", state))]
        gates = torch.empty(rows, 4 * width)
        whole = mask_x if mask_h is None else mask_h if mask_x is None else mask_x & mask_h
        projected = None if values_hr is None else torch.empty(rows, values_hr.shape[0])
        none = torch.zeros(frames.batch, width)
        for begin, count in frames.backwards():
            part = slice(begin, begin + count)
            if projected is None:
                first, second = given[part], back[:count]
            else:
                torch.add(given[part], back[:count], out=projected[part])
                projected[part] *= project_masks[part]
                first, second = torch.mm(projected[part], values_hr), none[:count]
            kernels.lstm_gradient(
                array(first), array(second), array(back_c[:count]), array(saved.gates[part]), pre.least,
                array(saved.before[part]), array(saved.after[part]), state.least, state.scale, array(saved.flags[part]),
                *tables, array(gates[part]),
            )  # fmt: skip
            if whole is not None:
                gates[part] *= whole[part]
            torch.mm(gates[part], values_h, out=back[:count])
        wanted = ctx.needs_input_grad
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

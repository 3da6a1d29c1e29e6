"""LSTM and GRU in integers: input products of all frames at once, then frame after frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from slt_nna.backend import Kernels, RecurrentGrids, Weight
from slt_nna.grid import Grid
from slt_nna.integer import kernels as compiled
from slt_nna.integer.numbers import Codes, Wide
from slt_nna.integer.products import Register, operand, register

if TYPE_CHECKING:
    from slt_nna.integer.reference import Reference

Numbers = npt.NDArray[Any]


class Frames(NamedTuple):
    """The first row and the rows of each frame, in the order in which they are run through, and the rows of the state."""

    starts: Wide
    sizes: Wide
    batch: int


class Kernel(NamedTuple):
    """The codes of a weight, and the scale of its products."""

    codes: Numbers
    scale: float


def lstm(
    chip: Reference,
    x: Codes,
    gx: Grid,
    kernels: Kernels,
    grids: RecurrentGrids,
    state: tuple[Codes, Codes] | None,
    *,
    reverse: bool,
    batch_sizes: Tensor | None,
) -> tuple[Numbers, Numbers, Numbers]:
    """h of every frame, and h and c behind the last; codes on grids.hidden and grids.state. Gates i f g o."""
    cell, pre, hidden, table = grids.state, grids.preactivation, grids.hidden, chip.tables.grid
    assert cell is not None
    inner = hidden if grids.cell is None else grids.cell
    frames = _frames(x.shape, batch_sizes, reverse)
    own = _kernel(chip, kernels.weight_ih, gx)
    back = _kernel(chip, kernels.weight_hh, hidden)
    given = _given(chip, x, gx, own, chip.bias((kernels.bias_ih, kernels.bias_hh), own.scale), pre)
    width, out = len(back.codes) // 4, back.codes.shape[1]
    project = Kernel(np.zeros((0, width), own.codes.dtype), 1.0)
    if kernels.projection is not None:
        project = _kernel(chip, kernels.projection, inner)
    ratios = (
        back.scale / pre.scale,
        table.scale * cell.scale / cell.scale,
        table.scale * table.scale / cell.scale,
        table.scale * table.scale / inner.scale,
        project.scale / hidden.scale,
    )
    words = [*(1 << (grid.bits - 1) for grid in (pre, cell, hidden, inner)), chip.rules.wrap]
    sums = register(chip.rules, out, hidden.bits, chip.chip.words.weight)
    more = register(chip.rules, width, inner.bits, chip.chip.words.weight)
    h = _first(chip, frames.batch, out, sums, None if state is None else state[0])
    c = np.zeros((frames.batch, width), np.int32)
    if state is not None:
        chip.fits("rows in its first cell state", len(state[1]), frames.batch)
        chip.fits("numbers in a row of its first cell state", state[1].shape[1], width)
        c[:] = state[1]
    outputs = np.empty((len(given), out), np.int32)
    changed = compiled.lstm(
        given,
        frames.starts,
        frames.sizes,
        sums.segments(back.codes),
        np.zeros(4 * width, np.int64),
        sums.numbers,
        np.stack([chip.rules.step(ratio) for ratio in ratios]),
        np.array(words, np.int64),
        chip.tables.codes("sigmoid", pre),
        chip.tables.codes("tanh", pre),
        chip.tables.codes("tanh", cell),
        more.segments(project.codes),
        more.numbers,
        h,
        c,
        outputs,
    )
    chip.count(int(changed))
    return outputs.reshape(*x.shape[:-1], out), h.reshape(frames.batch, -1)[:, :out], c


def gru(
    chip: Reference,
    x: Codes,
    gx: Grid,
    kernels: Kernels,
    grids: RecurrentGrids,
    state: Codes | None,
    *,
    reverse: bool,
    batch_sizes: Tensor | None,
) -> tuple[Numbers, Numbers]:
    """h of every frame and behind the last; codes on grids.hidden. Gates r z n."""
    pre, hidden, table = grids.preactivation, grids.hidden, chip.tables.grid
    frames = _frames(x.shape, batch_sizes, reverse)
    own = _kernel(chip, kernels.weight_ih, gx)
    back = _kernel(chip, kernels.weight_hh, hidden)
    given = _given(chip, x, gx, own, chip.bias((kernels.bias_ih,), own.scale), pre)
    width = back.codes.shape[1]
    bias = chip.bias((kernels.bias_hh,), back.scale)
    ratios = (
        back.scale / pre.scale,
        table.scale * pre.scale / pre.scale,
        table.scale * table.scale / hidden.scale,
        table.scale * hidden.scale / hidden.scale,
    )
    words = [1 << (bits - 1) for bits in (pre.bits, table.bits, hidden.bits)]
    sums = register(chip.rules, width, hidden.bits, chip.chip.words.weight)
    h = _first(chip, frames.batch, width, sums, state)
    outputs = np.empty((len(given), width), np.int32)
    changed = compiled.gru(
        given,
        frames.starts,
        frames.sizes,
        sums.segments(back.codes),
        np.zeros(3 * width, np.int64) if bias is None else bias,
        sums.numbers,
        np.stack([chip.rules.step(ratio) for ratio in ratios]),
        np.array([*words, chip.rules.wrap], np.int64),
        chip.tables.codes("sigmoid", pre),
        chip.tables.codes("tanh", pre),
        h,
        outputs,
    )
    chip.count(int(changed))
    return outputs.reshape(*x.shape[:-1], width), h.reshape(frames.batch, -1)[:, :width]


def _first(chip: Reference, batch: int, width: int, sums: Register, state: Numbers | None) -> Numbers:
    """The first h in segments, zeros where there is none."""
    h = np.zeros((batch, sums.pieces * sums.length), np.int16)
    if state is not None:
        chip.fits("rows in its first state", len(state), batch)
        chip.fits("numbers in a row of its first state", state.shape[1], width)
        h[:, : state.shape[1]] = state
    return h.reshape(batch, sums.pieces, sums.length)


def _kernel(chip: Reference, weight: Weight, grid: Grid) -> Kernel:
    codes, scales = chip.weight(weight, channels=False)
    return Kernel(codes, float(scales[0]) * grid.scale)


def _given(chip: Reference, x: Codes, gx: Grid, own: Kernel, bias: Wide | None, pre: Grid) -> Wide:
    """The input products of all rows at the scale of the gates, not narrowed."""
    chip.fits("features", x.shape[-1], own.codes.shape[1])
    rows = operand(x.reshape(1, -1, x.shape[-1]))
    acc = chip.sums(rows, gx.bits, own.codes[None], None if bias is None else bias[None])[0]
    compiled.rescale_all(acc.reshape(-1), chip.rules.step(own.scale / pre.scale), acc.reshape(-1))
    return acc


def _frames(shape: tuple[int, ...], batch_sizes: Tensor | None, reverse: bool) -> Frames:
    """Rows frame by frame; a packed sequence has fewer of them in later frames."""
    if batch_sizes is None:
        sizes, batch = np.full(shape[0], shape[1], np.int64), shape[1]
    else:
        sizes = batch_sizes.numpy().astype(np.int64)
        batch = int(sizes[0])
    starts = np.cumsum(sizes) - sizes
    return Frames(starts[::-1].copy(), sizes[::-1].copy(), batch) if reverse else Frames(starts, sizes, batch)

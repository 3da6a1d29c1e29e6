"""The integer-only reference: every operator of the chip on integer codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_nna.backend import Kernels, RecurrentGrids, Weight
from slt_nna.chip import Chip
from slt_nna.grid import Grid
from slt_nna.integer import kernels as compiled
from slt_nna.integer import recurrent
from slt_nna.integer.constants import Constants
from slt_nna.integer.kernels import EXCLUDED
from slt_nna.integer.numbers import LARGEST, Codes, Rules, Scales, Wide, bias_codes, constant_codes, entered
from slt_nna.integer.products import Geometry, Sums, operand, packed, short, sums_of_columns, sums_of_rows, unfolded
from slt_nna.integer.tables import Tables
from slt_nna.integer.tensor import IntegerTensor, arranged, codes_of, values_of, wrapped
from sltcore.errors import PluginError
from sltcore.table_weights import origin_of, table_weight

Numbers = npt.NDArray[Any]
FRACTION = 12
"""Fraction bits of a normalised value."""


class Reference:
    """`slt_nna.backend.Backend` in integers, without floats between `enter` and `leave`, on the CPU.

    `overflows` counts, by site, the accumulators that a narrowing changed. Codes of weights are made once, and again
    when the weights change.
    """

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.site = ""
        self.operator = ""
        self.overflows: dict[str, int] = {}
        self.rules = Rules(chip)
        self.tables = Tables(self.rules)
        self.constants = Constants()

    # -- what operators share

    def count(self, overflows: int) -> None:
        """Remember overflows of the operator that runs."""
        if overflows:
            self.overflows[self.site] = self.overflows.get(self.site, 0) + overflows

    def fits(self, what: str, given: int, wanted: int) -> None:
        """Operands of one size. Kernels take it for granted and read on behind the end of the shorter one, so that a wrong
        shape would give numbers. **Raises** `PluginError` where they differ."""
        if given != wanted:
            raise PluginError(
                f"nna: {self.site}: {self.operator or 'an operator'} takes {wanted} {what}, and was given {given}"
            )

    def sums(self, x: Numbers, bits: int, w: Numbers, start: Wide | None) -> Wide:
        """Accumulators [g n m] of x [g n k], words of `bits` bits, and weights [g m k]."""
        return self._counted(sums_of_rows(self.rules, x, bits, w, self.chip.words.weight, start))

    def _counted(self, found: Sums) -> Wide:
        self.count(found.overflows)
        return found.values

    def requantized(self, v: Numbers, before: float, out: Grid) -> Codes:
        """Integers of any shape on the grid `out`; int32 are codes, of which excluded ones stay so."""
        z = np.empty(v.size, np.int32)
        step, flat = self.rules.step(before / out.scale), np.ascontiguousarray(v).reshape(-1)
        compiled.requantize_all(flat, step, *self.rules.word(out.bits), v.dtype == np.int32, z)
        return z.reshape(v.shape)

    def by_column(self, v: Wide, scales: Scales, out: Grid) -> Codes:
        """Sums [n m], whose columns have one scale or scales of their own, on the grid `out`."""
        if scales.size == 1:
            return self.requantized(v, float(scales[0]), out)
        z = np.empty(v.shape, np.int32)
        compiled.requantize_columns(v, self.rules.steps(scales, out.scale), *self.rules.word(out.bits), z)
        return z

    def weight(self, weight: Weight, *, channels: bool) -> tuple[Numbers, Scales]:
        """Codes of a weight in int8 or int16, and its scale [1], or one for each output channel [m]."""
        by_row = channels and self.chip.weight_scales == "channel"
        found: tuple[Numbers, Scales] = self.constants.get(
            ("weight", weight.name, by_row), (weight.value,), lambda: self._packed(weight, by_row)
        )
        return found

    def _packed(self, weight: Weight, by_row: bool) -> tuple[Numbers, Scales]:
        value = weight.value.detach().cpu().numpy()
        bits = self.chip.words.weight
        rows = np.abs(value).reshape(len(value), -1).max(1, initial=0.0)
        largest = rows if by_row else rows.max(keepdims=True, initial=0.0)
        scales = np.array([self.rules.constant_scale(float(each), bits) for each in largest], np.float64)
        origin = origin_of(weight.value)
        table = weight.table if origin is None else table_weight(*origin)
        if table is not None and table.scale.numel() == 1 and not by_row and table.indices.shape == value.shape:
            levels = (table.table * table.scale.reshape(())).detach().cpu().numpy()
            codes = constant_codes(levels, float(scales[0]), bits)[table.indices.cpu().numpy().astype(np.intp)]
        else:
            spread = scales.reshape(-1, *(1,) * (value.ndim - 1)) if by_row else float(scales[0])
            codes = constant_codes(value, spread, bits)
        return packed(codes, bits), scales

    def bias(self, parts: tuple[Tensor | None, ...], scales: Scales | float) -> Wide | None:
        """Codes of a sum of biases at the scale of the accumulator."""
        if all(each is None for each in parts):
            return None

        def make() -> Wide:
            total = sum(each.detach().cpu().double().numpy() for each in parts if each is not None)
            return bias_codes(np.asarray(total), scales, self.chip.words.bias)

        made: Wide = self.constants.get(("bias", self.site, np.asarray(scales).tobytes()), parts, make)
        return made

    # -- border

    def enter(self, x: Tensor, out: Grid) -> Tensor:
        return wrapped(entered(x.detach().cpu().float().numpy(), out.scale, out.bits, self.chip.rounding))

    def leave(self, x: Tensor, grid: Grid) -> Tensor:
        return values_of(x.codes, grid) if isinstance(x, IntegerTensor) else x

    def constant(self, value: Tensor, bits: int) -> tuple[Tensor, Grid]:
        codes, scale = self._symmetric(value.detach().cpu().double().numpy(), bits)
        return wrapped(codes, value.shape), Grid(scale, bits)

    def _symmetric(self, values: Scales, bits: int) -> tuple[Codes, float]:
        scale = self.rules.constant_scale(float(np.abs(values).max(initial=0.0)), bits)
        return constant_codes(values, scale, bits), scale

    # -- products

    def linear(self, x: Tensor, gx: Grid, weight: Weight, bias: Tensor | None, out: Grid) -> Tensor:
        codes, scales = self.weight(weight, channels=True)
        q = codes_of(x)
        self.fits("features", q.shape[-1], codes.shape[1])
        products = scales * gx.scale
        start = self.bias((bias,), products)
        rows = operand(q.reshape(1, -1, q.shape[-1]))
        acc = self.sums(rows, gx.bits, codes[None], None if start is None else start[None])[0]
        return wrapped(self.by_column(acc, products, out), (*q.shape[:-1], len(codes)))

    def convolution(
        self,
        x: Tensor,
        gx: Grid,
        weight: Weight,
        bias: Tensor | None,
        out: Grid,
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        codes, scales = self.weight(weight, channels=True)
        products = scales * gx.scale
        bits, words = self.chip.words.weight, (self.rules, gx.bits)
        start = self.bias((bias,), products)
        start = None if start is None else start.reshape(groups, -1)
        kernels = codes.reshape(groups, len(codes) // groups, -1)
        columns = short(words[0], kernels.shape[2], gx.bits, bits)
        q = codes_of(x)
        self.fits("channels", q.shape[1], codes.shape[1] * groups)
        patches, places = unfolded(
            operand(q), codes.shape[2:], Geometry(stride, padding, dilation, groups), columns=columns
        )
        if columns:
            acc = self._counted(sums_of_columns(self.rules, patches, gx.bits, kernels, bits, start))
            acc = acc.reshape(len(codes), -1)
        else:
            acc = self.sums(patches, gx.bits, kernels, start).transpose(0, 2, 1).reshape(len(codes), -1)
        z = self.by_column(np.ascontiguousarray(acc.T), products, out) if scales.size > 1 else None
        z = self.requantized(acc, float(products[0]), out) if z is None else z.T
        return wrapped(np.moveaxis(z.reshape(len(codes), len(q), *places), 0, 1))

    def embedding(self, indices: Tensor, weight: Weight) -> tuple[Tensor, Grid]:
        codes, scales = self.weight(weight, channels=False)
        rows = indices.cpu().numpy()
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(codes):
            raise PluginError(
                f"nna: {self.site}: an embedding of {len(codes)} rows was asked for row "
                f"{int(rows.min()) if rows.min() < 0 else int(rows.max())}"
            )
        return wrapped(codes[rows]), Grid(float(scales[0]), self.chip.words.weight)

    def matmul(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, *, factor: float = 1.0) -> Tensor:
        if factor <= 0.0:
            a, factor = (self.negate(a, ga), -factor) if factor else (wrapped(codes_of(a) * 0), 1.0)
        p, q = codes_of(a), codes_of(b)
        self.fits("rows in its second operand", q.shape[-2], p.shape[-1])
        outer = np.broadcast_shapes(p.shape[:-2], q.shape[:-2])
        left = np.broadcast_to(p, (*outer, *p.shape[-2:])).reshape(-1, *p.shape[-2:])
        right = np.broadcast_to(q, (*outer, *q.shape[-2:])).reshape(-1, *q.shape[-2:])
        found = sums_of_rows(self.rules, operand(left), ga.bits, operand(right.swapaxes(1, 2)), gb.bits, None)
        z = self.requantized(self._counted(found), ga.scale * gb.scale * factor, out)
        return wrapped(z, (*outer, p.shape[-2], q.shape[-1]))

    # -- one entry at a time

    def add(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, *, sign: int = 1) -> Tensor:
        p, q, z = _pair(a, b)
        steps = self.rules.step(ga.scale / out.scale), self.rules.step(gb.scale / out.scale)
        compiled.add_all(p.reshape(-1), q.reshape(-1), sign, *steps, *self.rules.word(out.bits), z)
        return wrapped(z, p.shape)

    def multiply(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid) -> Tensor:
        p, q, z = _pair(a, b)
        step = self.rules.step(ga.scale * gb.scale / out.scale)
        compiled.multiply_all(p.reshape(-1), q.reshape(-1), step, *self.rules.word(out.bits), z)
        return wrapped(z, p.shape)

    def scale(self, a: Tensor, ga: Grid, factor: float, out: Grid) -> Tensor:
        if factor < 0.0:
            a = self.negate(a, ga)
        q = codes_of(a)
        if factor == 0.0:
            return wrapped(np.where(q == EXCLUDED, EXCLUDED, 0))
        return wrapped(self.requantized(q, ga.scale * abs(factor), out))

    def relabel(self, a: Tensor, ga: Grid, factor: float) -> tuple[Tensor, Grid]:
        return wrapped(codes_of(a).copy()), Grid(ga.scale * factor, ga.bits)

    def negate(self, a: Tensor, ga: Grid) -> Tensor:
        q = codes_of(a)
        return wrapped(self.requantized(-q, ga.scale, ga))  # an excluded one is its own negative in int32

    def relu(self, a: Tensor, ga: Grid, *, most: float | None = None) -> Tensor:
        q = np.maximum(codes_of(a), 0)
        return wrapped(q if most is None else np.minimum(q, min(int(most // ga.scale), (1 << (ga.bits - 1)) - 1)))

    def lookup(self, a: Tensor, ga: Grid, function: str) -> tuple[Tensor, Grid]:
        q = np.ascontiguousarray(codes_of(a))
        z = np.empty(q.size, np.int32)
        compiled.look_up_all(q.reshape(-1), self.tables.codes(function, ga), z)
        return wrapped(z, q.shape), self.tables.grid

    def gate(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, function: str, out: Grid) -> Tensor:
        p, q, z = _pair(a, b)
        step = self.rules.step(ga.scale * self.tables.grid.scale / out.scale)
        entries = self.tables.codes(function, gb)
        compiled.gate_all(p.reshape(-1), q.reshape(-1), entries, step, *self.rules.word(out.bits), z)
        return wrapped(z, p.shape)

    def exclude(self, a: Tensor, ga: Grid, mask: Tensor) -> Tensor:
        return wrapped(np.where(mask.cpu().numpy(), EXCLUDED, codes_of(a)))

    def settle(self, a: Tensor, ga: Grid) -> Tensor:
        return wrapped(np.maximum(codes_of(a), ga.least))

    def fill(self, a: Tensor, ga: Grid, mask: Tensor, value: float) -> Tensor:
        code = entered(np.array(value, np.float64), ga.scale, ga.bits, self.chip.rounding)
        return wrapped(np.where(mask.cpu().numpy(), code, codes_of(a)))

    def requantize(self, a: Tensor, ga: Grid, out: Grid) -> Tensor:
        q = codes_of(a)
        return wrapped(q.copy() if ga == out else self.requantized(q, ga.scale, out))

    # -- norms

    def softmax(self, a: Tensor, ga: Grid, dim: int) -> tuple[Tensor, Grid]:
        bits = self.chip.words.probability
        q = np.ascontiguousarray(np.moveaxis(codes_of(a), dim, -1))
        p = np.empty_like(q)
        rows = (-1, q.shape[-1]) if q.size else (0, max(q.shape[-1], 1))
        entries = self.tables.codes("exp", ga)
        compiled.softmax(q.reshape(rows), entries, bits, p.reshape(rows))
        return wrapped(np.moveaxis(p, -1, dim)), Grid(2.0 ** -(bits - 1), bits)

    def layer_norm(
        self, a: Tensor, ga: Grid, weight: Tensor | None, bias: Tensor | None, eps: float, out: Grid
    ) -> Tensor:
        q = np.ascontiguousarray(codes_of(a))
        width = q.shape[-1]
        gain, scale = self._gain(weight, width)
        self.fits("features", width, len(gain))
        scale *= 2.0**-FRACTION
        shift = self.bias((bias,), scale)
        log, drop = (width - 1).bit_length(), 0
        while 2 * (ga.bits + log - drop) + log > LARGEST:
            drop += 1
        extra = min(math.floor(eps * (width * width) / (ga.scale * ga.scale)), 1 << LARGEST) >> (2 * drop)
        z = np.empty_like(q).reshape(-1, width)
        compiled.layer_norm(
            q.reshape(-1, width),
            drop,
            extra,
            gain,
            np.zeros(width, np.int64) if shift is None else shift,
            self.rules.step(scale / out.scale),
            *self.rules.word(out.bits),
            z,
        )
        return wrapped(z, q.shape)

    def _gain(self, weight: Tensor | None, width: int) -> tuple[Wide, float]:
        if weight is None:
            return np.ones(width, np.int64), 1.0

        def make() -> tuple[Wide, float]:
            codes, scale = self._symmetric(weight.detach().cpu().double().numpy(), self.chip.words.weight)
            return codes.astype(np.int64), scale

        made: tuple[Wide, float] = self.constants.get(("gain", self.site), (weight,), make)
        return made

    def batch_norm(
        self,
        a: Tensor,
        ga: Grid,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        out: Grid,
        *,
        axis: int = 1,
    ) -> Tensor:
        def make() -> tuple[Wide, Wide, float]:
            mu, square = mean.detach().cpu().double().numpy(), var.detach().cpu().double().numpy()
            slope = 1.0 / np.sqrt(square + eps)
            if weight is not None:
                slope = weight.detach().cpu().double().numpy() * slope
            shift = (0.0 if bias is None else bias.detach().cpu().double().numpy()) - mu * slope
            codes, scale = self._symmetric(slope, self.chip.words.weight)
            return codes.astype(np.int64), bias_codes(shift, scale * ga.scale, self.chip.words.bias), scale * ga.scale

        key = ("fold", self.site, ga, eps)
        gain, offset, scale = self.constants.get(key, (mean, var, weight, bias), make)
        q = np.moveaxis(codes_of(a), axis, -1)
        self.fits("channels", q.shape[-1], len(gain))
        return wrapped(np.moveaxis(self.requantized(q * gain + offset, scale, out), -1, axis))

    # -- recurrence

    def lstm(
        self,
        x: Tensor,
        gx: Grid,
        kernels: Kernels,
        grids: RecurrentGrids,
        state: tuple[Tensor, Tensor] | None,
        *,
        reverse: bool = False,
        batch_sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        first = None if state is None else (codes_of(state[0]), codes_of(state[1]))
        found = recurrent.lstm(self, codes_of(x), gx, kernels, grids, first, reverse=reverse, batch_sizes=batch_sizes)
        return wrapped(found[0]), wrapped(found[1]), wrapped(found[2])

    def gru(
        self,
        x: Tensor,
        gx: Grid,
        kernels: Kernels,
        grids: RecurrentGrids,
        state: Tensor | None,
        *,
        reverse: bool = False,
        batch_sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        first = None if state is None else codes_of(state)
        h, last = recurrent.gru(self, codes_of(x), gx, kernels, grids, first, reverse=reverse, batch_sizes=batch_sizes)
        return wrapped(h), wrapped(last)

    # -- arrangement

    def shape(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return arranged(function, args, kwargs)

    def overwrite(self, x: Tensor, result: Tensor, grid: Grid) -> None:
        if isinstance(x, IntegerTensor) and isinstance(result, IntegerTensor):
            x.codes.copy_(result.codes)
        else:
            with torch.no_grad():
                x.copy_(self.leave(result, grid))


def _pair(a: Tensor, b: Tensor) -> tuple[Codes, Codes, Codes]:
    """The codes of two operands in their joint shape, and room for a result."""
    p, q = np.broadcast_arrays(codes_of(a), codes_of(b))
    return np.ascontiguousarray(p), np.ascontiguousarray(q), np.empty(p.size, np.int32)

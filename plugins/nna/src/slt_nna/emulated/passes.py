"""One pass over a tensor for each operator: compiled kernels on the CPU, torch's operators elsewhere.

Results come with a mask (uint8) of the entries that were not clipped, or None where none was: then gradients pass as they
are. Tensors are float32 values; what is not contiguous is copied first.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_nna.emulated import kernels, portable, row_kernels
from slt_nna.emulated.arithmetic import NO_LIMITS, Arithmetic, Limits
from slt_nna.emulated.maps import Map
from slt_nna.emulated.threads import spread
from slt_nna.grid import Grid

Masked = tuple[Tensor, Tensor | None]


def array(x: Tensor) -> npt.NDArray[Any]:
    """The memory of a contiguous CPU tensor."""
    result: npt.NDArray[Any] = x.detach().numpy()
    return result


def on_cpu(x: Tensor) -> bool:
    """Whether kernels reach the memory of a tensor."""
    return x.device.type == "cpu"


def word(limits: Limits) -> npt.NDArray[np.int64]:
    """The least and the largest code, for kernels."""
    return np.array(limits[:2], dtype=np.int64)


def empty(x: Tensor) -> tuple[Tensor, Tensor]:
    """Room for a result and its mask."""
    return torch.empty(x.shape, dtype=torch.float32), torch.empty(x.shape, dtype=torch.uint8)


class Running(threading.local):
    """What an operator knows while it runs; each thread that runs a model has its own."""

    site = ""
    operator = ""
    overflows = 0

    def __reduce__(self) -> Any:
        return Running, ()


class Passes:
    """The passes for the chip of an `Arithmetic`; `overflows` counts narrowings of the accumulator that changed it."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self._running = Running()

    # -- products

    def requantize(
        self,
        acc: Tensor,
        inverse: float,
        bias: Tensor | None,
        ratio: float | npt.NDArray[np.float64],
        out: Grid,
        *,
        register: bool = True,
        axis: int = -1,
    ) -> Masked:
        """Products onto a grid: codes are acc * inverse, a bias code and perhaps a ratio for each channel on `axis`, which
        is the last one, or 1. `register`: whether the sum goes through the accumulator."""
        limits = self.arithmetic.limits(out.bits)
        narrow = self.arithmetic.accumulator if register else NO_LIMITS
        acc = acc.contiguous()
        last = axis in (-1, acc.ndim - 1)
        channels = acc.shape[axis]
        if not on_cpu(acc):
            wide = [-1] + [1] * (0 if last else acc.ndim - 2)
            numbers: Any = self._numbers(ratio, acc.device, wide)
            start = None if bias is None else bias.view(wide)
            return portable.requantize(acc, inverse, start, numbers, narrow, limits, out.scale)
        value, mask = empty(acc)
        if acc.numel() == 0:
            return value, None
        codes = np.zeros(channels, np.int64) if bias is None else array(bias)
        rest = (word(narrow), word(limits), limits.wrap, out.scale)
        if last:
            shape: tuple[int, int] = (-1, channels)
            kernel: Any = kernels.requantize_columns
            if isinstance(ratio, float):
                step = self.arithmetic.rescale(ratio).array
            else:
                kernel, step = kernels.requantize_channels, np.ascontiguousarray(self.arithmetic.rescales(ratio).T)
        else:
            shape = (acc.shape[0] * channels, -1)
            kernel = kernels.requantize_rows
            step = (
                self.arithmetic.rescale(ratio).array[None]
                if isinstance(ratio, float)
                else self.arithmetic.rescales(ratio)
            )
        given, into, kept = (array(each).reshape(shape) for each in (acc, value, mask))
        clipped, overflowed = spread(
            len(given),
            acc.numel(),
            lambda part: kernel(given[part], inverse, codes, step, *rest, into[part], kept[part]),
            multiple=1 if last else channels,
        )
        self.overflows += overflowed
        return value, mask if clipped else None

    def accumulate(self, acc: Tensor, part: Tensor, inverse: float, mask: Tensor) -> Tensor:
        """acc (float64 integers) with one tile more; `mask` loses what overflowed."""
        limits = self.arithmetic.accumulator
        part = part.contiguous()
        if not on_cpu(acc):
            acc, kept = portable.accumulate(acc, part, inverse, limits)
            mask &= kept
            return acc
        self.overflows += kernels.accumulate(
            array(acc).ravel(), array(part).ravel(), inverse, word(limits), limits.wrap, array(mask).ravel()
        )
        return acc

    # -- entries

    @property
    def overflows(self) -> int:
        """Those of this thread, since it set them to 0."""
        return self._running.overflows

    @overflows.setter
    def overflows(self, count: int) -> None:
        self._running.overflows = count

    def enter(self, x: Tensor, out: Grid) -> Masked:
        """Float numbers onto a grid, always clipped."""
        x = x.contiguous()
        if not on_cpu(x):
            return portable.enter(x, out.scale, self.arithmetic.rounding, Limits(out.least, out.most, False))
        value, mask = empty(x)
        given, into, kept = flat(x, value, mask)
        rest = (out.scale, self.arithmetic.rounding, float(out.least), float(out.most))
        clipped = spread(len(given), len(given), lambda part: kernels.enter(given[part], *rest, into[part], kept[part]))
        return value, mask if clipped else None

    def codes(self, x: Tensor, grid: Grid) -> Tensor:
        """Codes, in float32."""
        x = x.contiguous()
        if not on_cpu(x):
            return torch.round(x.double() / grid.scale).float()
        out = torch.empty_like(x)
        kernels.codes_of(array(x).ravel(), 1.0 / grid.scale, array(out).ravel())
        return out

    def add(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, sign: int) -> Masked:
        """a + sign * b of one shape."""
        first, second = (self.arithmetic.rescale(grid.scale / out.scale) for grid in (ga, gb))
        limits = self.arithmetic.limits(out.bits)
        a, b = a.contiguous(), b.contiguous()
        if not on_cpu(a):
            return portable.add(a, 1 / ga.scale, first, b, 1 / gb.scale, second, sign, limits, out.scale)
        value, mask = empty(a)
        left, right, into, kept = flat(a, b, value, mask)
        one, two = (1.0 / ga.scale, first.array), (1.0 / gb.scale, second.array)
        rest = (sign, word(limits), limits.wrap, out.scale)
        clipped = spread(
            len(left),
            len(left),
            lambda part: kernels.add(left[part], *one, right[part], *two, *rest, into[part], kept[part]),
        )
        return value, mask if clipped else None

    def multiply(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid) -> Masked:
        """a * b of one shape."""
        step = self.arithmetic.rescale(ga.scale * gb.scale / out.scale)
        limits = self.arithmetic.limits(out.bits)
        a, b = a.contiguous(), b.contiguous()
        if not on_cpu(a):
            return portable.multiply(a, 1 / ga.scale, b, 1 / gb.scale, step, limits, out.scale)
        value, mask = empty(a)
        left, right, into, kept = flat(a, b, value, mask)
        one, two = 1.0 / ga.scale, 1.0 / gb.scale
        rest = (step.array, word(limits), limits.wrap, out.scale)
        clipped = spread(
            len(left),
            len(left),
            lambda part: kernels.multiply(left[part], one, right[part], two, *rest, into[part], kept[part]),
        )
        return value, mask if clipped else None

    # -- maps

    def look_up(self, x: Tensor, grid: Grid, entries: Map) -> Tensor:
        """The value of a map at every entry."""
        x = x.contiguous()
        if not on_cpu(x):
            places = portable.places(x, 1 / grid.scale, self.arithmetic.limits(grid.bits))
            return entries.values.to(x.device)[places]
        out = torch.empty_like(x)
        (given, into), held = flat(x, out), array(entries.values)
        spread(len(given), len(given), lambda part: kernels.look_up(given[part], *_span(grid), held, into[part]))
        return out

    def look_up_gradient(self, gradient: Tensor, x: Tensor, grid: Grid, entries: Map) -> Tensor:
        """The gradient times the slope of a map at every entry."""
        x, gradient = x.contiguous(), gradient.contiguous()
        if not on_cpu(x):
            places = portable.places(x, 1 / grid.scale, self.arithmetic.limits(grid.bits))
            return gradient * entries.slopes.to(x.device)[places]
        out = torch.empty_like(x)
        (back, given, into), held = flat(gradient, x, out), array(entries.slopes)
        spread(
            len(given),
            len(given),
            lambda part: kernels.look_up_gradient(back[part], given[part], *_span(grid), held, into[part]),
        )
        return out

    def gate(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, entries: Map, out: Grid) -> Masked:
        """a * entries[b] of one shape; halves of a tensor along its last axis are read in place."""
        step = self.arithmetic.rescale(ga.scale * self.arithmetic.table_grid.scale / out.scale)
        limits = self.arithmetic.limits(out.bits)
        if not on_cpu(a):
            places = portable.places(b, 1 / gb.scale, self.arithmetic.limits(gb.bits))
            codes = entries.codes.to(a.device)
            return portable.gate(a, 1 / ga.scale, b, places, codes, step, limits, out.scale)
        value, mask = empty(a)
        if a.numel() == 0:
            return value, None
        shape = (-1, a.shape[-1])
        (left, from_a), (right, from_b) = rows(a), rows(b)
        into, kept = array(value).reshape(shape), array(mask).reshape(shape)
        rest = (*_span(gb), array(entries.codes), step.array, word(limits), limits.wrap, out.scale)
        one = 1.0 / ga.scale
        clipped = spread(
            len(into),
            a.numel(),
            lambda part: kernels.gate(left[part], from_a, one, right[part], from_b, *rest, into[part], kept[part]),
        )
        return value, mask if clipped else None

    def gate_gradient(
        self, gradient: Tensor, mask: Tensor | None, a: Tensor, b: Tensor, gb: Grid, entries: Map
    ) -> tuple[Tensor, Tensor]:
        """The gradients of both operands of a gate."""
        if not on_cpu(a):
            places = portable.places(b, 1 / gb.scale, self.arithmetic.limits(gb.bits))
            g = gradient if mask is None else gradient * mask
            there = torch.where(torch.isfinite(a), a, 0.0)
            return g * entries.values.to(a.device)[places], g * there * entries.slopes.to(a.device)[places]
        if mask is None:
            mask = torch.ones(a.shape, dtype=torch.uint8)
        out_a, out_b = torch.empty(a.shape), torch.empty(a.shape)
        if a.numel() == 0:
            return out_a, out_b
        shape = (-1, a.shape[-1])
        (left, from_a), (right, from_b) = rows(a), rows(b)
        back, kept, to_a, to_b = (array(each.contiguous()).reshape(shape) for each in (gradient, mask, out_a, out_b))
        rest = (*_span(gb), array(entries.values), array(entries.slopes))
        spread(
            len(back),
            a.numel(),
            lambda part: kernels.gate_gradient(
                back[part], kept[part], left[part], from_a, right[part], from_b, *rest, to_a[part], to_b[part]
            ),
        )
        return out_a, out_b

    # -- rows

    def softmax(self, x: Tensor, grid: Grid, entries: Tensor) -> Masked:
        """Probabilities over the last axis; `entries` are the codes of exp."""
        bits = self.arithmetic.chip.words.probability
        x = x.contiguous()
        if not on_cpu(x):
            return portable.softmax(x, 1 / grid.scale, entries.to(x.device), bits)
        value, mask = empty(x)
        if x.numel() == 0:
            return value, None
        given, into, kept = (array(each).reshape(-1, x.shape[-1]) for each in (x, value, mask))
        rest = (1.0 / grid.scale, array(entries), bits)
        clipped = spread(
            len(given), x.numel(), lambda part: row_kernels.softmax(given[part], *rest, into[part], kept[part])
        )
        return value, mask if clipped else None

    def softmax_gradient(self, gradient: Tensor, mask: Tensor | None, x: Tensor, grid: Grid, entries: Tensor) -> Tensor:
        """The gradient by the scores; `entries` are values of exp."""
        gradient, x = gradient.contiguous(), x.contiguous()
        if mask is None:
            mask = torch.ones(x.shape, dtype=torch.uint8, device=x.device)
        if not on_cpu(x):
            return portable.softmax_gradient(gradient, mask, x, 1 / grid.scale, entries.to(x.device))
        out = torch.empty_like(x)
        if x.numel():
            back, kept, given, into = (array(each).reshape(-1, x.shape[-1]) for each in (gradient, mask, x, out))
            rest = (1.0 / grid.scale, array(entries))
            spread(
                len(given),
                x.numel(),
                lambda part: row_kernels.softmax_gradient(back[part], kept[part], given[part], *rest, into[part]),
            )
        return out

    def masked(self, gradient: Tensor, mask: Tensor | None) -> Tensor:
        """The gradient where nothing was clipped."""
        gradient = gradient.contiguous()
        if mask is None:
            return gradient
        if not on_cpu(gradient):
            return gradient * mask
        out = torch.empty_like(gradient)
        back, kept, into = flat(gradient, mask, out)
        spread(len(back), len(back), lambda part: kernels.masked(back[part], kept[part], into[part]))
        return out

    def _numbers(
        self, ratio: float | npt.NDArray[np.float64], device: torch.device, shape: list[int]
    ) -> tuple[Any, ...]:
        if isinstance(ratio, float):
            return self.arithmetic.rescale(ratio).numbers
        return tuple(torch.from_numpy(self.arithmetic.rescales(ratio)).to(device).T.reshape(6, *shape))


def flat(*tensors: Tensor) -> tuple[npt.NDArray[Any], ...]:
    """The memory of contiguous CPU tensors in one dimension."""
    return tuple(array(each).ravel() for each in tensors)


def rows(x: Tensor) -> tuple[npt.NDArray[Any], int]:
    """A tensor as rows along its last axis, and the column where it begins: in place where it is a part of the columns of
    a contiguous tensor."""
    columns = x.shape[-1]
    stride = x.stride(-2) if x.ndim > 1 else columns
    regular = x.stride(-1) == 1 and all(
        x.stride(axis) == stride * math.prod(x.shape[axis + 1 : -1]) for axis in range(x.ndim - 1)
    )
    offset = int(x.storage_offset())
    start = offset % stride if stride else 0
    first = offset - start
    count = x.numel() // columns
    if regular and start + columns <= stride and 4 * (first + count * stride) <= x.untyped_storage().nbytes():
        return array(x.as_strided((count, stride), (stride, 1), first)), start
    return array(x.contiguous()).reshape(-1, columns), 0


def _span(grid: Grid) -> tuple[float, float, float]:
    return 1.0 / grid.scale, float(grid.least), float(grid.most)

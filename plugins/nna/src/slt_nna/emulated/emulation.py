"""The emulation of a chip: its arithmetic on float tensors that hold code times scale, with gradients."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.backend import Kernels, RecurrentGrids, Weight
from slt_nna.emulated.arithmetic import Arithmetic
from slt_nna.emulated.convolution import Convolution, Geometry
from slt_nna.emulated.elementwise import Add, Constant, Enter, Gate, Mapped, Multiply, Scaled
from slt_nna.emulated.gru import Gru
from slt_nna.emulated.linear import Linear, Product
from slt_nna.emulated.lstm import Lstm
from slt_nna.emulated.maps import Maps
from slt_nna.emulated.norm import BatchNorm, LayerNorm, Softmax
from slt_nna.emulated.passes import Passes, Running
from slt_nna.emulated.recurrence import frames_of
from slt_nna.emulated.weights import quantized
from slt_nna.grid import Grid
from sltcore.errors import PluginError

if TYPE_CHECKING:
    from slt_nna.chip import Chip

TABLE_GRADIENTS = ("true", "slope")
_COUNTING = threading.Lock()


class Emulation:
    """`slt_nna.backend.Backend` by float tensors: the integers of the chip, bit for bit, and gradients straight through.

    Gradients are 0 where a narrowing clipped; those of tables are the function's derivative within the table
    (`table_gradient` true) or the slope of the table; softmax and layer norm have those of the true functions.
    `overflows` counts, by site, how often the accumulator did not hold a sum.

    **Raises** `PluginError` for a `table_gradient` other than true and slope.
    """

    def __init__(self, chip: Chip, *, table_gradient: str = "true") -> None:
        if table_gradient not in TABLE_GRADIENTS:
            raise PluginError(
                f"nna: table_gradient is {table_gradient!r}, expected one of {', '.join(TABLE_GRADIENTS)}"
            )
        self.chip = chip
        self._running = Running()
        self.arithmetic = Arithmetic(chip)
        self.passes = Passes(self.arithmetic)
        self.maps = Maps(self.arithmetic, table_gradient)
        self.overflows: Counter[str] = Counter()

    @property
    def site(self) -> str:
        """The site of the operator that this thread runs."""
        return self._running.site

    @site.setter
    def site(self, site: str) -> None:
        self._running.site = site

    @property
    def operator(self) -> str:
        """The operator that this thread runs."""
        return self._running.operator

    @operator.setter
    def operator(self, operator: str) -> None:
        self._running.operator = operator

    # -- crossings

    def enter(self, x: Tensor, out: Grid) -> Tensor:
        return self._run(Enter, x, self.passes, out)

    def leave(self, x: Tensor, grid: Grid) -> Tensor:
        return x.view_as(x)

    def constant(self, value: Tensor, bits: int) -> tuple[Tensor, Grid]:
        codes = quantized(self.arithmetic, value.reshape(-1), bits)
        return self._run(Constant, value, codes.values), Grid(float(codes.scale), bits)

    # -- products

    def linear(self, x: Tensor, gx: Grid, weight: Weight, bias: Tensor | None, out: Grid) -> Tensor:
        return self._run(Linear, x, weight.value, bias, self.passes, gx, out)

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
        geometry = Geometry(stride, padding, dilation, groups)
        return self._run(Convolution, x, weight.value, bias, self.passes, gx, out, geometry)

    def embedding(self, indices: Tensor, weight: Weight) -> tuple[Tensor, Grid]:
        values, grid = self.constant(weight.value, self.chip.words.weight)
        return functional.embedding(indices, values), grid

    def matmul(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, *, factor: float = 1.0) -> Tensor:
        if factor <= 0.0:
            a, factor = (self.negate(a, ga), -factor) if factor else (a * 0.0, 1.0)
        return self._run(Product, a, b, self.passes, ga, gb, out, factor)

    # -- single entries

    def add(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, *, sign: int = 1) -> Tensor:
        return self._run(Add, a, b, self.passes, (ga, gb, out), sign)

    def multiply(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid) -> Tensor:
        return self._run(Multiply, a, b, self.passes, (ga, gb, out))

    def scale(self, a: Tensor, ga: Grid, factor: float, out: Grid) -> Tensor:
        return self._run(Mapped, a, self.passes, ga, self.maps.moved(ga, factor, out))

    def relabel(self, a: Tensor, ga: Grid, factor: float) -> tuple[Tensor, Grid]:
        return self._run(Scaled, a, self.passes, ga, factor), Grid(ga.scale * factor, ga.bits)

    def negate(self, a: Tensor, ga: Grid) -> Tensor:
        return self.scale(a, ga, -1.0, ga)

    def relu(self, a: Tensor, ga: Grid, *, most: float | None = None) -> Tensor:
        if most is None:
            return torch.relu(a)
        return a.clamp(0.0, float(torch.tensor(int(most // ga.scale) * ga.scale, dtype=torch.float32)))

    def lookup(self, a: Tensor, ga: Grid, function: str) -> tuple[Tensor, Grid]:
        return self._run(Mapped, a, self.passes, ga, self.maps.looked_up(function, ga)), self.arithmetic.table_grid

    def gate(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, function: str, out: Grid) -> Tensor:
        if a is b:
            return self._run(Mapped, a, self.passes, ga, self.maps.gated(function, ga, out))
        return self._run(Gate, a, b, self.passes, (ga, gb, out), self.maps.looked_up(function, gb))

    def exclude(self, a: Tensor, ga: Grid, mask: Tensor) -> Tensor:
        return a.masked_fill(mask, -torch.inf)

    def settle(self, a: Tensor, ga: Grid) -> Tensor:
        return a.clamp(min=float(torch.tensor(ga.least * ga.scale, dtype=torch.float32)))

    def fill(self, a: Tensor, ga: Grid, mask: Tensor, value: float) -> Tensor:
        entered, _ = self.passes.enter(torch.full((1,), value, dtype=torch.float64), ga)
        return a.masked_fill(mask, float(entered))

    def requantize(self, a: Tensor, ga: Grid, out: Grid) -> Tensor:
        return a.clone() if ga == out else self.scale(a, ga, 1.0, out)

    # -- rows

    def softmax(self, a: Tensor, ga: Grid, dim: int) -> tuple[Tensor, Grid]:
        bits = self.chip.words.probability
        last = dim in (-1, a.ndim - 1)
        moved = a if last else a.movedim(dim, -1)
        result = self._run(Softmax, moved, self.passes, ga, self.maps.exponentials(ga))
        return result if last else result.movedim(-1, dim), Grid(2.0 ** -(bits - 1), bits)

    def layer_norm(
        self, a: Tensor, ga: Grid, weight: Tensor | None, bias: Tensor | None, eps: float, out: Grid
    ) -> Tensor:
        return self._run(LayerNorm, a, weight, bias, self.passes, ga, out, eps)

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
        moved = a if axis == 1 else a.movedim(axis, 1)
        result = self._run(BatchNorm, moved, weight, bias, mean, var, self.passes, ga, out, eps)
        return result if axis == 1 else result.movedim(1, axis)

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
        frames = frames_of(x, batch_sizes, reverse)
        rows, place = _rows(x, batch_sizes)
        first = (None, None) if state is None else tuple(each.to(rows.device) for each in state)
        h, last, c = self._run(
            Lstm, rows, *_weights(kernels, rows.device), *first, self.passes, self.maps, gx, grids, frames
        )
        h = h if batch_sizes is not None else h.view(*x.shape[:2], h.shape[-1])
        return h.to(place), last.to(place), c.to(place)

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
        frames = frames_of(x, batch_sizes, reverse)
        rows, place = _rows(x, batch_sizes)
        first = None if state is None else state.to(rows.device)
        weights = _weights(kernels, rows.device)[:4]
        h, last = self._run(Gru, rows, *weights, first, self.passes, self.maps, gx, grids, frames)
        h = h if batch_sizes is not None else h.view(*x.shape[:2], h.shape[-1])
        return h.to(place), last.to(place)

    # -- arrangement

    def shape(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return function(*args, **kwargs)

    def overwrite(self, x: Tensor, result: Tensor, grid: Grid) -> None:
        x.copy_(result)

    def _run(self, operator: Any, *args: Any) -> Any:
        """An operator, out of autocast's reach; what the accumulator did not hold is counted."""
        active = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
        kind = args[0].device.type if isinstance(args[0], Tensor) else "cpu"
        with torch.autocast(kind, enabled=False) if active else nullcontext():
            result = operator.apply(*args)
        if self.passes.overflows:
            with _COUNTING:
                self.overflows[self.site] += self.passes.overflows
            self.passes.overflows = 0
        return result


def _rows(x: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor, torch.device]:
    """The rows of all frames in the CPU's memory, where the recurrence runs, and where they come from."""
    rows = x if batch_sizes is not None else x.reshape(-1, x.shape[-1])
    return rows.to("cpu").contiguous(), x.device


def _weights(kernels: Kernels, device: torch.device) -> tuple[Tensor | None, ...]:
    projection = None if kernels.projection is None else kernels.projection.value
    found = (kernels.weight_ih.value, kernels.weight_hh.value, kernels.bias_ih, kernels.bias_hh, projection)
    return tuple(None if each is None else each.to(device) for each in found)

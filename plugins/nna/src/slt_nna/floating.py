"""The chip's operators in float: what calibration measures on, and what an operator is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.backend import Kernels, RecurrentGrids, Weight
from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.chip import Chip

Record = Callable[[str, Tensor], None]


class Floating:
    """`slt_nna.backend.Backend` without rounding, clipping or tables; `record(grid name, values)` hears what a recurrent
    layer has inside.

    Numbers differ from torch's own functions by float rounding, as products and attention are computed step by step.
    """

    def __init__(self, chip: Chip, record: Record | None = None) -> None:
        self.chip = chip
        self.record = record
        self.site = ""
        self.operator = ""

    def enter(self, x: Tensor, out: Grid) -> Tensor:
        return x.float()

    def leave(self, x: Tensor, grid: Grid) -> Tensor:
        return x

    def constant(self, value: Tensor, bits: int) -> tuple[Tensor, Grid]:
        return value, Grid(1.0, bits)

    def linear(self, x: Tensor, gx: Grid, weight: Weight, bias: Tensor | None, out: Grid) -> Tensor:
        return functional.linear(x, weight.value, bias)

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
        convolve: Any = functional.conv1d if weight.value.ndim == 3 else functional.conv2d
        result: Tensor = convolve(x, weight.value, bias, stride, padding, dilation, groups)
        return result

    def embedding(self, indices: Tensor, weight: Weight) -> tuple[Tensor, Grid]:
        return functional.embedding(indices, weight.value), Grid(1.0, self.chip.words.weight)

    def matmul(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, *, factor: float = 1.0) -> Tensor:
        product = torch.matmul(a, b)
        return product if factor == 1.0 else product * factor

    def add(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid, *, sign: int = 1) -> Tensor:
        return a + b if sign == 1 else a - b

    def multiply(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, out: Grid) -> Tensor:
        return a * b

    def scale(self, a: Tensor, ga: Grid, factor: float, out: Grid) -> Tensor:
        return a * factor

    def relabel(self, a: Tensor, ga: Grid, factor: float) -> tuple[Tensor, Grid]:
        return a * factor, Grid(ga.scale * factor, ga.bits)

    def negate(self, a: Tensor, ga: Grid) -> Tensor:
        return -a

    def relu(self, a: Tensor, ga: Grid, *, most: float | None = None) -> Tensor:
        return torch.relu(a) if most is None else a.clamp(0.0, most)

    def lookup(self, a: Tensor, ga: Grid, function: str) -> tuple[Tensor, Grid]:
        bits = self.chip.words.table
        return _FUNCTIONS[function](a), Grid(2.0 ** -(bits - 1), bits)

    def gate(self, a: Tensor, ga: Grid, b: Tensor, gb: Grid, function: str, out: Grid) -> Tensor:
        if a is b:
            return functional.silu(a) if function == "sigmoid" else functional.gelu(a)
        return a * _FUNCTIONS[function](b)

    def softmax(self, a: Tensor, ga: Grid, dim: int) -> tuple[Tensor, Grid]:
        bits = self.chip.words.probability
        return torch.softmax(a, dim).nan_to_num(nan=0.0), Grid(2.0 ** -(bits - 1), bits)

    def exclude(self, a: Tensor, ga: Grid, mask: Tensor) -> Tensor:
        return a.masked_fill(mask, -torch.inf)

    def settle(self, a: Tensor, ga: Grid) -> Tensor:
        hidden = a == -torch.inf
        if ga.scale > 0:
            return a.masked_fill(hidden, ga.least * ga.scale)
        return a.masked_fill(hidden, -float(a.detach().masked_fill(hidden, 0.0).abs().amax()) if a.numel() else 0.0)

    def fill(self, a: Tensor, ga: Grid, mask: Tensor, value: float) -> Tensor:
        return a.masked_fill(mask, value)

    def layer_norm(
        self, a: Tensor, ga: Grid, weight: Tensor | None, bias: Tensor | None, eps: float, out: Grid
    ) -> Tensor:
        return functional.layer_norm(a, a.shape[-1:], weight, bias, eps)

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
        moved = a.movedim(axis, 1)
        return functional.batch_norm(moved, mean, var, weight, bias, False, 0.0, eps).movedim(1, axis)

    def requantize(self, a: Tensor, ga: Grid, out: Grid) -> Tensor:
        return a.clone()

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
        first = _zeros(x, kernels, batch_sizes, 2) if state is None else state
        outputs, (h, c) = self._over_time(x, kernels, first, self._lstm_step, reverse, batch_sizes)
        return outputs, h, c

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
        first = _zeros(x, kernels, batch_sizes, 1) if state is None else (state,)
        outputs, (h,) = self._over_time(x, kernels, first, self._gru_step, reverse, batch_sizes)
        return outputs, h

    def shape(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return function(*args, **kwargs)

    def overwrite(self, x: Tensor, result: Tensor, grid: Grid) -> None:
        x.copy_(result)

    # -- recurrence

    def _over_time(
        self,
        x: Tensor,
        kernels: Kernels,
        state: tuple[Tensor, ...],
        step: Callable[..., tuple[Tensor, ...]],
        reverse: bool,
        batch_sizes: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Step after step; a packed sequence has fewer rows in later frames, and keeps the states of those that ended."""
        given = functional.linear(x, kernels.weight_ih.value, kernels.bias_ih)
        frames = list(given) if batch_sizes is None else list(torch.split_with_sizes(given, batch_sizes.tolist()))
        outputs: list[Tensor] = [x] * len(frames)
        inside: dict[str, list[Tensor]] = {}
        for index in reversed(range(len(frames))) if reverse else range(len(frames)):
            rows = frames[index].shape[0]
            part = step(frames[index], tuple(each[:rows] for each in state), kernels, inside)
            state = tuple(torch.cat([new, old[rows:]]) for new, old in zip(part, state, strict=True))
            outputs[index] = part[0]
        for name, values in inside.items():
            if self.record is not None:
                self.record(f"{self.site}:{name}", torch.cat([each.flatten() for each in values]))
        if not outputs:
            return x.new_zeros(*x.shape[:-1], state[0].shape[-1]), state
        return torch.stack(outputs) if batch_sizes is None else torch.cat(outputs), state

    def _lstm_step(
        self, given: Tensor, state: tuple[Tensor, ...], kernels: Kernels, inside: dict[str, list[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        h, c = state
        gates = given + functional.linear(h, kernels.weight_hh.value, kernels.bias_hh)
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        found = {"pre": gates, "state": c}
        if kernels.projection is not None:
            found["cell"] = h
            h = functional.linear(h, kernels.projection.value)
        self._keep(inside, found)
        return h, c

    def _gru_step(
        self, given: Tensor, state: tuple[Tensor, ...], kernels: Kernels, inside: dict[str, list[Tensor]]
    ) -> tuple[Tensor]:
        (h,) = state
        own = functional.linear(h, kernels.weight_hh.value, kernels.bias_hh)
        (r, z, n), (hr, hz, hn) = given.chunk(3, -1), own.chunk(3, -1)
        reset, update = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
        new = n + reset * hn
        self._keep(inside, {"pre": torch.cat([r + hr, z + hz, n, hn, new], -1)})
        return ((1 - update) * torch.tanh(new) + update * h,)

    def _keep(self, inside: dict[str, list[Tensor]], found: Mapping[str, Tensor]) -> None:
        if self.record is not None:
            for name, value in found.items():
                inside.setdefault(name, []).append(value.detach())


_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "phi": torch.special.ndtr,
}


def _zeros(x: Tensor, kernels: Kernels, batch_sizes: Tensor | None, count: int) -> tuple[Tensor, ...]:
    batch = x.shape[1] if batch_sizes is None else int(batch_sizes[0])
    d, p = kernels.weight_ih.value.shape[0] // (4 if count == 2 else 3), kernels.weight_hh.value.shape[1]
    return tuple(x.new_zeros(batch, width) for width in (p, d)[:count])

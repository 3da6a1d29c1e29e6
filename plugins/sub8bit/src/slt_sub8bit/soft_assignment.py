"""The soft assignment of many values to few levels, exact in O(n log J) time and O(n) memory at every sharpness.

    y~_i = sum_j p_ij z_j,   p_ij = exp(-alpha |y_i - z_j|) / sum_k exp(-alpha |y_i - z_k|)

With sorted levels, the mass of all levels left of y is that of the nearest left one times a sum that does not depend on y,
and the same holds on the right, so two recurrences over the J levels replace the n x J softmax:

    L_k = 1 + exp(-alpha (z_k - z_{k-1})) L_{k-1},     LZ_k = z_k + exp(-alpha (z_k - z_{k-1})) LZ_{k-1}

and R, RZ likewise from the right. For z_k <= y < z_{k+1} the right side's share of the mass is a logistic function of y,

    P = sigma(2 alpha y - alpha (z_k + z_{k+1}) - ln(L_k / R_{k+1})),     y~ = (1 - P) LZ_k / L_k + P RZ_{k+1} / R_{k+1}

which costs one exponential for each value. Outside of the levels P is 0 or 1.

**Gradients** are closed: dy~/dy = 2 alpha P (1 - P) (RZ / R - LZ / L); dloss/dz_j = sum_i g_i p_ij (1 + s_ij alpha (z_j - y~_i)),
s = +1 for a level left of y and -1 right of it, follows from the sums of g, g P and g P^2 over each interval, spread over
the levels by one recurrence. On a level itself, where |y - z| has a corner, the level counts as left. Sums are float64.

Two evaluations of the same formulas: compiled for the CPU, and torch operations for other devices.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CELLS = 1024
CHUNK = 1 << 16
"""Values that one compiled call takes at least, so that small kernels pay for no threads."""


class Sides:
    """The recurrences for one set of sorted levels `z` [J], float64: everything that does not depend on y.

    For each of the J + 1 intervals: `offset` and 2 alpha of the logistic's argument; `base`, the mean level on the left; and
    `rise`, how much higher the mean on the right is.
    """

    def __init__(self, z: Tensor, alpha: float) -> None:
        self.z, self.alpha = z, alpha
        self.decay, self.turned = torch.exp(-alpha * z.diff()), torch.exp(-alpha * z.diff()).flip(0)
        ones = torch.ones_like(z)
        self.mass_left = _gathered(ones, self.decay)
        self.mass_right = _gathered(ones, self.turned).flip(0)
        mean_left = _gathered(z, self.decay) / self.mass_left
        mean_right = _gathered(z.flip(0), self.turned).flip(0) / self.mass_right
        inf = torch.full((1,), torch.inf, dtype=torch.float64)
        inner = alpha * (z[1:] + z[:-1]) + (self.mass_left[:-1] / self.mass_right[1:]).log()
        self.offset = torch.cat([-inf, inner, inf])
        self.base = torch.cat([mean_right[:1], mean_left])
        self.rise = torch.cat([inf.new_zeros(1), mean_right[1:] - mean_left[:-1], inf.new_zeros(1)])

    def gradient(self, sums: Tensor) -> Tensor:
        """dloss/dz [J] from the sums [3 J+1] of g, g P and g P^2 over the values of each interval."""
        total, right, square = sums
        left = total - right
        left_y = self.base * left + self.rise * (right - square)
        right_y = self.base * right + self.rise * square
        of_left = [_gathered((s[1:] / self.mass_left).flip(0), self.turned).flip(0) for s in (left, left_y)]
        of_right = [_gathered(s[:-1] / self.mass_right, self.decay) for s in (right, right_y)]
        pull = self.z * (of_left[0] - of_right[0]) - (of_left[1] - of_right[1])
        return of_left[0] + of_right[0] + self.alpha * pull

    def columns(self) -> tuple[Any, ...]:
        """What `locate` looks up: cells, levels above each interval, offsets and 2 alpha."""
        z = self.z.numpy()
        return *cells_of(z), np.append(z, np.inf), self.offset.numpy(), 2.0 * self.alpha

    def lines(self) -> tuple[Any, Any]:
        """What `mix` looks up: base and rise."""
        return self.base.numpy(), self.rise.numpy()

    def steep_rise(self) -> Any:
        """What `backward` looks up."""
        return (2.0 * self.alpha * self.rise).numpy()


def _gathered(first: Tensor, decay: Tensor) -> Tensor:
    """s_k = first_k + decay_{k-1} s_{k-1}."""
    values, factors, total, sums = first.tolist(), decay.tolist(), 0.0, []
    for place, value in enumerate(values):
        total = value + (factors[place - 1] * total if place else 0.0)
        sums.append(total)
    return torch.tensor(sums, dtype=torch.float64)


def soft_assign(y: Tensor, z: Tensor, *, alpha: float) -> Tensor:
    """The mean level of every value under exp(-alpha |y - z|), differentiable in `y` and `z`.

    **Shapes**: y any, float32 or float64; z [J], J >= 1, sorted upwards (equal levels are fine); the result is as y.
    **Source**: softmax annealing of Zhen et al. 2022 (arXiv:2210.09188); the recurrences are ours.
    """
    found: Tensor = _SoftAssignment.apply(y, z, alpha)  # type: ignore[no-untyped-call]
    return found


class _SoftAssignment(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, alpha: float) -> Tensor:  # type: ignore[override]
        sides = Sides(z.detach().double().cpu(), alpha)
        y = y.detach().contiguous()
        soft, places, share = (_forward_compiled if y.device.type == "cpu" else _forward_torch)(y, sides)
        ctx.save_for_backward(places, share)
        ctx.sides, ctx.kind = sides, (z.dtype, z.device)
        return soft

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        places, share = ctx.saved_tensors
        g = upstream[0].to(share.dtype).contiguous()
        slope, sums = (_backward_compiled if g.device.type == "cpu" else _backward_torch)(places, share, g, ctx.sides)
        dtype, device = ctx.kind
        return slope, ctx.sides.gradient(sums).to(device=device, dtype=dtype), None


def _forward_torch(y: Tensor, sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    places = torch.bucketize(y.double(), sides.z.to(y.device), right=True)
    share = torch.sigmoid(2.0 * sides.alpha * y.double() - sides.offset.to(y.device)[places])
    soft = sides.base.to(y.device)[places] + share * sides.rise.to(y.device)[places]
    return soft.to(y.dtype), places.to(torch.int16), share.to(y.dtype)


def _backward_torch(places: Tensor, share: Tensor, g: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
    index, part, upstream = places.long(), share.double(), g.double()
    slope = upstream * 2.0 * sides.alpha * sides.rise.to(g.device)[index] * part * (1.0 - part)
    sums = torch.zeros(3, len(sides.z) + 1, dtype=torch.float64, device=g.device)
    for power, row in enumerate(sums):
        row.index_add_(0, index.flatten(), (upstream * part**power).flatten())
    return slope.to(g.dtype), sums.cpu()


def _forward_compiled(y: Tensor, sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    from slt_sub8bit.soft_kernels import locate, mix

    soft, share, places = torch.empty_like(y), torch.empty_like(y), torch.empty_like(y, dtype=torch.int16)
    values, parts, index, out = (tensor.view(-1).numpy() for tensor in (y, share, places, soft))
    shared, lines = sides.columns(), sides.lines()

    def work(begin: int, end: int, part: int) -> None:
        locate(values[begin:end], *shared, index[begin:end], parts[begin:end])
        torch.from_numpy(parts[begin:end]).sigmoid_()
        mix(index[begin:end], parts[begin:end], *lines, out[begin:end])

    in_threads(len(values), parts_of(len(values)), work)
    return soft, places, share


def _backward_compiled(places: Tensor, share: Tensor, g: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
    from slt_sub8bit.soft_kernels import backward

    slope = torch.empty_like(g)
    index, parts, upstream, out = (tensor.view(-1).numpy() for tensor in (places, share, g, slope))
    count = parts_of(len(parts))
    sums, steep_rise = np.zeros((count, 2, len(sides.z) + 1, 3)), sides.steep_rise()

    def work(begin: int, end: int, part: int) -> None:
        backward(index[begin:end], parts[begin:end], upstream[begin:end], steep_rise, out[begin:end], sums[part])

    in_threads(len(parts), count, work)
    return slope, summed(sums)


def summed(sums: NDArray[np.float64]) -> Tensor:
    """What `Sides.gradient` takes, from the sums [parts 2 J+1 3] of compiled loops."""
    return torch.from_numpy(sums.sum((0, 1)).T.copy())


def cells_of(z: NDArray[np.float64]) -> tuple[NDArray[np.int64], float, float]:
    """Cells of equal width over sorted z: how many values lie in the cells before each, the lowest value, cells per unit."""
    low, width = float(z[0]), float(z[-1] - z[0])
    cells_per_unit = CELLS / width if width > 0 else 0.0
    if not np.isfinite(cells_per_unit):
        cells_per_unit = 0.0
    own = np.clip(((z - low) * cells_per_unit).astype(np.int64), 0, CELLS - 1)
    return np.searchsorted(own, np.arange(CELLS)).astype(np.int64), low, cells_per_unit


def parts_of(count: int, most: int | None = None) -> int:
    """Into how many parts for threads `count` values are divided, at most `most`."""
    return max(1, min(torch.get_num_threads(), count // CHUNK, count if most is None else most))


def in_threads(count: int, parts: int, work: Callable[[int, int, int], None]) -> None:
    """`work(begin, end, part)` on equal parts, at once: compiled kernels hold no lock."""
    edges = [count * part // parts for part in range(parts + 1)]
    if parts == 1:
        work(0, count, 0)
        return

    def without_graph(begin: int, end: int, part: int) -> None:
        with torch.no_grad():  # each thread has a switch of its own
            work(begin, end, part)

    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(without_graph, edges[:-1], edges[1:], range(parts)))

"""Lloyd-Max levels: the best table for given weights, and the quantizer that takes it as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slt_sub8bit.scheme import blocks, decoded, spread
from sltcore.alignment.compiled import first_call
from sltcore.types import TableWeight

CELLS = 4096
"""Cells into which sorted values are gathered for the exact search; with fewer values each is a cell of its own."""
MOST_ROUNDS = 5000
SCALE_ROUNDS = 3
SMALLEST_SCALE = 1e-30

Array = NDArray[np.float64]


def lloyd_max_levels(values: Tensor, levels: int, weights: Tensor | None = None) -> Tensor:
    """The `levels` numbers c that minimise sum_i g_i min_k (x_i - c_k)^2, sorted; float64 `[levels]` on the CPU.

    The sorted values are gathered into 4,096 cells (half by rank, half by value), dynamic programming finds the best cut of
    the cells exactly, and Lloyd's iterations on all values follow until no value changes its level: with prefix sums a round
    costs O(levels log n). Up to 4,096 different values the result is the global optimum.

    **Shapes**: `values` any, `weights` (g, none negative) of the same shape, or None for 1. With fewer different values than
    levels the largest is repeated. **Source**: Lloyd 1982; dynamic programming: Wang and Song 2011 (Ckmeans.1d.dp), here
    with the monotone search of Grønlund et al. 2017, arXiv:1701.07204.
    """
    points, mass = _distinct(values, weights)
    if len(points) <= levels:
        return torch.from_numpy(np.concatenate([points, np.full(levels - len(points), points[-1])]))
    shift = float(np.average(points, weights=mass))
    points = points - shift  # prefix sums lose digits in proportion to the mean
    sums = [np.concatenate([[0.0], np.cumsum(mass * points**power)]) for power in range(3)]
    cuts = _cells(points, sums[0])
    table = _settled(points, sums, _best_cut([row[cuts] for row in sums], cuts, levels)) + shift
    # rounding can make two levels as good as one
    return torch.from_numpy(np.concatenate([table, np.full(levels - len(table), table[-1])]))


class LloydMaxScheme:
    """One kernel on its Lloyd-Max levels, taken once from the float weights and kept.

    With several scales (rows or gates) the table is shared: levels that minimise the squared error of the weights and scales
    that do so for those levels take turns, three times. In training the gradient passes straight to the weight.
    """

    def __init__(self, groups: int = 1) -> None:
        self.groups = groups
        self.levels = torch.zeros(0)
        self.scale = torch.ones(groups)

    @property
    def is_hard(self) -> bool:
        """Always: training, too, sees the stored values."""
        return True

    def start(self, weight: Tensor, bits: int) -> None:
        """Levels and scales of least squared error."""
        rows = blocks(weight.detach().float(), self.groups)
        scale = rows.square().mean(1).sqrt() if self.groups > 1 else rows.new_ones(1)
        scale = scale.clamp_min(SMALLEST_SCALE)
        for turn in range(SCALE_ROUNDS if self.groups > 1 else 1):
            u = rows / scale[:, None]
            table = lloyd_max_levels(u, 2**bits, None if self.groups == 1 else scale[:, None].square().expand_as(u)).to(
                u
            )
            if turn + 1 < SCALE_ROUNDS and self.groups > 1:
                fit = table[nearest_level(u, table)]
                power = fit.square().sum(1)
                scale = torch.where(power > 0, (rows * fit).sum(1) / power, scale).clamp_min(SMALLEST_SCALE)
        self.levels, self.scale = table, scale

    def weight(self, weight: Tensor, *, hard: bool) -> Tensor:
        """Every weight's nearest level."""
        found: Tensor = StraightThrough.apply(weight, decoded(self.table(weight)))  # type: ignore[no-untyped-call]
        return found

    def table(self, weight: Tensor) -> TableWeight:
        """Nearest levels."""
        scale = spread(self.scale.to(weight.device), weight)
        levels = self.levels.to(weight.device)
        return TableWeight(nearest_level(weight.detach() / scale, levels).to(torch.uint8), levels, scale)

    def parameters(self) -> list[nn.Parameter]:
        """None: the levels stay."""
        return []

    def penalty(self, weight: Tensor) -> Tensor | None:
        """None."""
        return None

    def step(self, progress: float) -> None:
        """Nothing changes with time."""

    def state(self) -> dict[str, Tensor]:
        """Levels and scales."""
        return {"levels": self.levels, "scale": self.scale}

    def restore(self, state: Mapping[str, Tensor], weight: Tensor, bits: int) -> None:
        """Levels and scales."""
        self.levels = state["levels"].detach().clone().to(weight.device)
        self.scale = state["scale"].detach().clone().to(weight.device)


class StraightThrough(torch.autograd.Function):
    """The quantized weight forward, the gradient of the weight backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, quantized: Tensor) -> Tensor:  # type: ignore[override]
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0], None


def nearest_level(u: Tensor, levels: Tensor) -> Tensor:
    """Index of the nearest of sorted `levels` [J] for every u; a tie goes to the lower level."""
    return torch.bucketize(u, (levels[1:] + levels[:-1]) / 2)


def _distinct(values: Tensor, weights: Tensor | None) -> tuple[Array, Array]:
    """Sorted values that carry weight, and their weights; equal ones together."""
    x = values.detach().reshape(-1).double().cpu().numpy()
    if weights is None:
        points, counts = np.unique(x, return_counts=True)
        return points, counts.astype(np.float64)
    g = weights.detach().reshape(-1).double().cpu().numpy()
    x, g = (x[g > 0], g[g > 0]) if (g > 0).any() else (x, np.ones_like(g))
    points, places = np.unique(x, return_inverse=True)
    mass: Array = np.bincount(places, weights=g).astype(np.float64)
    return points, mass


def _cells(points: Array, mass: Array) -> NDArray[np.int64]:
    """Edges of the cells as places in the sorted points: even steps in half rank, half value."""
    if len(points) <= CELLS:
        return np.arange(len(points) + 1)
    share = 0.5 * mass[1:] / mass[-1] + 0.5 * (points - points[0]) / (points[-1] - points[0])
    inner = np.searchsorted(share, np.arange(1, CELLS) / CELLS)
    return np.unique(np.concatenate([[0], inner, [len(points)]]))


def _best_cut(sums: list[Array], cuts: NDArray[np.int64], levels: int) -> Array:
    """Means of the runs of cells with the least squared error."""
    from slt_sub8bit.lloyd_kernels import partition

    m = len(cuts) - 1
    levels = min(levels, m)
    begins = np.zeros((levels, m + 1), np.int32)
    first_call(partition, *sums, levels, np.zeros((2, m + 1)), begins)
    edges = [m]
    for level in range(levels - 1, -1, -1):
        edges.append(int(begins[level, edges[-1]]))
    taken = np.array(edges[::-1])
    mass = np.diff(sums[0][taken])
    means: Array = (np.diff(sums[1][taken]) / np.where(mass > 0, mass, 1.0))[mass > 0]
    return means


def _settled(points: Array, sums: list[Array], table: Array) -> Array:
    """Lloyd's iterations until no point changes its level; a level that lost its points stays where it is."""
    before = None
    for _ in range(MOST_ROUNDS):
        edges = np.concatenate(
            [[0], np.searchsorted(points, (table[1:] + table[:-1]) / 2, side="right"), [len(points)]]
        )
        if before is not None and np.array_equal(edges, before):
            break
        before = edges
        mass, first = np.diff(sums[0][edges]), np.diff(sums[1][edges])
        table = np.sort(np.where(mass > 0, first / np.where(mass > 0, mass, 1.0), table))
    return table

"""Uniform grids: after training, and straight-through with the largest weight, the best clip, or a learned step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from slt_sub8bit.scheme import blocks, spread
from sltcore.alignment.compiled import first_call
from sltcore.errors import PluginError
from sltcore.types import TableWeight

Range = Literal["max", "mse", "learned"]
CANDIDATES = 32
REFINEMENTS = 24
GOLDEN = (math.sqrt(5) - 1) / 2
SMALLEST_STEP = 1e-30
SMALLEST_RATIO = 1e-3


class Grid(NamedTuple):
    """Levels (place + offset) step for places lowest to highest.

    Up to 7 bits the levels stand half a step beside zero: +-1/2, +-3/2, ..., all 2^bits of them, symmetric; at 1 bit +-1/2.
    In half steps they are odd integers up to 127. At 8 bits they are the integers -127 to 127, as in every 8-bit kernel.
    """

    bits: int
    offset: float
    lowest: int
    highest: int

    @property
    def reach(self) -> float:
        """The largest level in steps."""
        return self.highest + self.offset

    def table(self) -> Tensor:
        """All levels in steps, float32 [2^bits]; at 8 bits the last is there twice and never used."""
        places = torch.arange(2**self.bits, dtype=torch.float32) + self.lowest
        return places.clamp_max(self.highest) + self.offset


def grid(bits: int) -> Grid:
    """The grid of `bits`, 1 to 8."""
    if not 1 <= bits <= 8:
        raise PluginError(f"a uniform grid of {bits} bits; choose 1 to 8")
    return Grid(bits, 0.0, -127, 127) if bits == 8 else Grid(bits, 0.5, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def max_steps(rows: Tensor, of: Grid) -> Tensor:
    """The step of each row [groups n] at which the outermost level is the largest |w|."""
    return (rows.abs().amax(1) / of.reach).clamp_min(SMALLEST_STEP)


def mse_steps(rows: Tensor, of: Grid) -> Tensor:
    """The step of each row [groups n] with the least squared error; float32 [groups].

    32 clips in even ratios from mean |w| (the best for 1 bit, exactly) to max |w|, then golden sections around the best.
    """
    values = np.ascontiguousarray(rows.detach().float().cpu().numpy())
    mean = np.abs(values).mean(1, dtype=np.float64)
    if of.bits == 1:
        return torch.from_numpy(mean / of.reach).to(rows).clamp_min(SMALLEST_STEP)
    low = np.log(np.maximum(mean / of.reach, SMALLEST_STEP))
    high = np.log(np.maximum(np.abs(values).max(1).astype(np.float64) / of.reach, SMALLEST_STEP))
    tried = low + np.linspace(0.0, 1.0, CANDIDATES)[:, None] * (high - low)
    errors = np.stack([_errors(values, logs, of) for logs in tried])
    best = errors.argmin(0)
    width = (high - low) / (CANDIDATES - 1)
    center = tried[best, np.arange(len(low))]
    found, error = _golden(values, center - width, np.minimum(center + width, high), of)
    found = np.where(error < errors.min(0), found, center)
    return torch.from_numpy(np.exp(found)).to(rows).clamp_min(SMALLEST_STEP)


def snap(weight: Tensor, step: Tensor, of: Grid) -> Tensor:
    """The weight on its grid, without gradients; `step` [groups] divides the rows of the weight."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        scale = spread(step, weight)
        return (_places(weight, scale, of) + of.offset) * scale
    from slt_sub8bit.uniform_kernels import snap as compiled

    weight = weight.detach().contiguous()
    out = torch.empty_like(weight)
    first_call(compiled, _rows(weight, step), step.detach().numpy(), *_limits(of), _rows(out, step))
    return out


class UniformScheme:
    """One kernel on a uniform grid, straight-through in training.

        w~ = s (clip(rint(w / s - o)) + o)

    - `range="max"`: the outermost level is the largest |w|; `"mse"`: s has the least squared error; `"learned"`: s is
      learned (LSQ), with gradient g_s = sum_i g_i (w~_i / s - [inside] w_i / s) / sqrt(n Q), Q the outermost level in steps.
    - `refresh`: the range of `max` and `mse` follows the weights in every so many training steps; 0 keeps it (post-training).
    - `first_step`: where a learned step starts: `"mean"` 2 mean|w| / sqrt(Q) as published, `"mse"` the least squared error.
      At 1 bit both are the best two levels, +-mean|w|.

    The weight's gradient passes where it is not clipped. What is learned is s relative to its start, with the gradient
    that makes a step of SGD exactly LSQ's; under Adam the learning rate is then relative to s, whatever the weights' size.
    **Source**: Esser et al. 2020, arXiv:1902.08153, on grids that are symmetric here.
    """

    def __init__(
        self,
        groups: int = 1,
        *,
        range: Range = "learned",
        refresh: int | None = None,
        first_step: Literal["mean", "mse"] = "mean",
    ) -> None:
        self.groups, self.range, self.first_step = groups, range, first_step
        self.refresh = {"max": 1, "mse": 100, "learned": 0}[range] if refresh is None else refresh
        self.grid = grid(1)
        self.first = torch.ones(groups)
        self.ratio = nn.Parameter(torch.ones(groups), requires_grad=range == "learned")
        self.steps, self.measured = 0, 0

    @property
    def is_hard(self) -> bool:
        """Always: training, too, sees the stored values."""
        return True

    def start(self, weight: Tensor, bits: int) -> None:
        """The first step of every block."""
        self.grid = grid(bits)
        self.first = self._measured(weight)
        self.ratio = nn.Parameter(torch.ones_like(self.first), requires_grad=self.range == "learned")

    def weight(self, weight: Tensor, *, hard: bool) -> Tensor:
        """The weight on its grid."""
        if not hard and self.refresh and self.steps - self.measured >= self.refresh and torch.is_grad_enabled():
            self.first, self.measured = self._measured(weight), self.steps
        ratio, first = self.ratio.to(weight.device), self.first.to(weight.device)
        found: Tensor = _Snapped.apply(weight, ratio, first, self.grid)  # type: ignore[no-untyped-call]
        return found

    def table(self, weight: Tensor) -> TableWeight:
        """Levels in steps, and steps."""
        with torch.no_grad():
            scale = spread(_steps(self.ratio.to(weight.device), self.first.to(weight.device)), weight)
            places = _places(weight, scale, self.grid) - self.grid.lowest
            return TableWeight(places.to(torch.uint8), self.grid.table().to(weight.device), scale)

    def parameters(self) -> list[nn.Parameter]:
        """The steps relative to their start, where they are learned."""
        return [self.ratio] if self.range == "learned" else []

    def penalty(self, weight: Tensor) -> Tensor | None:
        """None."""
        return None

    def step(self, progress: float) -> None:
        """Count, for `refresh`."""
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """First steps, and the learned ratio."""
        return {"first": self.first, "ratio": self.ratio.detach()}

    def restore(self, state: Mapping[str, Tensor], weight: Tensor, bits: int) -> None:
        """First steps, and the learned ratio."""
        self.grid = grid(bits)
        self.first = state["first"].detach().clone().to(weight.device)
        ratio = state["ratio"].detach().clone().to(weight.device)
        self.ratio = nn.Parameter(ratio, requires_grad=self.range == "learned")

    def _measured(self, weight: Tensor) -> Tensor:
        rows = blocks(weight.detach(), self.groups)
        if self.range == "max":
            return max_steps(rows, self.grid)
        if self.range == "mse" or self.first_step == "mse" or self.grid.bits == 1:
            return mse_steps(rows, self.grid)
        return (2 * rows.abs().mean(1) / math.sqrt(self.grid.reach)).clamp_min(SMALLEST_STEP)


class _Snapped(torch.autograd.Function):
    """The snapped weight; gradients of LSQ."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ratio: Tensor, first: Tensor, of: Grid) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(weight, ratio, first)
        ctx.grid = of
        return snap(weight, _steps(ratio, first), of)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        weight, ratio, first = ctx.saved_tensors
        slope, sums = _gradients(weight, upstream[0], _steps(ratio, first), ctx.grid)
        if not ctx.needs_input_grad[1]:
            return slope, None, None, None
        each = weight.numel() // len(first)
        return slope, sums.to(ratio) / (math.sqrt(each * ctx.grid.reach) * first), None, None


def _steps(ratio: Tensor, first: Tensor) -> Tensor:
    return first * ratio.detach().clamp_min(SMALLEST_RATIO)


def _places(weight: Tensor, scale: Tensor, of: Grid) -> Tensor:
    return (weight.detach() / scale - of.offset).round().clamp(of.lowest, of.highest)


def _gradients(weight: Tensor, upstream: Tensor, step: Tensor, of: Grid) -> tuple[Tensor, Tensor]:
    """Of the weight, and of each step [groups]."""
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        from slt_sub8bit.uniform_kernels import snap_gradient

        weight, upstream = weight.detach().contiguous(), upstream.contiguous()
        slope, sums = torch.empty_like(weight), np.zeros(len(step))
        rows = _rows(weight, step), _rows(upstream, step), step.numpy()
        first_call(snap_gradient, *rows, *_limits(of), _rows(slope, step), sums)
        return slope, torch.from_numpy(sums)
    x = weight.detach() / spread(step, weight)
    place = (x - of.offset).round()
    kept = place.clamp(of.lowest, of.highest)
    inside = place == kept
    each = upstream * (kept + of.offset - torch.where(inside, x, 0.0))
    return torch.where(inside, upstream, 0.0), blocks(each, len(step)).sum(1)


def _rows(weight: Tensor, step: Tensor) -> Any:
    return weight.view(len(step), -1).numpy()


def _limits(of: Grid) -> tuple[Any, Any, Any]:
    return np.float32(of.offset), np.float32(of.lowest), np.float32(of.highest)


def _errors(values: Any, logs: Any, of: Grid) -> Any:
    from slt_sub8bit.uniform_kernels import squared_errors

    errors = np.zeros(len(values))
    first_call(squared_errors, values, np.exp(logs).astype(np.float32), *_limits(of), errors)
    return errors


def _golden(values: Any, low: Any, high: Any, of: Grid) -> tuple[Any, Any]:
    """Golden-section search of every row at once, between logarithms of steps."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = _errors(values, left, of), _errors(values, right, of)
    for _ in range(REFINEMENTS):
        down = at_left < at_right
        low, high = np.where(down, low, left), np.where(down, right, high)
        new = np.where(down, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_new = _errors(values, new, of)
        left, right = np.where(down, new, right), np.where(down, left, new)
        at_left, at_right = np.where(down, at_new, at_right), np.where(down, at_left, at_new)
    is_left = at_left < at_right
    return np.where(is_left, left, right), np.minimum(at_left, at_right)

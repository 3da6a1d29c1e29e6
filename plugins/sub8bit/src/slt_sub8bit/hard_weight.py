"""The hard weight of a kernel: codes of nearest levels, and what they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from slt_sub8bit.scheme import decoded
from slt_sub8bit.soft_assignment import cells_of, in_threads, parts_of
from sltcore.types import TableWeight


def nearest_codes(weight: Tensor, scale: Tensor, borders: Tensor) -> Tensor:
    """How many of the sorted `borders` [J-1], float32, lie below weight / scale; uint8 of the weight's shape [rows ...]."""
    weight = weight.detach()
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return torch.bucketize(weight / scale, borders).to(torch.uint8)
    from slt_sub8bit.soft_kernels import nearest

    weight = weight.contiguous()
    codes = torch.empty_like(weight, dtype=torch.uint8)
    w, out, scales = _rows(weight), _rows(codes), scale.detach().reshape(-1).numpy()
    first, low, cells_per_unit = cells_of(borders.double().numpy())
    ends = np.append(borders.numpy(), np.float32(np.inf))

    def work(begin: int, end: int, part: int) -> None:
        own = scales if len(scales) == 1 else scales[begin:end]
        nearest(w[begin:end], own, first, low, cells_per_unit, ends, out[begin:end])

    in_threads(len(w), parts_of(w.size, len(w)), work)
    return codes


def hard_weight(weight: Tensor, codes: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    """`table[codes] * scale`: the gradient passes straight to `weight`, and the true one goes to `table`."""
    found: Tensor = _HardWeight.apply(weight, codes, table, scale)  # type: ignore[no-untyped-call]
    return found


class _HardWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, codes: Tensor, table: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(codes, scale)
        ctx.levels = len(table)
        if codes.device.type != "cpu" or table.dtype != torch.float32:
            return decoded(TableWeight(codes, table, scale))
        from slt_sub8bit.soft_kernels import decode

        out = torch.empty(codes.shape)
        values, scales = table.detach().numpy(), scale.reshape(-1).numpy()
        source, target = _rows(codes), _rows(out)

        def work(begin: int, end: int, part: int) -> None:
            decode(source[begin:end], values, scales if len(scales) == 1 else scales[begin:end], target[begin:end])

        in_threads(len(source), parts_of(source.size, len(source)), work)
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        codes, scale = ctx.saved_tensors
        g = upstream[0]
        if not ctx.needs_input_grad[2]:
            return g, None, None, None
        if codes.device.type != "cpu" or g.dtype != torch.float32:
            weights = (g * scale).flatten().double()
            return g, None, torch.bincount(codes.flatten(), weights=weights, minlength=ctx.levels).to(g.dtype), None
        from slt_sub8bit.soft_kernels import gather

        scales = scale.reshape(-1).numpy()
        source, arriving = _rows(codes), _rows(g.contiguous())
        parts = parts_of(source.size, len(source))
        sums = np.zeros((parts, ctx.levels, 2))

        def work(begin: int, end: int, part: int) -> None:
            own = scales if len(scales) == 1 else scales[begin:end]
            gather(source[begin:end], arriving[begin:end], own, sums[part])

        in_threads(len(source), parts, work)
        return g, None, torch.from_numpy(sums.sum((0, 2))).to(g.dtype), None


def _rows(values: Tensor) -> Any:
    """As a matrix [rows columns], in numpy."""
    return values.view(values.shape[0], -1).numpy()

"""Activations rounded to 8 bits row by row in one pass, with a straight-through gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from slt_sub8bit.integer_linear import int8_rows
from slt_sub8bit.packing import MOST_LEVEL
from sltcore.alignment.compiled import first_call


def rounded_rows(x: Tensor) -> Tensor:
    """`x8 * step` of `int8_rows`, to the bit where a row is finite; the gradient passes as it is.

    **Shapes**: x [... f], any floating-point type; the result is as x. A row with a value that is not finite becomes NaN.
    """
    found: Tensor = _Rounded.apply(x)  # type: ignore[no-untyped-call]
    return found


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        if x.device.type == "cpu" and x.dtype == torch.float32 and x.numel():
            return _compiled(x.detach().contiguous())
        values, step = int8_rows(x.detach().float())
        return (values * torch.where(step.isfinite(), step, torch.nan)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0]


def _compiled(x: Tensor) -> Tensor:
    from slt_sub8bit.rounding_kernels import largest, round_rows

    out = torch.empty_like(x)
    values = x.view(-1, x.shape[-1]).numpy()
    tops = np.empty(len(values), np.int32)
    first_call(largest, values.view(np.int32), tops)
    most = tops.view(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverses = np.where(most > 0, np.float32(MOST_LEVEL) / most, np.float32(0.0))
    steps = most / np.float32(MOST_LEVEL)
    first_call(round_rows, values, most, inverses, steps, out.view(-1, x.shape[-1]).numpy())
    return out

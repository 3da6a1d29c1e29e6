"""A linear layer in 8-bit integers: what every kernel computes to the bit, written in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from slt_sub8bit.packing import MOST_LEVEL

TINY = 1e-30


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of x `[... f]` in 8 bits: int8 `[... f]`, and its step float32 `[... 1]`.

    step = max|x| / 127; x8 = round(x * (127 / max|x|)), half to even; a row below 1e-30 becomes zeros. So does one that is
    not finite, but its step is not finite either, and so the layer's output is NaN.
    """
    most = x.abs().amax(dim=-1, keepdim=True)
    quotient = torch.full_like(most, MOST_LEVEL) / most  # a number over a tensor would be rounded twice
    inverse = torch.where((most > TINY) & most.isfinite(), quotient, 0.0)
    return (x * inverse).nan_to_num_(nan=0.0).round_().to(torch.int8), most / MOST_LEVEL


def int8_linear(x: Tensor, integers: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x_step * (x8 . w8) * scale + bias of x `[... f]` and w8 int8 `[rows f]`; y float32 `[... rows]`.

    `scale` is float32 of one number or `[rows]`. The sums are exact in 32 bits, so every order gives the same bits.
    """
    x8, step = int8_rows(x.reshape(-1, x.shape[-1]).float())
    y = torch._int_mm(x8, integers.t()).float().mul_(step).mul_(scale.reshape(-1))
    if bias is not None:
        y.add_(bias)
    return y.reshape(*x.shape[:-1], integers.shape[0])

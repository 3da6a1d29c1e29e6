"""A linear layer in 8-bit integers: what every kernel computes to the bit, written in torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slt_sub8bit.packing import MOST_LEVEL

TINY = 1e-30
EXACT_COLUMNS = 2**24 // (MOST_LEVEL + 1) ** 2
"""Products of bytes whose sum float32 holds exactly, in every order."""


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
    y = _product(x8, integers).float().mul_(step).mul_(scale.reshape(-1))
    if bias is not None:
        y.add_(bias)
    return y.reshape(*x.shape[:-1], integers.shape[0])


def _product(x8: Tensor, integers: Tensor) -> Tensor:
    """x8 `[t f]` times the transpose of int8 `[rows f]`: int32 `[t rows]`, exact on every processor."""
    columns = x8.shape[1]
    if x8.is_cpu and HAS_EXACT_PRODUCT:
        # torch misreads the stride of an axis of one (pytorch/pytorch, issue 195066): new views have the expected ones
        turned = integers.t() if columns > 1 else integers.reshape(-1).view(1, -1)
        return torch._int_mm(x8.reshape(-1).view(-1, columns), turned)
    total = torch.zeros(x8.shape[0], integers.shape[0], dtype=torch.int32, device=x8.device)
    with torch.autocast(x8.device.type, enabled=False):
        for start in range(0, columns, EXACT_COLUMNS):
            part = slice(start, start + EXACT_COLUMNS)
            total += F.linear(x8[:, part].float(), integers[:, part].float()).to(torch.int32)
    return total


def has_exact_product() -> bool:
    """Whether torch's product of bytes is exact here: processors without VNNI cut sums of two products off at 16 bits."""
    x8 = torch.full((17, 64), MOST_LEVEL, dtype=torch.int8, device="cpu")
    expected = 64 * MOST_LEVEL**2
    return all(bool((torch._int_mm(x8[:t], x8[:n].t()) == expected).all()) for t in (1, 17) for n in (1, 17))


HAS_EXACT_PRODUCT = has_exact_product()

"""Weights, biases and constants as symmetric codes, and exact products with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_nna.emulated import kernels
from slt_nna.emulated.arithmetic import Arithmetic
from slt_nna.emulated.passes import Passes, array, on_cpu
from slt_nna.grid import Grid, NotFiniteError, is_power, weight_scale
from sltcore.errors import PluginError

EXACT_FLOAT32 = float(1 << 24)
EXACT_FLOAT64 = float(1 << 53)
PLAIN_SCALES = (2.0**-50, 2.0**50)
"""Powers of two by which values take part in float32 products as they are: no product leaves the normal numbers."""


class Codes(NamedTuple):
    """A weight [rows columns] on the chip.

    `operand` takes part in products: its codes times `unit`; `values` are codes times `scale` (one, or one for each row);
    `largest` is the largest sum of |code| over a row.
    """

    operand: Tensor
    unit: float
    values: Tensor
    scale: float | npt.NDArray[np.float64]
    largest: float


def quantized(arithmetic: Arithmetic, weight: Tensor, bits: int, *, channels: bool = False) -> Codes:
    """The codes of a weight, whose first axis are output channels; other axes become columns."""
    chip = arithmetic.chip
    w = weight.detach().float().flatten(1).contiguous() if weight.ndim > 1 else weight.detach().float().reshape(1, -1)
    most = float((1 << (bits - 1)) - 1)
    if channels:
        largest = w.abs().amax(1).tolist() if w.numel() else [0.0] * len(w)
        scales = [weight_scale(chip, each, bits) for each in largest]
    else:
        low, high = (float(each) for each in torch.aminmax(w)) if w.numel() else (0.0, 0.0)
        scales = [weight_scale(chip, max(-low, high), bits)]
    plain = not channels and is_plain(scales[0])
    held = np.array(scales, dtype=np.float64)
    if not on_cpu(w):
        return _elsewhere(w, held, most, plain)
    values, codes, sums = torch.empty_like(w), torch.empty_like(w) if not plain else w, np.zeros(len(w))
    kernels.quantize_weight(array(w), held, most, array(values), array(codes), sums, not plain)
    largest_sum = float(sums.max()) if len(sums) else 0.0
    scale: Any = held if channels else scales[0]
    return Codes(values if plain else codes, scales[0] if plain else 1.0, values, scale, largest_sum)


def _elsewhere(w: Tensor, scales: npt.NDArray[np.float64], most: float, plain: bool) -> Codes:
    held = torch.from_numpy(scales).to(w.device)[:, None]
    codes = torch.round(w.double() / held).clamp(-most, most)
    values = (codes * held).float()
    largest = float(codes.abs().sum(1).max()) if w.numel() else 0.0
    scale: Any = scales if len(scales) > 1 else float(scales[0])
    return Codes(values if plain else codes.float(), float(scales[0]) if plain else 1.0, values, scale, largest)


def is_plain(scale: float) -> bool:
    """Whether values on a grid of that scale may stand for their codes in a product."""
    return is_power(scale) and PLAIN_SCALES[0] <= scale <= PLAIN_SCALES[1]


def operand(passes: Passes, x: Tensor, grid: Grid) -> tuple[Tensor, float]:
    """What of a chip tensor takes part in products: codes times the second."""
    return (x, grid.scale) if is_plain(grid.scale) else (passes.codes(x, grid), 1.0)


def bias_codes(
    arithmetic: Arithmetic, bias: Tensor | None, scale: float | npt.NDArray[np.float64]
) -> tuple[Tensor | None, Tensor | None]:
    """A bias at the scale of the products, and a mask of what was not clipped, None where nothing was."""
    if bias is None:
        return None, None
    bits = arithmetic.chip.words.bias
    most = float((1 << (bits - 1)) - 1)
    given = bias.detach().double()
    held = torch.as_tensor(scale, dtype=torch.float64, device=given.device)
    exact = torch.round(given / held)
    clipped = exact.clamp(-most - 1.0, most)
    kept = clipped == exact
    if not bool(kept.all()) and not bool(given.isfinite().all()):
        raise NotFiniteError("a bias is nan or inf")
    return clipped.long(), None if bool(kept.all()) else kept


def exact_type(bound: float) -> torch.dtype:
    """The float type whose sums of integers below `bound` are exact in any order.

    **Raises** `PluginError` where none is: words have 16 bits at most, so a sum of more than eight million products.
    """
    if bound < EXACT_FLOAT32 and torch.get_float32_matmul_precision() == "highest":
        return torch.float32
    if bound < EXACT_FLOAT64:
        return torch.float64
    raise PluginError(
        f"nna: a sum of products may reach {bound:g}, and only those below 2^53 are exact; make the layer or its words smaller"
    )


def largest_code(x: Tensor, grid: Grid) -> float:
    """The largest magnitude among the codes of a chip tensor."""
    if x.numel() == 0:
        return 0.0
    low, high = torch.aminmax(x.detach())
    return float(max(-float(low), float(high)) / grid.scale)


def overflows(arithmetic: Arithmetic, bound: float) -> bool:
    """Whether partial sums below `bound` may leave the accumulator."""
    return bound > arithmetic.accumulator.most


def tiled(
    passes: Passes, shape: tuple[int, ...], bias: Tensor | None, parts: Sequence[Callable[[], Tensor]], inverse: float,
    device: torch.device,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The accumulator after one tile after the other, narrowed behind each: float64 integers, and what never overflowed.

    `bias` broadcasts against `shape`.
    """
    acc = torch.zeros(shape, dtype=torch.float64, device=device)
    if bias is not None:
        acc += bias
    mask = torch.ones(shape, dtype=torch.uint8, device=device)
    for part in parts:
        acc = passes.accumulate(acc, part(), inverse, mask)
    return acc, mask

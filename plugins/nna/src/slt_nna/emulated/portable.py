"""The passes of `kernels` and `row_kernels` in torch's own operators, for tensors that are not in the CPU's memory.

The same arguments and the same numbers, bit for bit; counts of overflows are left out where they would stop the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slt_nna.emulated.arithmetic import Limits, narrowed_tensor, rescaled_tensor

if TYPE_CHECKING:
    from slt_nna.emulated.arithmetic import Rescale

_ROUNDED = (
    lambda y: torch.floor(y + 0.5),
    lambda y: torch.copysign(torch.floor(y.abs() + 0.5), y),
    torch.round,
    torch.floor,
)


def integers(x: Tensor, inverse: float) -> Tensor:
    """Codes of values; 0 where they are excluded."""
    y = torch.round(x.double() * inverse)
    return torch.where(torch.isfinite(y), y, 0.0).long()


def values(codes: Tensor, scale: float) -> Tensor:
    """float32(code * scale)."""
    return (codes.double() * scale).float()


def requantize(
    acc: Tensor,
    inverse: float,
    bias: Tensor | None,
    numbers: tuple[Any, ...],
    register: Limits,
    word: Limits,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Accumulate the bias, rescale, narrow; all tensors broadcast against `acc`."""
    v = torch.round(acc.double() * inverse).long()
    if bias is not None:
        v = v + bias
    u = narrowed_tensor(v, register)
    z = rescaled_tensor(u, numbers)
    y = narrowed_tensor(z, word)
    return values(y, scale), (y == z) & (u == v)


def accumulate(acc: Tensor, part: Tensor, inverse: float, register: Limits) -> tuple[Tensor, Tensor]:
    """S_A(acc + part), and where nothing was clipped."""
    v = acc.long() + torch.round(part.double() * inverse).long()
    u = narrowed_tensor(v, register)
    return u.double(), u == v


def enter(x: Tensor, scale: float, rounding: int, word: Limits) -> tuple[Tensor, Tensor]:
    """Float numbers to codes; what a code stands for, rounded to float32, is that code."""
    y = x.double() / scale
    near = torch.round(y)
    y = torch.where((near * scale).float() == x, near, _ROUNDED[rounding](y))
    y = torch.where(torch.isnan(y), 0.0, y)
    z = y.clamp(word.least, word.most)
    return (z * scale).float(), z == y


def add(
    a: Tensor, inverse_a: float, first: Rescale, b: Tensor, inverse_b: float, second: Rescale, sign: int, word: Limits,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """S_b(rescale(a) + sign * rescale(b))."""
    z = rescaled_tensor(integers(a, inverse_a), first.numbers)
    z = z + sign * rescaled_tensor(integers(b, inverse_b), second.numbers)
    return _kept(z, word, scale, torch.isfinite(a) & torch.isfinite(b))


def multiply(
    a: Tensor, inverse_a: float, b: Tensor, inverse_b: float, step: Rescale, word: Limits, scale: float
) -> tuple[Tensor, Tensor]:
    """S_b(rescale(a * b))."""
    z = rescaled_tensor(integers(a, inverse_a) * integers(b, inverse_b), step.numbers)
    return _kept(z, word, scale, torch.isfinite(a) & torch.isfinite(b))


def gate(
    a: Tensor, inverse_a: float, b: Tensor, places: Tensor, entries: Tensor, step: Rescale, word: Limits, scale: float
) -> tuple[Tensor, Tensor]:
    """S_b(rescale(a * entries[b]))."""
    z = rescaled_tensor(integers(a, inverse_a) * entries[places].long(), step.numbers)
    return _kept(z, word, scale, torch.isfinite(a) & torch.isfinite(b))


def places(x: Tensor, inverse: float, word: Limits) -> Tensor:
    """The places of codes in a map of all codes, of which the first is for excluded ones."""
    return torch.round(x.double() * inverse).clamp(word.least - 1, word.most).long() - (word.least - 1)


def softmax(x: Tensor, inverse: float, entries: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Probabilities over the last axis."""
    terms = _terms(x, inverse, entries).long()
    total = terms.sum(-1, keepdim=True)
    z = torch.div((terms << (bits - 1)) + (total >> 1), total.clamp(min=1), rounding_mode="floor")
    z = torch.where(total > 0, z, 0)
    y = z.clamp(max=(1 << (bits - 1)) - 1)
    return values(y, 2.0 ** -(bits - 1)), y == z


def softmax_gradient(gradient: Tensor, mask: Tensor, x: Tensor, inverse: float, entries: Tensor) -> Tensor:
    """p * (g - sum g p)."""
    terms = _terms(x, inverse, entries)
    p = terms / terms.sum(-1, keepdim=True).clamp(min=torch.finfo(terms.dtype).tiny)
    g = gradient * mask
    result: Tensor = p * (g - (g * p).sum(-1, keepdim=True))
    return result


def layer_norm(
    x: Tensor, scale_x: float, drop: int, offset: int, gain: Tensor, shift_by: Tensor, step: Rescale, word: Limits,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Normalised values times gains plus shifts, over the last axis."""
    codes = integers(x, 1.0 / scale_x)
    columns = codes.shape[-1]
    t = (columns * codes - codes.sum(-1, keepdim=True)) >> drop
    v = (t * t).sum(-1, keepdim=True).div(columns, rounding_mode="floor") + offset
    sigma = v.double().sqrt().long()
    sigma = sigma - (sigma * sigma > v).long()
    sigma = sigma + ((sigma + 1) * (sigma + 1) <= v).long()
    n = torch.div(t * 4096 + (sigma >> 1), sigma.clamp(min=1), rounding_mode="floor")
    n = torch.where(sigma > 0, n, 0)
    z = rescaled_tensor(n * gain + shift_by, step.numbers)
    y = narrowed_tensor(z, word)
    return values(y, scale), y == z


def _terms(x: Tensor, inverse: float, entries: Tensor) -> Tensor:
    there = torch.isfinite(x)
    largest = x.amax(-1, keepdim=True)
    top = torch.where(torch.isfinite(largest), torch.round(largest.double() * inverse), 0.0)
    distance = torch.where(there, top - torch.round(torch.where(there, x, 0.0).double() * inverse), 0.0)
    return torch.where(there, entries[distance.long()], 0)


def _kept(z: Tensor, word: Limits, scale: float, there: Tensor) -> tuple[Tensor, Tensor]:
    y = narrowed_tensor(z, word)
    return torch.where(there, values(y, scale), -torch.inf), (y == z) & there

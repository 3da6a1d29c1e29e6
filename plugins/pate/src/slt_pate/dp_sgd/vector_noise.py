"""Gaussian noise for millions of weights at once, from a cryptographic source."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from slt_pate.dp_sgd.random_stream import RandomStream

CHUNK = 1 << 16
"""How many values at a time stay in a fast memory."""
POSITIVE = 2**63 - 1


def whole_gaussian(sigma: float, size: int, stream: RandomStream) -> Tensor:
    """Gaussian noise of standard deviation `sigma` rounded to whole numbers, float64 [size].

    The law of `slt_pate.noise.rounded_gaussian`, in about a third of its time: Box-Muller in float64 by torch's vector functions, 63
    bits for the radius and 32 for the angle of two values, none beyond 9.4 sigma. It is not exact: use it where the sum is
    rounded to cells much coarser than float64 resolves, as `ClippedSum.release` does. `stream`
    is keyed by the operating system; nothing comes from a seed.
    """
    pairs = (size + 1) // 2
    words = stream.read(8 * pairs).view(np.int64)
    radius = torch.from_numpy(np.bitwise_and(words, POSITIVE).astype(np.float64)).add_(0.5).mul_(2.0**-63)
    radius.log_().mul_(-2 * sigma * sigma).sqrt_()
    angle = torch.from_numpy(stream.read(4 * pairs).view(np.int32).astype(np.float64))
    angle.mul_(math.pi / 2**31)
    found = torch.empty(size, dtype=torch.float64)
    torch.mul(radius, angle.cos(), out=found[:pairs])
    torch.mul(radius[: size - pairs], angle.sin_()[: size - pairs], out=found[pairs:])
    return found.round_()

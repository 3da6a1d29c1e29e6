"""Numbers drawn from a generator, one at a time, wherever the generator lives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator


def unit(generator: Generator) -> float:
    """Uniform in [0, 1)."""
    return float(torch.rand((), generator=generator, device=generator.device, dtype=torch.float64))


def uniform(low: float, high: float, generator: Generator) -> float:
    """Uniform in [low, high)."""
    return low + (high - low) * unit(generator)


def whole(low: int, high: int, generator: Generator) -> int:
    """A whole number from low to high, both included."""
    return min(high, low + int(unit(generator) * (high - low + 1)))


def choice(options: Sequence[float], generator: Generator) -> float:
    """One of the options, all equally likely."""
    return options[whole(0, len(options) - 1, generator)]

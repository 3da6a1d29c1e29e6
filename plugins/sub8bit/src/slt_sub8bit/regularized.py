"""Fixed levels and a penalty that draws weights to them, after S8BQAT."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from slt_sub8bit.lloyd_max import LloydMaxScheme
from slt_sub8bit.scheme import spread

SMALLEST_GAP = 1e-12


class RegularizedScheme(LloydMaxScheme):
    """One kernel on fixed Lloyd-Max levels of its float weights, with a periodic penalty between them.

        R = strength / n sum_i |sin(pi (u_i - c_k) / (c_{k+1} - c_k))|,  c_k <= u_i <= c_{k+1},  u = w / scale

    Every region between two levels is half a period with its zeros on the levels and height 1, so that R is between 0 and
    `strength` for each kernel, whatever its size; beyond the outer levels it goes on as a straight line with the slope
    it has there. In training the forward pass is the float weight (`forward="plain"`), except in every `compress_every`-th
    step, where the hard compressor puts the nearest levels in its place to show training what run time will see; or it is
    always the nearest levels (`"straight-through"`). From `hard_from` of training on it is the nearest levels in both.

    **Source**: Zhen et al. 2022, arXiv:2206.15408 (S8BQAT): fixed Lloyd-Max centroids, multi-regional absolute cosine, hard
    compressor. The regions' formula, the mean over weights, the line outside and `hard_from` are ours; the compressor stands
    in the forward pass and does not overwrite the float weight.
    """

    def __init__(
        self,
        groups: int = 1,
        *,
        strength: float = 0.1,
        compress_every: int = 10,
        forward: Literal["plain", "straight-through"] = "plain",
        hard_from: float = 0.9,
    ) -> None:
        super().__init__(groups)
        self.strength, self.compress_every, self.forward, self.hard_from = strength, compress_every, forward, hard_from
        self.steps, self.progress = 0, 0.0

    @property
    def is_hard(self) -> bool:
        """Whether every training step from here on sees the stored values."""
        return self.forward == "straight-through" or self.progress >= self.hard_from

    def weight(self, weight: Tensor, *, hard: bool) -> Tensor:
        """The weight itself, or its nearest levels; see the class."""
        compressed = self.compress_every > 0 and self.steps > 0 and self.steps % self.compress_every == 0
        return super().weight(weight, hard=hard) if hard or self.is_hard or compressed else weight

    def penalty(self, weight: Tensor) -> Tensor | None:
        """R, differentiable in the weight."""
        if len(self.levels) < 2 or self.strength == 0:
            return None
        levels = self.levels.to(weight.device)
        u = weight / spread(self.scale.to(weight.device), weight)
        gaps = levels.diff().clamp_min(SMALLEST_GAP)
        region = (torch.bucketize(u.detach(), levels) - 1).clamp(0, len(gaps) - 1)
        part = (u - levels[region]) / gaps[region]
        outside = (part - part.detach().clamp(0.0, 1.0)).abs()
        inside = torch.sin(math.pi * part.clamp(0.0, 1.0))
        return self.strength * (inside.abs() + math.pi * outside).mean()

    def step(self, progress: float) -> None:
        """Count for the compressor."""
        self.progress = progress
        self.steps += 1

"""Small models and data for the tests of DP-SGD, and sums of clipped gradients by other means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.testing import fit as toy

Row = dict[str, Any]


def rows(units: int = 12, each: int = 2, seed: int = 0) -> list[Row]:
    """Tones of the toy fit, `each` of every speaker."""
    found = toy.rows(units * each, seed=seed)
    return [{**row, "id": f"r{k}", "speaker": f"s{k // each}"} for k, row in enumerate(found)]


class Frames(nn.Module):
    """Losses [b] of frames [b t f] and labels [b]: what Opacus can take apart (linear, norm, convolution, embedding)."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.enter = nn.Linear(5, width)
        self.norm = nn.LayerNorm(width)
        self.shift = nn.Conv1d(width, width, 3, padding=1, groups=2)
        self.leave = nn.Linear(width, 4)

    def forward(self, frames: Tensor, labels: Tensor) -> Tensor:
        inner = torch.tanh(self.norm(self.enter(frames)))
        inner = self.shift(inner.transpose(1, 2)).transpose(1, 2)
        return nn.functional.cross_entropy(self.leave(inner.mean(1)), labels, reduction="none")


def frames_and_labels(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random input for `Frames`; utterances differ much in how large their gradients are."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.logspace(-2, 1, count)[:, None, None]
    return size * torch.randn(count, 7, 5, generator=generator), torch.randint(4, (count,), generator=generator)


def clipped_by_hand(
    model: nn.Module, losses_of_unit: Sequence[Tensor], clips: Sequence[tuple[list[str], float]]
) -> dict[str, Tensor]:
    """sum_u g_u min(1, clip / |g_u|) in float64 for groups of parameters, by torch.autograd.grad and a loop."""
    named = dict(model.named_parameters())
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in named.items()}
    for loss in losses_of_unit:
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        own = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}
        for names, clip in clips:
            norm = math.sqrt(sum(float(own[name].double().square().sum()) for name in names))
            for name in names:
                sums[name] += own[name].double() * min(1.0, clip / norm)
    return sums

"""Small models, and updates that look trained: every tensor random, norms and all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slt_residual_adapters.base_hash import hash_model
from slt_residual_adapters.update import Update

WIDTH = 6


class Tower(nn.Module):
    """Three blocks with batch norm and dropout and a head: [b t 6] -> [b t 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.head(x)
        return result


class Block(nn.Module):
    """Linear, batch norm over the last axis, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.norm(torch.tanh(self.linear(x)).mT).mT)
        return result


def tower(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tower:
    """The same model for the same seed, in evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tower().to(dtype).eval()


def frames(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Random input [b t 6] (2, 5 where no shape is given)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (2, 5)), WIDTH, generator=generator, dtype=torch.float64).to(dtype)


def drawn_update(
    model: nn.Module,
    name: str,
    *,
    places: Sequence[str] = ("blocks.0", "blocks.1", "blocks.2"),
    rank: int = 3,
    d: int = WIDTH,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> Update:
    """An update of this name, which decides its numbers."""
    generator = torch.Generator().manual_seed(sum(ord(letter) * 31**k for k, letter in enumerate(name)) % 2**31)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    tensors = {
        place: {"gain": draw(d), "bias": draw(d), "down": draw(rank, d), "up": 0.3 * draw(d, rank)} for place in places
    }
    return Update(name, hash_model(model), tensors, **more)


def by_hand(update: Update, place: str, value: Tensor) -> Tensor:
    """`up silu(down LN(y))` written out, in float64."""
    parts = {name: tensor.double() for name, tensor in update.tensors[place].items()}
    value = value.double()
    centred = value - value.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + update.eps).sqrt()
    hidden = (normed * parts["gain"] + parts["bias"]) @ parts["down"].T
    return (hidden / (1 + torch.exp(-hidden))) @ parts["up"].T

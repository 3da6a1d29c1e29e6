"""How the updates at one place become one change: parallel sum, average, learned attention, stacking, gating."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_residual_adapters.branches import EPS

Mode = Literal["sum", "average", "attention", "stack", "gate"]
LEARNED = ("attention", "gate")
ATTENTION_WIDTH = 32


class Term(NamedTuple):
    """One update at one place: its branch, its weight, and by which row it counts ([.. 1] of ones and zeros, None: all)."""

    name: str
    branch: nn.Module
    weight: float
    on: Tensor | None = None

    def added(self, value: Tensor, source: Tensor) -> Tensor:
        """`w A(y)` [.. d]."""
        found: Tensor = self.branch(source if getattr(self.branch, "reads_input", False) else value)
        found = found if self.weight == 1.0 else found * self.weight
        return found if self.on is None else found * self.on


def plain_sum(value: Tensor, source: Tensor, terms: Sequence[Term]) -> Tensor:
    """`Σ_k w_k A_k(y)` [.. d]: every update sees the same y."""
    total = terms[0].added(value, source)
    for term in terms[1:]:
        total = total + term.added(value, source)
    return total


def stacked(value: Tensor, source: Tensor, terms: Sequence[Term]) -> Tensor:
    """The change [.. d] of `y <- y + w_k A_k(y)`, one after the other in the order of `terms`."""
    current = value
    for term in terms:
        current = current + term.added(current, source)
    return current - value


class AttentionFusion(nn.Module):
    """`Σ_k p_k w_k A_k(y) W_v`, where p = softmax_k(N(y) W_q · A_k(y) W_k / sqrt(a)) over the updates that are on.

    `W_q`, `W_k` [a d], `W_v` [d d], N a layer norm without parameters. It starts as the average: W_k is zero and W_v the
    identity. Nothing in it belongs to a single update, so their order and number are free.

    **Source**: Pfeiffer et al., AdapterFusion, arXiv:2005.00247, equations 1 to 4. Deviations: queries and keys are narrow
    and scores divided by sqrt(a); queries are normalised; nothing decays.
    """

    def __init__(self, d: int, *, width: int = ATTENTION_WIDTH, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        how = {"dtype": dtype, "device": device}
        self.query = nn.Parameter(torch.randn(width, d, **how) / math.sqrt(d))  # type: ignore[call-overload]
        self.key = nn.Parameter(torch.zeros(width, d, **how))  # type: ignore[call-overload]
        self.value = nn.Parameter(torch.eye(d, **how))  # type: ignore[call-overload]

    def forward(self, value: Tensor, source: Tensor, terms: Sequence[Term]) -> Tensor:
        """The change [.. d]; 0 for rows for which no update is on."""
        added = torch.stack([term.added(value, source) for term in terms], dim=-2)  # [.. k d]
        query = functional.linear(functional.layer_norm(value, value.shape[-1:], None, None, EPS), self.query)
        scores = (functional.linear(added, self.key) @ query[..., None])[..., 0] / math.sqrt(len(self.query))
        if any(term.on is not None for term in terms):
            on = torch.cat([_present(term, value) for term in terms], dim=-1)
            scores = scores.masked_fill(on == 0, torch.finfo(scores.dtype).min)
        shares = torch.softmax(scores, dim=-1)
        return functional.linear((shares[..., None] * added).sum(-2), self.value)


class Rows(nn.Module):
    """Parameters by any name, also one that a method of `nn.ParameterDict` has."""

    def __init__(self, rows: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._parameters.update(rows)

    def __getitem__(self, name: str) -> Tensor:
        found = self._parameters[name]
        assert found is not None
        return found


class GateFusion(nn.Module):
    """`Σ_k g_k w_k A_k(y)` with `g_k = 2 sigmoid(v_k · N(y) + c_k)`, a classifier of each frame for each update.

    It starts as the sum: v_k [d] and c_k are zero, so g_k is 1. `rows` holds v_k and c_k by the name of the update.
    """

    def __init__(self, d: int, names: Sequence[str], *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        fresh = {name: nn.Parameter(torch.zeros(d + 1, dtype=dtype, device=device)) for name in names}
        self.rows = Rows(fresh)

    def gates(self, value: Tensor, terms: Sequence[Term]) -> Tensor:
        """g [.. k] of each frame for each update."""
        normed = functional.layer_norm(value, value.shape[-1:], None, None, EPS)
        weights = torch.stack([self.rows[term.name] for term in terms])
        return 2.0 * torch.sigmoid(functional.linear(normed, weights[:, :-1], weights[:, -1]))

    def forward(self, value: Tensor, source: Tensor, terms: Sequence[Term]) -> Tensor:
        """The change [.. d]."""
        gates = self.gates(value, terms)
        total = gates[..., :1] * terms[0].added(value, source)
        for place, term in enumerate(terms[1:], 1):
            total = total + gates[..., place : place + 1] * term.added(value, source)
        return total


def _present(term: Term, value: Tensor) -> Tensor:
    shape = (*value.shape[:-1], 1)
    return value.new_ones(shape) if term.on is None else term.on.expand(shape)


def make_fusion(
    mode: Mode, d: int, names: Sequence[str], *, width: int, dtype: torch.dtype, device: torch.device
) -> nn.Module | None:
    """The learned part of a fusion at one place; None where there is nothing to learn."""
    if mode == "attention":
        return AttentionFusion(d, width=width, dtype=dtype, device=device)
    if mode == "gate":
        return GateFusion(d, names, dtype=dtype, device=device)
    return None

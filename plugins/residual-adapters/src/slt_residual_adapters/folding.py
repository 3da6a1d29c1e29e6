"""Many branches at one place as one of the summed width, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from slt_residual_adapters.branches import Piece

ROWS_AT_ONCE = 512
"""Rows [.. d] whose hidden values are computed together: those of 16 updates of rank 32 then stay in a core's cache."""

IN_PLACE: Mapping[str, Callable[[Tensor], object]] = {
    "silu": lambda hidden: functional.silu(hidden, inplace=True),
    "relu": torch.relu_,
    "gelu": lambda hidden: hidden.copy_(functional.gelu(hidden)),
    "tanh": torch.tanh_,
    "identity": lambda hidden: hidden,
}


class Group(NamedTuple):
    """Branches that read the same thing through the same function, side by side: `down` [d R] and `up` [R d] as matrix
    products take them, `shift` [R], and where each branch's hidden units stand: (number of the branch, first, stop)."""

    down: Tensor
    shift: Tensor
    up: Tensor
    activation: str
    eps: float | None
    spans: tuple[tuple[int, int, int], ...]


class Folded:
    """`y + Σ_k w_k A_k(y)` with two matrix products instead of 2 K.

    With N(y) = (y - mean) / sqrt(var + eps), the same for all:
    `w_k up_k act(down_k (g_k N(y) + b_k)) = (w_k up_k) act((down_k diag g_k) N(y) + down_k b_k)`, and since act works on one
    number at a time, stacking the rows of the first matrix and the columns of the second gives the sum. Branches that
    differ in act or eps, and low-rank ones, form groups of their own. Matrices are folded in float64 and then rounded.

    **Source**: the identity is ours; the tests check it against the sum.
    """

    def __init__(
        self, pieces: Sequence[Piece], weights: Sequence[float], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        order = sorted(
            range(len(pieces)), key=lambda k: (pieces[k].activation, pieces[k].eps is None, pieces[k].eps or 0)
        )
        kinds = groupby(order, key=lambda k: (pieces[k].activation, pieces[k].eps))
        self.groups = [
            _grouped([(k, pieces[k], weights[k]) for k in members], dtype=dtype, device=device) for _, members in kinds
        ]

    @property
    def width(self) -> int:
        """Hidden units altogether, Σ r_k."""
        return sum(group.down.shape[1] for group in self.groups)

    def __call__(self, value: Tensor, source: Tensor, scales: Tensor | None = None) -> Tensor:
        """`value` [.. d] with the sum added; `source` [.. i] is what low-rank branches read. `scales` [.. k] multiply each
        branch, by row. Works in the type of the folded matrices, also under autocast. Gives no gradients."""
        d = value.shape[-1]
        flat, read = value.reshape(-1, d), source.reshape(-1, source.shape[-1])
        by_row = None if scales is None else scales.expand(*value.shape[:-1], scales.shape[-1]).reshape(len(flat), -1)
        out = torch.empty_like(flat)
        device = value.device.type
        apart = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
        with apart:  # it knows no products that are written into given memory
            for first in range(0, len(flat), ROWS_AT_ONCE):
                rows = slice(first, first + ROWS_AT_ONCE)
                part = None if by_row is None else by_row[rows]
                self._add(flat[rows], read[rows], part, out[rows])
        whole = out.view(value.shape)
        # What follows may multiply in another order for another layout in memory, so that of `value` is kept.
        return whole if value.is_contiguous() else torch.empty_like(value).copy_(whole)

    def _add(self, value: Tensor, source: Tensor, scales: Tensor | None, out: Tensor) -> None:
        current = value
        for group in self.groups:
            seen = (source if group.eps is None else value).to(group.down.dtype)
            if group.eps is not None:
                seen = functional.layer_norm(seen, seen.shape[-1:], None, None, group.eps)
            hidden = torch.addmm(group.shift, seen, group.down)
            IN_PLACE[group.activation](hidden)
            if scales is not None:
                for branch, first, stop in group.spans:
                    hidden[:, first:stop] *= scales[:, branch : branch + 1]
            if hidden.dtype == value.dtype:
                torch.addmm(current, hidden, group.up, out=out)
            else:
                torch.add(current, (hidden @ group.up).to(value.dtype), out=out)
            current = out
        if current is value:
            out.copy_(value)


def _grouped(members: Sequence[tuple[int, Piece, float]], *, dtype: torch.dtype, device: torch.device) -> Group:
    down = torch.cat([piece.down for _, piece, _ in members])
    shifts = [piece.down.new_zeros(len(piece.down)) if piece.shift is None else piece.shift for _, piece, _ in members]
    up = torch.cat([weight * piece.up for _, piece, weight in members], dim=1)
    spans, first = [], 0
    for branch, piece, _ in members:
        spans.append((branch, first, first + len(piece.down)))
        first += len(piece.down)
    how = {"dtype": dtype, "device": device}
    return Group(
        down.T.contiguous().to(**how),  # type: ignore[call-overload]
        torch.cat(shifts).to(**how),  # type: ignore[call-overload]
        up.T.contiguous().to(**how),  # type: ignore[call-overload]
        members[0][1].activation,
        members[0][1].eps,
        tuple(spans),
    )

"""The transducer loss and its gradient by torch operations along the diagonals of the lattice, for any device.

All cells of a diagonal t + u = d depend only on the one before: t + u steps of a few operations on [b u+1], instead of
t u. The last step of a path is a blank into the cell (frames, labels), which belongs to no frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from slt_speech.rnnt.problem import Problem


class Shares(NamedTuple):
    """What the backward pass needs besides the logits: log-sum-exps and the shares of paths by arc [b t s], `totals` [b]."""

    normalizers: Tensor
    by_blank: Tensor
    by_label: Tensor
    totals: Tensor


def forward(logits: Tensor, problem: Problem) -> Shares:
    """Log-sum-exps of all cells, the share of paths that takes each arc, and ln P of each utterance."""
    wide = wide_type(logits)
    normalizers = torch.stack([_normalizers(row, wide) for row in logits]) if len(logits) else logits[..., 0].to(wide)
    places, labels = _cells(logits, problem)
    blank = logits[..., problem.blank].to(wide) - normalizers
    label = logits.gather(3, labels[..., None])[..., 0].to(wide) - normalizers
    positions = problem.targets.shape[1] + 1
    exists = (places <= problem.labels[:, None, None]) & (normalizers != -torch.inf)
    spread = torch.where(exists, places, positions)  # cells that do not exist go to a column that is thrown away

    def full(arc: Tensor) -> Tensor:
        lattice = arc.new_full((*arc.shape[:2], positions + 1), -torch.inf)
        return lattice.scatter(2, spread, torch.where(exists, arc, -torch.inf))[..., :positions]

    totals, by_blank, by_label = sum_lattice(full(blank), full(label), problem)
    by_blank, by_label = (functional.pad(share, (0, 1)).gather(2, spread) for share in (by_blank, by_label))
    return Shares(normalizers, by_blank, by_label, totals)


def backward(logits: Tensor, problem: Problem, shares: Shares, upstream: Tensor) -> Tensor:
    """The gradient [b t s v] of sum(upstream * loss); zero beyond the lengths and where no alignment is possible."""
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
    _, labels = _cells(logits, problem)
    by_label = shares.by_label * (1.0 + problem.fastemit)
    occupied = shares.by_blank + by_label
    for row in range(len(logits)):
        x = logits[row] if logits.dtype in (torch.float32, torch.float64) else logits[row].float()
        out = gradient[row] if x.dtype == logits.dtype else torch.empty_like(x)
        high = shares.normalizers[row].to(x.dtype)
        low = (shares.normalizers[row] - high.to(shares.normalizers.dtype)).to(x.dtype)
        torch.sub(x, high[..., None], out=out)
        out.sub_(low[..., None]).exp_().mul_(occupied[row, ..., None].to(x.dtype))
        out[..., problem.blank] -= shares.by_blank[row].to(x.dtype)
        out.scatter_add_(2, labels[row, ..., None], -by_label[row, ..., None].to(x.dtype))
        if problem.clamp is not None:
            out.clamp_(-problem.clamp, problem.clamp)
        out.mul_(upstream[row].to(x.dtype))
        out.masked_fill_((occupied[row] == 0)[..., None], 0.0)
        gradient[row].copy_(out)
    return gradient


def sum_lattice(blank: Tensor, label: Tensor, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """ln P [b] over log-probabilities blank and label [b t u+1], and the shares of paths that take each arc.

    Shares are zero beyond the lengths and where no alignment is possible.
    """
    frames, positions = blank.shape[1:]
    t = torch.arange(frames, device=blank.device)[:, None]
    u = torch.arange(positions, device=blank.device)
    inside = t < problem.frames[:, None, None]
    blank = torch.where(inside & (u <= problem.labels[:, None, None]), blank, -torch.inf)
    label = torch.where(inside & (u < problem.labels[:, None, None]), label, -torch.inf)
    down, right = _skewed(blank), _skewed(label)
    alpha, beta = torch.full_like(down, -torch.inf), torch.full_like(down, -torch.inf)
    alpha[0, :, 0] = 0.0
    for d in range(1, len(down)):
        along = functional.pad(alpha[d - 1] + right[d - 1], (1, -1), value=-torch.inf)
        alpha[d] = torch.logaddexp(alpha[d - 1] + down[d - 1], along)
    end = problem.frames + problem.labels
    at_end = (torch.arange(len(down), device=blank.device)[:, None, None] == end[:, None]) & (
        u == problem.labels[:, None]
    )
    totals = torch.where(at_end, alpha, -torch.inf).amax(dim=(0, 2))
    for d in range(len(down) - 1, -1, -1):
        if d + 1 < len(down):
            along = functional.pad(beta[d + 1], (-1, 1), value=-torch.inf)
            beta[d] = torch.logaddexp(beta[d + 1] + down[d], along + right[d])
        beta[d].masked_fill_(at_end[d], 0.0)
    after = functional.pad(beta, (0, 0, 0, 0, 0, 1), value=-torch.inf)[1:]
    above = alpha - torch.where(totals == -torch.inf, torch.inf, totals)[:, None]
    # a share is at most 1, also where sums are so large that their rounding errors are nats
    by_blank = (above + after + down).clamp_max(0.0).exp()
    by_label = (above + functional.pad(after, (-1, 1), value=-torch.inf) + right).clamp_max(0.0).exp()
    return totals, _upright(by_blank, frames), _upright(by_label, frames)


def wide_type(tensor: Tensor) -> torch.dtype:
    """The type of sums of paths: float64, except on `mps`, which has no other than float32."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _normalizers(logits: Tensor, wide: torch.dtype) -> Tensor:
    """Log-sum-exps of one utterance: the room for its exponentials is not that of the batch."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    top = x.amax(dim=-1, keepdim=True)
    shift = torch.where(top == -torch.inf, 0.0, top)
    return shift[..., 0].to(wide) + (x - shift).exp_().sum(dim=-1).to(wide).log()


def _cells(logits: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Label positions of the cells [b t s] and the labels of their arcs; any label where there is none."""
    places = problem.first[:, :, None] + torch.arange(logits.shape[2], device=logits.device)
    if not problem.targets.shape[1]:
        return places, torch.zeros_like(places)
    there = places < problem.labels[:, None, None]
    index = torch.where(there, places, 0).flatten(1)
    labels = problem.targets.gather(1, index).reshape(places.shape)
    return places, torch.where(there, labels, 0)


def _skewed(lattice: Tensor) -> Tensor:
    """Diagonals of a lattice [b t u+1], with a row of -inf added: [t+u+1 b u+1]."""
    batch, frames, positions = lattice.shape
    diagonals = frames + positions
    padded = functional.pad(lattice.transpose(1, 2), (0, diagonals + 1 - frames), value=-torch.inf).flatten(1)
    rows = padded[:, : positions * diagonals].reshape(batch, positions, diagonals)
    return rows.permute(2, 0, 1).contiguous()


def _upright(diagonals: Tensor, frames: int) -> Tensor:
    """The lattice [b t u+1] of its diagonals."""
    count, batch, positions = diagonals.shape
    flat = diagonals.permute(1, 2, 0).reshape(batch, positions * count)
    padded = functional.pad(flat, (0, positions)).reshape(batch, positions, count + 1)
    return padded[:, :, :frames].transpose(1, 2)

"""The transducer loss and its gradient on the CPU: utterance by utterance, by compiled loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slt_speech.rnnt.problem import Problem

PIECE = 2**18
"""Logits that are converted at a time where they are not float32 or float64 in one piece: one megabyte, the cache."""
SHARED_ABOVE = 2**18
"""Logits of a batch from which threads are worth their start."""
NEGLIGIBLE = 1e-30
"""Occupancy of a cell whose gradient is written as zero where logits are single or half: far below their resolution."""


class Sums(NamedTuple):
    """What the backward pass needs besides the logits: `normalizers` and `alpha` [b t s], `totals` [b], all float64."""

    normalizers: Tensor
    alpha: Tensor
    totals: Tensor


def forward(logits: Tensor, problem: Problem) -> Sums:
    """Log-sum-exps of all cells, sums of paths into them, and ln P of each utterance."""
    from slt_speech.rnnt.lattice_kernels import forward_frames
    from sltcore.alignment.compiled import first_call

    batch = logits.shape[0]
    normalizers, alpha = (torch.empty(logits.shape[:3], dtype=torch.float64) for _ in range(2))
    sums = Sums(normalizers, alpha, torch.empty(batch, dtype=torch.float64))
    frames, labels, first = _arrays(problem)

    def run(row: int) -> None:
        arrive = torch.full((labels[row] + 1,), -torch.inf, dtype=torch.float64)
        arrive[0] = 0.0
        ids = problem.targets[row, : labels[row]].numpy()
        for begin, end in _pieces(logits, frames[row]):
            piece = _converted(logits[row, begin:end])
            where = (sums.normalizers[row, begin:end].numpy(), sums.alpha[row, begin:end].numpy())
            first_call(forward_frames, piece.numpy(), first[row, begin:end], ids, problem.blank, *where, arrive.numpy())
        sums.totals[row] = arrive[-1]

    _each(run, batch, logits.numel())
    return sums


def backward(logits: Tensor, problem: Problem, sums: Sums, upstream: Tensor) -> Tensor:
    """The gradient [b t s v] of sum(upstream * loss); zero beyond the lengths and where no alignment is possible."""
    from slt_speech.rnnt.lattice_kernels import backward_frames
    from sltcore.alignment.compiled import first_call

    gradient = torch.empty(logits.shape, dtype=logits.dtype)
    frames, labels, first = _arrays(problem)
    totals, scales = sums.totals.tolist(), upstream.tolist()
    clamp = float("inf") if problem.clamp is None else problem.clamp
    negligible = 0.0 if logits.dtype == torch.float64 else NEGLIGIBLE

    def run(row: int) -> None:
        known = frames[row] if totals[row] > -torch.inf or totals[row] != totals[row] else 0
        gradient[row, known:] = 0
        leave = torch.full((labels[row] + 1,), -torch.inf, dtype=torch.float64)
        leave[-1] = 0.0
        ids = problem.targets[row, : labels[row]].numpy()
        limits = (scales[row], clamp, negligible)
        for begin, end in reversed(list(_pieces(logits, known))):
            piece, out = _converted(logits[row, begin:end]), gradient[row, begin:end]
            written = out if out.dtype == piece.dtype else torch.empty_like(piece)
            arrays = (sums.normalizers[row, begin:end].numpy(), sums.alpha[row, begin:end].numpy(), leave.numpy())
            rest = (totals[row], 1.0 + problem.fastemit, limits, written.numpy())
            first_call(backward_frames, piece.numpy(), first[row, begin:end], ids, problem.blank, *arrays, *rest)
            if written is not out:
                out.copy_(written)

    _each(run, logits.shape[0], logits.numel())
    return gradient


def sum_lattice(blank: Tensor, label: Tensor, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """ln P [b] over log-probabilities blank and label [b t u+1], and the shares of paths that take each arc, float64.

    Shares are zero beyond the lengths and where no alignment is possible.
    """
    from slt_speech.rnnt.lattice_kernels import occupy, sum_paths
    from sltcore.alignment.compiled import first_call

    down, right = blank.double().contiguous(), label.double().contiguous()
    totals = torch.empty(len(down), dtype=torch.float64)
    shares = torch.zeros_like(down), torch.zeros_like(down)

    def run(row: int) -> None:
        t, u = int(problem.frames[row]), int(problem.labels[row])
        arcs = down[row, :t, : u + 1].numpy(), right[row, :t, : u + 1].numpy()
        alpha = torch.empty(t + 1, u + 1, dtype=torch.float64).numpy()
        total = first_call(sum_paths, *arcs, alpha)
        totals[row] = total
        if total != -torch.inf:
            outs = [share[row, :t, : u + 1].numpy() for share in shares]
            first_call(occupy, *arcs, alpha, total, torch.empty(u + 1, dtype=torch.float64).numpy(), *outs)

    _each(run, len(down), down.numel())
    return totals, *shares


def _arrays(problem: Problem) -> tuple[list[int], list[int], Any]:
    return problem.frames.tolist(), problem.labels.tolist(), problem.first.numpy()


def _pieces(logits: Tensor, frames: int) -> Iterator[tuple[int, int]]:
    """Runs of frames that the kernels take at a time: all of them, unless the logits have to be converted."""
    direct = logits.dtype in (torch.float32, torch.float64) and logits.is_contiguous()
    step = max(frames, 1) if direct else max(1, PIECE // max(1, logits.shape[2] * logits.shape[3]))
    for begin in range(0, frames, step):
        yield begin, min(begin + step, frames)


def _converted(piece: Tensor) -> Tensor:
    return piece.to(torch.float64 if piece.dtype == torch.float64 else torch.float32).contiguous()


def _each(run: Callable[[int], None], rows: int, work: int) -> None:
    """Every utterance, several at once where torch may use several threads and it is worth while."""
    threads = min(torch.get_num_threads(), rows)
    if threads < 2 or work < SHARED_ABOVE:
        for row in range(rows):
            run(row)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(torch.no_grad()(run), range(rows)))

"""The same search as tensor operations on a whole batch, for posteriors that are on another device than the CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sltcore.types import Targets

STAY, ONE, TWO = 0, 1, 2
"""Backpointers, two bits each: how many states before this one the best alignment came from."""


class Spans(NamedTuple):
    """Alignments of a batch: `scores` [b] (-inf: none is possible), `first`, `stop` [b u] in frames, `mean` [b u]."""

    scores: Tensor
    first: Tensor
    stop: Tensor
    mean: Tensor


def search(log_probs: Tensor, lengths: Tensor, targets: Targets, *, blank: int) -> Spans:
    """The best alignment of every utterance, by one step of a few tensor operations for each frame.

    **Shapes**: `log_probs` [b t v] natural log, `lengths` [b]; memory: b t (2 u + 1) / 4 bytes of backpointers. Equal
    sums are decided as `kernel.align_utterance` decides them. Sums are float64 (float32 on `mps`, which has no other).
    """
    batch, frames, _ = log_probs.shape
    device, dtype = log_probs.device, torch.float32 if log_probs.device.type == "mps" else torch.float64
    places = torch.arange(targets.ids.shape[1], device=device)
    inner = places < targets.lengths[:, None]
    ids = torch.where(inner, targets.ids, blank)
    states = torch.full((batch, 2 * ids.shape[1] + 1), blank, dtype=torch.int64, device=device)
    states[:, 1::2] = ids
    number = torch.arange(states.shape[1], device=device)
    can_skip = torch.zeros_like(states, dtype=torch.bool)
    can_skip[:, 3::2] = ids[:, 1:] != ids[:, :-1]
    last = 2 * targets.lengths
    exists = number <= last[:, None]
    sums = torch.full(states.shape, -torch.inf, dtype=dtype, device=device)
    sums[:, 0] = 0.0  # before the first frame: the state from which the first blank and the first label can be reached
    packed = torch.zeros((frames, batch, (states.shape[1] + 3) // 4), dtype=torch.uint8, device=device)
    for t in range(frames):
        emitted = log_probs[:, t].gather(1, states).to(dtype)
        emitted = torch.where(emitted == torch.inf, torch.nan, emitted)  # no log-probability: the caller says so
        one, two = _shifted(sums, 1), torch.where(can_skip, _shifted(sums, 2), -torch.inf)
        best, code = sums, torch.zeros_like(states, dtype=torch.uint8)
        for moved, value in ((one, ONE), (two, TWO)):
            code = torch.where(moved > best, value, code)
            best = torch.maximum(best, moved)
        inside = (t < lengths)[:, None]
        reached = exists & (best != -torch.inf)
        sums = torch.where(inside, torch.where(reached, best + emitted, -torch.inf), sums)
        packed[t] = _packed(torch.where(inside, code, STAY))
    final = torch.stack([sums.gather(1, last[:, None])[:, 0], _before_last(sums, last)])
    on_label = final[1] > final[0]
    return _spans(log_probs, lengths, ids, packed, torch.where(on_label, last - 1, last), final.amax(dim=0))


def _shifted(sums: Tensor, by: int) -> Tensor:
    return torch.nn.functional.pad(sums, (by, 0), value=-torch.inf)[:, : sums.shape[1]]


def _packed(codes: Tensor) -> Tensor:
    """Four backpointers [b s] in a byte [b ceil(s / 4)]."""
    fours = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 4)).reshape(len(codes), -1, 4)
    return fours[..., 0] | (fours[..., 1] << 2) | (fours[..., 2] << 4) | (fours[..., 3] << 6)


def _before_last(sums: Tensor, last: Tensor) -> Tensor:
    chosen = sums.gather(1, (last - 1).clamp_min(0)[:, None])[:, 0]
    return torch.where(last > 0, chosen, -torch.inf)


def _spans(log_probs: Tensor, lengths: Tensor, ids: Tensor, packed: Tensor, state: Tensor, scores: Tensor) -> Spans:
    """Follow the backpointers from the last states [b]."""
    batch, frames, _ = log_probs.shape
    width = ids.shape[1]
    first = torch.full((batch, width + 1), frames, device=ids.device)
    stop = torch.zeros_like(first)
    total = torch.zeros((batch, width + 1), dtype=scores.dtype, device=ids.device)
    for t in range(frames - 1, -1, -1):
        on_label = (state % 2 == 1) & (t < lengths)
        place = torch.where(on_label, state // 2, width)[:, None]  # blanks are counted in a column of their own
        label = ids.gather(1, place.clamp_max(max(width - 1, 0))) if width else torch.zeros_like(place)
        total.scatter_add_(1, place, log_probs[:, t].gather(1, label).to(total.dtype))
        first.scatter_(1, place, t)
        stop.scatter_(1, place, torch.maximum(stop.gather(1, place), torch.full_like(place, t + 1)))
        byte = packed[t].gather(1, (state // 4)[:, None])[:, 0]
        state = state - ((byte >> (2 * (state % 4)).to(torch.uint8)) & 3).to(torch.int64)
    spans = (stop - first).clamp_min(1)
    return Spans(scores, first[:, :width], stop[:, :width], (total / spans)[:, :width])

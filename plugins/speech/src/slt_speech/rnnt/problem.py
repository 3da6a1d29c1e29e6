"""What a transducer loss is asked: targets, lengths and settings, checked once and in one place."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sltcore.errors import ShapeError, TrainError, VocabularyError

Implementation = Literal["compiled", "torch"]


class Problem(NamedTuple):
    """Checked arguments of a loss, all tensors int64 on one device.

    `targets` [b u], `frames` and `labels` [b] their lengths, `first` [b t] the label position of the first cell of each
    frame (0 where the lattice is full), `clamp` and `fastemit` as in `rnnt_loss`.
    """

    targets: Tensor
    frames: Tensor
    labels: Tensor
    first: Tensor
    blank: int = 0
    clamp: float | None = None
    fastemit: float = 0.0


def state_problem(
    who: str,
    size: tuple[int, int, int],
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    *,
    device: torch.device,
    first: Tensor | None = None,
    blank: int = 0,
    clamp: float | None = None,
    fastemit: float = 0.0,
) -> Problem:
    """Check the arguments of loss `who` for `size`: utterances, frames, vocabulary.

    **Raises** `ShapeError` for wrong shapes, types and lengths, `VocabularyError` for ids that are no label or the blank,
    `TrainError` for settings out of range.
    """
    batch, frames, vocabulary = size
    _check_settings(who, vocabulary, blank, clamp, fastemit)
    if targets.ndim != 2 or targets.shape[0] != batch or _is_inexact(targets):
        raise ShapeError(
            f"{who}: targets is {_shown(targets)}, expected integers (b, u) with b = {batch}, padded with anything"
        )
    ids = targets.to(device, torch.int64).contiguous()
    lengths = _lengths(who, "logit_lengths", logit_lengths, batch, frames, device)
    labels = _lengths(who, "target_lengths", target_lengths, batch, ids.shape[1], device)
    _check_ids(who, ids, labels, vocabulary, blank)
    if first is None:
        first = torch.zeros((batch, frames), dtype=torch.int64, device=device)
    elif first.shape != (batch, frames) or _is_inexact(first):
        raise ShapeError(f"{who}: first is {_shown(first)}, expected integers (b, t) = ({batch}, {frames})")
    first = first.to(device, torch.int64).contiguous()
    if bool((first < 0).any()):
        raise ShapeError(f"{who}: first holds {int(first.min())}, expected label positions from 0; see pruning_windows")
    return Problem(ids, lengths, labels, first, blank, clamp, fastemit)


def check_logits(who: str, logits: Tensor, axes: str) -> None:
    """**Raises** `ShapeError` unless `logits` are floats with the four axes."""
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ShapeError(f"{who}: logits is {_shown(logits)}, expected floats ({axes})")


def choose_implementation(who: str, name: Implementation | None, device: torch.device) -> Implementation:
    """Compiled on the CPU, torch elsewhere; **Raises** `TrainError` when the name is unknown or does not fit the device."""
    if name not in (None, "compiled", "torch"):
        raise TrainError(f"{who}: implementation is {name!r}, expected 'compiled', 'torch' or None (by the device)")
    if name == "compiled" and device.type != "cpu":
        raise TrainError(f"{who}: 'compiled' runs on the CPU, but the logits are on {device}; leave implementation out")
    return name or ("compiled" if device.type == "cpu" else "torch")


def _check_settings(who: str, vocabulary: int, blank: int, clamp: float | None, fastemit: float) -> None:
    if not 0 <= blank < vocabulary:
        raise VocabularyError(
            f"{who}: blank is {blank}, expected an id of the {vocabulary} logits: 0 to {vocabulary - 1}"
        )
    if clamp is not None and not clamp > 0:
        raise TrainError(f"{who}: clamp is {clamp}, expected a positive limit of the gradient, or None for no limit")
    if not (fastemit >= 0 and math.isfinite(fastemit)):
        raise TrainError(
            f"{who}: fastemit is {fastemit}, expected a finite weight of at least 0; usual are 0.001 to 0.01"
        )


def _lengths(who: str, name: str, given: Tensor, batch: int, most: int, device: torch.device) -> Tensor:
    if given.shape != (batch,) or _is_inexact(given):
        raise ShapeError(f"{who}: {name} is {_shown(given)}, expected integers (b,) with b = {batch}")
    wrong = (given < 0) | (given > most)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ShapeError(f"{who}: {name}[{row}] is {int(given[row])}, expected 0 to {most}, the size of its axis")
    return given.to(device, torch.int64)


def _check_ids(who: str, ids: Tensor, labels: Tensor, vocabulary: int, blank: int) -> None:
    inside = torch.arange(ids.shape[1], device=ids.device) < labels[:, None]
    wrong = ((ids < 0) | (ids >= vocabulary) | (ids == blank)) & inside
    if bool(wrong.any()):
        row, place = (int(index) for index in wrong.nonzero()[0])
        raise VocabularyError(
            f"{who}: target {row} has id {int(ids[row, place])} at position {place}, expected one of the ids 0 to "
            f"{vocabulary - 1} except the blank, {blank}"
        )


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"

"""Example inputs: single utterances out of padded batches, as padding must not move a range, and calls with them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

LENGTHS, MASK = "lengths", "attention_mask"
UNCUT = ("decoder_", "labels")
"""Beginnings of the names of inputs with a time axis of their own."""


def singles(batch: Any) -> Iterator[Any]:
    """Each utterance of a batch alone and without padding; any other value as it is.

    - A value with `lengths` (Waveform, Features, Encoded): its tensors [b t ...] are cut.
    - A dict of keyword arguments with `lengths` [b], or `attention_mask` [b t] of ones from an utterance's first frame to
      its last: tensors [b t ...] as long as the mask, or as the first of them that holds all lengths, are cut, others
      [b ...] keep the utterance's row. The decoder's inputs are not cut. Without any tensor to cut the dict stays whole,
      with a warning.

    Utterances of length 0 are left out.
    """
    if isinstance(batch, Mapping):
        yield from _of_arguments(batch)
        return
    lengths = getattr(batch, "lengths", None)
    if not hasattr(batch, "_fields") or not isinstance(lengths, Tensor):
        yield batch
        return
    for index, length in enumerate(lengths.tolist()):
        if length:
            yield batch._replace(**{name: _cut(batch, name, index, int(length)) for name in batch._fields})


def called(model: Any, example: Any) -> Any:
    """The model's output: an example is its one argument, or a dict of keyword arguments."""
    return model(**example) if isinstance(example, Mapping) else model(example)


def _of_arguments(batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    lengths, mask = batch.get(LENGTHS), batch.get(MASK)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        spans = [(int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0) for found in map(_ones, mask)]
        frames: int | None = mask.shape[1]
    elif isinstance(lengths, Tensor) and lengths.ndim == 1 and not lengths.is_floating_point():
        spans = [(0, int(length)) for length in lengths.tolist()]
        frames = _frames(batch, len(spans), max((stop for _, stop in spans), default=0))
    else:
        yield batch
        return
    names = [name for name, value in batch.items() if name != MASK and _timed(name, value, len(spans), frames)]
    if not names:
        warnings.warn(
            f"nna: no tensor among {', '.join(batch)} has the time axis of the lengths, so the batch is measured with its "
            "padding, which may widen ranges; calibrate on single utterances",
            stacklevel=2,
        )
        yield batch
        return
    for index, (start, stop) in enumerate(spans):
        if stop > start:
            yield {
                name: _part(value, index, slice(start, stop), len(spans), _timed(name, value, len(spans), frames))
                for name, value in batch.items()
            }


def _ones(row: Tensor) -> Tensor:
    return row.nonzero().flatten()


def _frames(batch: Mapping[str, Any], count: int, longest: int) -> int | None:
    """The time axis of the first tensor that holds all lengths."""
    for name, value in batch.items():
        batched = isinstance(value, Tensor) and value.ndim >= 2 and len(value) == count
        if batched and value.shape[1] >= longest and not name.startswith(UNCUT):
            return int(value.shape[1])
    return None


def _timed(name: str, value: Any, count: int, frames: int | None) -> bool:
    return (
        isinstance(value, Tensor)
        and value.ndim >= 2
        and tuple(value.shape[:2]) == (count, frames)
        and not name.startswith(UNCUT)
    )


def _part(value: Any, index: int, span: slice, count: int, timed: bool) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or len(value) != count:
        return value
    row = value[index : index + 1]
    return row[:, span] if timed else row


def _cut(batch: Any, name: str, index: int, length: int) -> Any:
    value = getattr(batch, name)
    if name == LENGTHS:
        return torch.tensor([length], dtype=batch.lengths.dtype, device=batch.lengths.device)
    if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[0] == len(batch.lengths):
        return value[index : index + 1, :length]
    return value

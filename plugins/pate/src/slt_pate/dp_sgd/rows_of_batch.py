"""Some rows of a training batch as a batch of their own, with no more padding than they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sltcore.types import Features, Targets, Text, Waveform

if TYPE_CHECKING:
    from sltcore.train.loading import Batch


STEPS_PER_OCTAVE = 8


def rounded_length(length: int) -> int:
    """A length rounded up by at most an eighth, so that utterances of many lengths have few in common: what one is padded to
    depends on itself alone."""
    step: int = max(1, 2 ** (int(length).bit_length() - 1) // STEPS_PER_OCTAVE)
    return -(-int(length) // step) * step


def take(batch: Batch, rows: Sequence[int], *, length: int | None = None) -> Batch:
    """The batch of `rows`, in their order, padded to `length`, or to the longest of them where none is given."""
    size = len(batch.ids)
    if length is None and list(rows) == list(range(size)):
        return batch
    value = _value(batch.value, rows, size, length)
    targets = batch.targets
    if targets is not None:
        lengths = targets.lengths[list(rows)]
        targets = Targets(targets.ids[list(rows), : _longest(lengths)], lengths)
    return batch._replace(
        ids=[batch.ids[row] for row in rows],
        value=value,
        clean=value if batch.clean is batch.value else _value(batch.clean, rows, size, None),
        texts=[batch.texts[row] for row in rows],
        targets=targets,
        context={key: [values[row] for row in rows] for key, values in batch.context.items()},
        seeds=tuple(batch.seeds[row] for row in rows),
        weights=batch.weights[list(rows)],
        seconds=batch.seconds * len(rows) / size,
    )


def _longest(lengths: Tensor) -> int:
    return int(lengths.max()) if len(lengths) else 0


def _padded(tensor: Tensor, length: int) -> Tensor:
    """The second axis cut or filled with zeros to `length`."""
    if length <= tensor.shape[1]:
        return tensor[:, :length]
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], length - tensor.shape[1], *tensor.shape[2:])], 1)


def _value(value: Any, rows: Sequence[int], size: int, length: int | None) -> Any:
    if isinstance(value, Text):
        return Text([value.texts[row] for row in rows])
    lengths = value.lengths[list(rows)]
    longest = _longest(lengths) if length is None else length
    if isinstance(value, Waveform):
        return value._replace(samples=_padded(value.samples[list(rows)], longest), lengths=lengths)
    if isinstance(value, Features):
        return value._replace(values=_padded(value.values[list(rows)], longest), lengths=lengths)
    fields = {"layers": _held(value.layers, rows, size), "extra": _held(value.extra, rows, size)}
    return value._replace(values=_padded(value.values[list(rows)], longest), lengths=lengths, **fields)


def _held(tensors: Mapping[Any, Tensor], rows: Sequence[int], size: int) -> dict[Any, Tensor]:
    return {
        name: tensor[list(rows)] if isinstance(tensor, torch.Tensor) and tensor.shape[:1] == (size,) else tensor
        for name, tensor in tensors.items()
    }

"""Example inputs: single utterances out of padded batches, as padding must not move a range, and calls with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def singles(batch: Any) -> Iterator[Any]:
    """Each utterance of a value with `lengths` (Waveform, Features, Encoded) alone and without padding; any other value as
    it is.

    Tensors [b t ...] beside the lengths are cut; utterances of length 0 are left out.
    """
    lengths = getattr(batch, "lengths", None)
    if not hasattr(batch, "_fields") or not isinstance(lengths, Tensor):
        yield batch
        return
    for index, length in enumerate(lengths.tolist()):
        if length:
            yield batch._replace(**{name: _cut(batch, name, index, int(length)) for name in batch._fields})


def called(model: Any, example: Any) -> Any:
    """The model's output: an example is its one argument, or a dict of keyword arguments."""
    return model(**example) if isinstance(example, dict) else model(example)


def _cut(batch: Any, name: str, index: int, length: int) -> Any:
    value = getattr(batch, name)
    if name == "lengths":
        return torch.tensor([length], dtype=batch.lengths.dtype, device=batch.lengths.device)
    if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[0] == len(batch.lengths):
        return value[index : index + 1, :length]
    return value

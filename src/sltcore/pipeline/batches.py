"""Utterances to batches and back: neighbours in length together, padded, and split again without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sltcore.audio import Recording
from sltcore.errors import PluginError
from sltcore.types import Encoded, Features, Item, Port, Text, Waveform


class Entry(NamedTuple):
    """One input that is read: its place in the call, the item, and its samples, frames or text."""

    place: int
    item: Item
    value: Any

    @property
    def size(self) -> int:
        """Samples, frames or characters."""
        return len(self.value.samples) if isinstance(self.value, Recording) else len(self.value)

    @property
    def duration_s(self) -> float | None:
        """Seconds of sound."""
        return self.value.duration_s if isinstance(self.value, Recording) else None


def units_per_s(port: Port, sample_rate_hz: int) -> float:
    """How many units of an input make a second; zero for text, which lasts no time."""
    if port.type == "Waveform":
        return float(sample_rate_hz)
    return 0.0 if port.type == "Text" else 1.0 / _frame_shift_s(port)


def by_length(entries: Sequence[Entry], *, most: int, limit: float) -> Iterator[list[Entry]]:
    """Neighbours in length together; a batch holds at most `most` entries and `limit` units with padding."""
    batch: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: entry.size):
        if batch and (len(batch) >= most or entry.size * (len(batch) + 1) > limit):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


def collate(values: Sequence[Any], port: Port, *, sample_rate_hz: int, device: torch.device) -> Any:
    """The value that `port` names, padded with zeros, on `device`."""
    if port.type == "Text":
        return Text(list(values))
    arrays = [value.samples if isinstance(value, Recording) else value for value in values]
    lengths = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
    padded = torch.zeros((len(arrays), int(lengths.max()), *arrays[0].shape[1:]), dtype=torch.float32)
    for row, array in enumerate(arrays):
        padded[row, : len(array)] = torch.from_numpy(np.require(array, np.float32, ("C", "W")))
    padded, lengths = padded.to(device), lengths.to(device)
    if port.type == "Waveform":
        return Waveform(padded, lengths, sample_rate_hz)
    shift = _frame_shift_s(port)
    return Features(padded, lengths, shift) if port.type == "Features" else Encoded(padded, lengths, shift)


def split(value: Any, count: int, who: str) -> list[Any]:
    """One result for each utterance, without padding; **Raises** `PluginError` when there is another number of them."""
    if isinstance(value, Text):
        value = list(value.texts)
    if not isinstance(value, list):
        tensor: Tensor = value.samples if isinstance(value, Waveform) else value.values
        rows = [tensor[row, : int(length)].cpu().numpy() for row, length in enumerate(value.lengths)]
        value = [Recording(row, value.sample_rate_hz) for row in rows] if isinstance(value, Waveform) else rows
    if len(value) != count:
        raise PluginError(f"{who} gave {len(value)} results for {count} inputs, expected one for each")
    return list(value)


def _frame_shift_s(port: Port) -> float:
    return float(port.attributes.get("frame_shift_s", 0.01))

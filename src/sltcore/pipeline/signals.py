"""Side information that is sound: read whole, or taken piece by piece beside the input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from sltcore.audio import AudioStream
from sltcore.audio.decoders import Samples
from sltcore.context import SYNCHRONOUS, is_per_utterance
from sltcore.pipeline.inputs import open_item, read_item
from sltcore.types import ContextKey, Item


def signal_item(value: Any) -> Item:
    """An item for a context value that is sound: a path, samples, a `Recording`, or an `Item` with a channel."""
    return value if isinstance(value, Item) else Item(str(value)[:80], value)


def read_signals(context: Mapping[str, Any], keys: Mapping[str, ContextKey], sample_rate_hz: int) -> dict[str, Any]:
    """`context` with every value that is sound read at `sample_rate_hz`: samples (n,) float32.

    **Raises** `AudioError`.
    """

    def samples(value: Any) -> Any:
        return None if value is None else read_item(signal_item(value), sample_rate_hz).samples

    read = dict(context)
    for name, value in context.items():
        key = keys.get(name)
        if key is not None and key.type == "waveform":
            read[name] = [samples(v) for v in value] if is_per_utterance(value, key) else samples(value)
    return read


def synchronous(context: Mapping[str, Any], keys: Mapping[str, ContextKey]) -> dict[str, Any]:
    """The signals of one utterance's context that run beside the input, sample by sample, by name."""
    found = {}
    for name, value in context.items():
        key = keys.get(name)
        if name in SYNCHRONOUS and key is not None and key.type == "waveform":
            single = value[0] if is_per_utterance(value, key) else value
            if single is not None:
                found[name] = single
    return found


class SignalReader(AbstractContextManager["SignalReader"]):
    """Takes a signal piece by piece, in bounded memory; silence stands after its end."""

    def __init__(self, value: Any, sample_rate_hz: int) -> None:
        self._stream: AudioStream = open_item(signal_item(value), sample_rate_hz)
        self._blocks: Iterator[Samples] = iter(self._stream)
        self._held: Samples = np.zeros(0, np.float32)

    def take(self, count: int) -> Samples:
        """The next `count` samples."""
        pieces, have = [self._held], len(self._held)
        while have < count:
            block = next(self._blocks, None)
            if block is None:
                block = np.zeros(count - have, np.float32)
            pieces.append(block)
            have += len(block)
        joined = np.concatenate(pieces)
        self._held = joined[count:].copy()
        return joined[:count]

    def __exit__(self, *_: object) -> None:
        self._stream.close()

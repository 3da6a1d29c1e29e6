"""From whatever a caller hands over to a stream of items with samples or text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sltcore.audio import AudioFacts, Channel, Recording, open_audio, probe, read_audio
from sltcore.errors import AudioError, SltError
from sltcore.types import Item


class Output(NamedTuple):
    """What became of one item: `value` is what the pipeline's last stage produces for one utterance (an `NBest`, a
    `Recording`, or an array [t d]); None where `error` says why."""

    item: Item
    value: Any
    duration_s: float | None
    error: SltError | None = None


def is_single(source: Any) -> bool:
    """Whether a call's input is one utterance rather than many."""
    if isinstance(source, str | Path | bytes | Recording | Mapping | Item):
        return True
    if isinstance(source, np.ndarray) or _is_tensor(source):
        return getattr(source, "ndim", 1) <= 1 or (source.ndim == 2 and 1 in source.shape)
    return isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], int)


def _is_tensor(source: Any) -> bool:
    return type(source).__module__ == "torch" and hasattr(source, "detach")


def items_of(sources: Any) -> Iterator[Item]:
    """Items of a list, a `datasets` table (columns audio or text, id, channel), or a 2-D array of utterances."""
    if isinstance(sources, Mapping) and not is_single(sources):
        sources = list(sources.values())
    for index, source in enumerate(_rows(sources)):
        yield _item(source, index)


def _rows(sources: Any) -> Any:
    if hasattr(sources, "features") and hasattr(sources, "cast_column"):
        features = sources.features or {}
        if "audio" in features and hasattr(features["audio"], "decode"):
            from datasets import Audio

            return sources.cast_column("audio", Audio(decode=False))
    return sources


def _item(source: Any, index: int) -> Item:
    if isinstance(source, Item):
        return source
    if isinstance(source, Mapping) and ("audio" in source or "text" in source) and "array" not in source:
        extra = {key: value for key, value in source.items() if key not in ("audio", "text", "id", "channel")}
        audio = source.get("audio", source.get("text"))
        return Item(str(source.get("id", index)), audio, source.get("text"), channel=source.get("channel"), extra=extra)
    name = str(source) if isinstance(source, str | Path) else str(index)
    return Item(name, source)


def read_item(item: Item, sample_rate_hz: int) -> Recording:
    """The samples of an item; **Raises** `AudioError`."""
    source = item.source.detach().cpu().numpy() if _is_tensor(item.source) else item.source
    if isinstance(source, Recording):
        source = (source.samples, source.sample_rate_hz)
    if isinstance(source, np.ndarray):
        source = (source.reshape(-1) if source.ndim == 2 and 1 in source.shape else source, sample_rate_hz)
    return read_audio(source, sample_rate_hz, channel=_channel(item))


def stream_item(item: Item, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """The samples of an item in blocks, in bounded memory."""
    source = item.source
    if isinstance(source, Recording):
        source = (source.samples, source.sample_rate_hz)
    with open_audio(source, sample_rate_hz, channel=_channel(item)) as stream:
        yield from stream


def _channel(item: Item) -> Channel:
    if item.channel is None or isinstance(item.channel, int) or item.channel == "mix":
        return item.channel  # type: ignore[return-value]
    raise AudioError(f"input '{item.id}': channel is {item.channel!r}, expected a number counted from 0, or mix")


def length_s(item: Item) -> float | None:
    """Seconds that an item's header promises; None where only decoding tells."""
    if isinstance(item.source, str | Path):
        try:
            facts: AudioFacts = probe(item.source)
        except AudioError:
            return None
        return facts.duration_s
    return None

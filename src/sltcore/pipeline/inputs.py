"""From whatever a caller hands over to a stream of items with samples or text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from sltcore.audio import AudioStream, Channel, Recording, open_audio, read_audio
from sltcore.audio.decoders import Samples
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
    if isinstance(source, str | Path | bytes | bytearray | memoryview | Recording | Mapping | Item):
        return True
    if isinstance(source, np.ndarray) or _is_tensor(source):
        return getattr(source, "ndim", 1) <= 1 or (source.ndim == 2 and 1 in source.shape)
    if isinstance(source, tuple) and len(source) == 2:
        return any(
            isinstance(part, int | float | np.number) for part in source
        )  # (array, rate), or the wrong way round
    return hasattr(source, "get_all_samples") or (hasattr(source, "read") and hasattr(source, "seek"))


def _is_tensor(source: Any) -> bool:
    return type(source).__module__ == "torch" and hasattr(source, "detach")


def items_of(sources: Any) -> Iterator[Item]:
    """Items of a list, a `datasets` table (columns audio or text, id, channel, speaker), or a 2-D array of utterances."""
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
        known = ("audio", "text", "id", "channel", "speaker")
        return Item(
            str(source.get("id", index)),
            source.get("audio", source.get("text")),
            source.get("text"),
            speaker=source.get("speaker"),
            channel=source.get("channel"),
            extra={key: value for key, value in source.items() if key not in known},
        )
    name = str(source) if isinstance(source, str | Path) else str(index)
    return Item(name, source)


def read_item(item: Item, sample_rate_hz: int) -> Recording:
    """All samples of an item; **Raises** `AudioError`."""
    return read_audio(_audio(item, sample_rate_hz), sample_rate_hz, channel=_channel(item))


def open_item(item: Item, sample_rate_hz: int) -> AudioStream:
    """The samples of an item in blocks, in bounded memory; **Raises** `AudioError`."""
    return open_audio(_audio(item, sample_rate_hz), sample_rate_hz, channel=_channel(item))


@contextmanager
def opened(item: Item, sample_rate_hz: int, longest_s: float) -> Iterator[Recording | Iterator[Samples]]:
    """An item as a `Recording` where it lasts no longer than `longest_s`, else as blocks of samples.

    The source is opened once. What its header promises only decides whether to try: a source that goes on beyond
    `longest_s` comes as blocks whatever its header says, so no more than `longest_s` is ever held.
    """
    with open_item(item, sample_rate_hz) as stream:
        blocks = iter(stream)
        held: list[Samples] = []
        if stream.duration_s is None or stream.duration_s <= longest_s:
            limit, seen = longest_s * sample_rate_hz, 0
            for block in blocks:
                held.append(block)
                seen += len(block)
                if seen > limit:
                    break
            else:
                yield Recording(held[0] if len(held) == 1 else np.concatenate(held), sample_rate_hz)
                return
        yield chain(_emptied(held), blocks)


def _emptied(held: list[Samples]) -> Iterator[Samples]:
    """Each block once, let go as soon as it was handed out."""
    held.reverse()
    while held:
        yield held.pop()


def _audio(item: Item, sample_rate_hz: int) -> Any:
    """An item's source as `sltcore.audio` reads it."""
    source = item.source.detach().cpu().numpy() if _is_tensor(item.source) else item.source
    if isinstance(source, Recording):
        return source.samples, source.sample_rate_hz
    if isinstance(source, np.ndarray) and source.ndim == 2 and 1 in source.shape:
        return source.reshape(-1), sample_rate_hz
    return source


def _channel(item: Item) -> Channel:
    if item.channel is None or item.channel == "mix" or isinstance(item.channel, int):
        return cast("Channel", item.channel)
    raise AudioError(f"input '{item.id}': channel is {item.channel!r}, expected a number counted from 0, or mix")

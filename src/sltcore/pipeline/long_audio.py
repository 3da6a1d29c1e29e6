"""Recordings too long for one batch, in bounded memory: streamed where the components can, else cut at pauses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sltcore.audio import Recording
from sltcore.audio.decoders import Samples
from sltcore.errors import StreamError
from sltcore.pipeline.signals import SignalReader, read_signals, synchronous
from sltcore.pipeline.streaming import session_or_none, stream_names
from sltcore.types import Hypothesis, Item, NBest

if TYPE_CHECKING:
    from sltcore.pipeline.pipeline import Pipeline


def can_divide(pipeline: Pipeline) -> bool:
    """Whether a long recording can be worked on in pieces: its readings, sounds or frames can be put together again.

    Frames are put together only where an encoder stands alone and streams; cut at pauses they would differ.
    """
    if pipeline.consumes.type != "Waveform":
        return False
    if pipeline.produces.type in ("Hypotheses", "Waveform"):
        return True
    if set(pipeline.parts) != {"encoder"}:
        return False
    try:
        pipeline.first.open({})
    except StreamError:
        return False
    return True


def run_long(
    pipeline: Pipeline, item: Item, blocks: Iterator[Samples], context: Mapping[str, Any]
) -> tuple[Any, float]:
    """The result of one long recording, and its seconds; `context` holds the values of this one utterance.

    Signals beside the input are read in step with it; a shorter one is followed by silence.
    """
    rate = pipeline.sample_rate_hz
    signals = synchronous(context, pipeline.context_keys)
    rest = {name: value for name, value in context.items() if name not in signals}
    rest = read_signals(rest, pipeline.context_keys, rate)
    counted = _Counted(blocks)
    with ExitStack() as stack:
        readers = {name: stack.enter_context(SignalReader(value, rate)) for name, value in signals.items()}
        if pipeline.produces.type not in ("Hypotheses", "Waveform"):
            value: Any = _frames(pipeline, counted, readers, rest)
        elif (value := _streamed(pipeline, counted, readers, rest)) is None:
            value = _cut_at_pauses(pipeline, item, counted, readers, rest)
    return value, counted.samples / rate


class _Counted:
    """Blocks of samples, counted as they go by."""

    def __init__(self, blocks: Iterator[Samples]) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            self.samples += len(block)
            yield block


def _streamed(
    pipeline: Pipeline, blocks: Iterable[Samples], readers: Mapping[str, SignalReader], context: Mapping[str, Any]
) -> NBest | None:
    """None where the components cannot stream, or a signal is read by another stage than the encoder."""
    if "encoder" not in pipeline.parts or not set(readers) <= stream_names(pipeline):
        return None
    session = session_or_none(pipeline, context)
    if session is None:
        return None
    for block in blocks:
        session.feed(block, **{name: reader.take(len(block)) for name, reader in readers.items()})
    return session.finish()


def _frames(
    pipeline: Pipeline, blocks: Iterable[Samples], readers: Mapping[str, SignalReader], context: Mapping[str, Any]
) -> Samples:
    """Frames [t d] of an encoder that stands alone."""
    parts = []
    with torch.inference_mode(), pipeline.using(context):
        session = pipeline.first.open(context)
        for block in blocks:
            streams = {name: pipeline.batch([reader.take(len(block))]) for name, reader in readers.items()}
            parts.append(session.push(pipeline.batch([block]), **streams))
        parts.append(session.finish())
    rows = [part.values[0, : int(part.lengths[0])].cpu().numpy() for part in parts if part is not None]
    return np.concatenate(rows) if rows else np.zeros((0, int(pipeline.produces.attributes.get("d", 0))), np.float32)


def _cut_at_pauses(
    pipeline: Pipeline,
    item: Item,
    blocks: Iterable[Samples],
    readers: Mapping[str, SignalReader],
    context: Mapping[str, Any],
) -> Any:
    segment, rate = pipeline.spec.model.segment, pipeline.sample_rate_hz
    parts: list[tuple[float, Any]] = []
    for start, samples in segments(blocks, rate, longest_s=segment.longest_s, pause_s=segment.pause_s):
        beside = {name: Recording(reader.take(len(samples)), rate) for name, reader in readers.items()}
        signals = {name: [v] if pipeline.context_keys[name].per_utterance else v for name, v in beside.items()}
        (value,) = pipeline.run_batch([Recording(samples, rate)], {**context, **signals})
        parts.append((start, value))
    if isinstance(parts[0][1], Recording):
        return Recording(np.concatenate([part.samples for _, part in parts]), parts[0][1].sample_rate_hz)
    return joined(parts)


def segments(
    blocks: Iterable[Samples], sample_rate_hz: int, *, longest_s: float, pause_s: float
) -> Iterator[tuple[float, Samples]]:
    """Cut a stream of samples at pauses: (start in seconds, samples), none longer than `longest_s`.

    A cut falls into the middle of the longest quiet run of at least `pause_s`; where there is none, at the quietest
    moment of the last half. A 10 ms frame is quiet when its energy lies 15 dB or more below the segment's median.
    For components that cannot stream; memory is bounded by `longest_s`.
    """
    longest = int(longest_s * sample_rate_hz)
    held = np.zeros(0, np.float32)
    start = 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > longest:
            cut = _cut(held[:longest], sample_rate_hz, pause_s)
            yield start / sample_rate_hz, held[:cut]
            held, start = held[cut:], start + cut
    if len(held) or start == 0:
        yield start / sample_rate_hz, held


def _cut(samples: Samples, sample_rate_hz: int, pause_s: float) -> int:
    hop = max(1, sample_rate_hz // 100)
    frames = len(samples) // hop
    energy = 10 * np.log10(np.square(samples[: frames * hop].reshape(frames, hop), dtype=np.float64).mean(1) + 1e-10)
    quiet = energy < np.median(energy) - 15
    best, run = (0, 0), 0
    for index in range(frames // 3, frames + 1):
        if index < frames and quiet[index]:
            run += 1
            continue
        if run > best[0]:
            best = (run, index - run)
        run = 0
    if best[0] >= max(1, round(pause_s * 100)):
        return (best[1] + best[0] // 2) * hop
    smooth = np.convolve(energy, np.ones(20) / 20, mode="same")
    half = frames // 2
    return (half + int(np.argmin(smooth[half:]))) * hop or len(samples)


def joined(parts: list[tuple[float, NBest]]) -> NBest:
    """The best readings of consecutive segments as one hypothesis, times shifted by each segment's start."""
    words: list[Any] = []
    times: list[tuple[float, float]] = []
    tokens: list[int] = []
    texts: list[str] = []
    score = 0.0
    for start, nbest in parts:
        best = nbest.best
        texts.append(best.text)
        score += best.score
        tokens.extend(best.tokens)
        times.extend((a + start, b + start) for a, b in best.times)
        words.extend(best.extra.get("words", ()))
    extra = {"words": tuple(words)} if words else {}
    text = " ".join(" ".join(texts).split())
    return NBest([Hypothesis(text, score, tuple(tokens), tuple(times), extra)])

"""Log-probabilities of a pipeline's CTC head, with the time of each frame: of a batch, or of one long recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sltcore.audio import Recording
from sltcore.audio.decoders import Samples
from sltcore.ctc import Head, log_probs
from sltcore.errors import PortError, StreamError
from sltcore.pipeline import Pipeline
from sltcore.pipeline.long_audio import segments
from sltcore.pipeline.signals import SignalReader, read_signals, synchronous
from sltcore.types import Encoded


class Posteriors(NamedTuple):
    """Natural-log posteriors [t v] float32 of one utterance; frame i is centred at `centres_s[i]` [t] float64."""

    values: Tensor
    centres_s: npt.NDArray[np.float64]
    frame_shift_s: float


def ctc_head(pipeline: Pipeline) -> Head:
    """The CTC head, labels and width of a pipeline's decoder; **Raises** `PortError` where it has none."""
    decoder = pipeline.parts.get("decoder")
    module, vocabulary = getattr(decoder, "head", None), getattr(decoder, "vocabulary", None)
    if decoder is None or "encoder" not in pipeline.parts or not isinstance(module, nn.Module) or vocabulary is None:
        stages = ", ".join(f"{name} '{type(part).__name__}'" for name, part in pipeline.parts.items())
        raise PortError(
            f"alignment needs an encoder and a CTC decoder (an output head and its labels), this pipeline has {stages}; "
            f"use one with a decoder such as ctc-greedy or ctc-beam"
        )
    d = decoder.consumes.attributes.get("d", getattr(module, "in_features", None))
    return Head(module, vocabulary, int(d))


def of_batch(pipeline: Pipeline, values: list[Any], context: Mapping[str, Any]) -> tuple[Tensor, Tensor, Encoded]:
    """Posteriors [b t v], lengths [b], and the encoding they came from; the side information is that of the batch."""
    head = ctc_head(pipeline)
    ready = read_signals(context, pipeline.context_keys, pipeline.sample_rate_hz)
    with torch.inference_mode(), pipeline.using(ready), pipeline.stage("encoder", len(values)):
        encoder, batch = pipeline.parts["encoder"], pipeline.batch(values)
        encoded: Encoded = encoder(batch, ready) if callable(encoder) else encoder.forward(batch, ready)
        return log_probs(head, encoded), encoded.lengths, encoded


def centres_s(frames: int, encoded: Encoded, start_s: float = 0.0) -> npt.NDArray[np.float64]:
    """When each frame is, in seconds: `start_s + offset_s + i frame_shift_s` [t]."""
    return np.arange(frames, dtype=np.float64) * encoded.frame_shift_s + (start_s + encoded.offset_s)


def of_long(pipeline: Pipeline, blocks: Iterable[Samples], context: Mapping[str, Any]) -> tuple[Posteriors, float]:
    """Posteriors of one long recording, and its seconds.

    The encoder hears it in its own windows where it streams, else in segments cut at pauses, each a part of the whole's
    time; only the posteriors are kept: 4 v bytes for each frame. Signals beside the input are read in step with it.
    """
    rate = pipeline.sample_rate_hz
    signals = synchronous(context, pipeline.context_keys)
    rest = {name: value for name, value in context.items() if name not in signals}
    rest = read_signals(rest, pipeline.context_keys, rate)
    counted = _Counted(blocks)
    with ExitStack() as stack:
        readers = {name: stack.enter_context(SignalReader(value, rate)) for name, value in signals.items()}
        parts = list(_streamed(pipeline, counted, readers, rest) or _cut(pipeline, counted, readers, rest))
    seconds = counted.samples / rate
    if not parts:
        size = len(ctc_head(pipeline).vocabulary)
        return Posteriors(torch.zeros((0, size)), np.zeros(0), 0.0), seconds
    values = torch.cat([part.values for part in parts])
    return Posteriors(values, np.concatenate([part.centres_s for part in parts]), parts[0].frame_shift_s), seconds


class _Counted:
    """Blocks of samples, counted as they go by."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            self.samples += len(block)
            yield block


def _streamed(
    pipeline: Pipeline, blocks: Iterable[Samples], readers: Mapping[str, SignalReader], context: Mapping[str, Any]
) -> Iterator[Posteriors] | None:
    """The parts that the encoder's session gives, or None where it cannot stream."""
    try:
        with torch.inference_mode(), pipeline.using(context):
            session = pipeline.parts["encoder"].open(context)
    except StreamError:
        return None
    head = ctc_head(pipeline)

    def parts() -> Iterator[Posteriors]:
        frames = 0
        for block in chain(blocks, [None]):
            with torch.inference_mode(), pipeline.using(context):
                if block is None:
                    encoded = session.finish()
                else:
                    streams = {name: pipeline.batch([reader.take(len(block))]) for name, reader in readers.items()}
                    encoded = session.push(pipeline.batch([block]), **streams)
                if encoded is None or not int(encoded.lengths[0]):
                    continue
                count = int(encoded.lengths[0])
                values = log_probs(head, encoded)[0, :count].cpu()
            yield Posteriors(values, centres_s(frames + count, encoded)[frames:], encoded.frame_shift_s)
            frames += count

    return parts()


def _cut(
    pipeline: Pipeline, blocks: Iterable[Samples], readers: Mapping[str, SignalReader], context: Mapping[str, Any]
) -> Iterator[Posteriors]:
    segment, rate = pipeline.spec.model.segment, pipeline.sample_rate_hz
    for start_s, samples in segments(blocks, rate, longest_s=segment.longest_s, pause_s=segment.pause_s):
        beside = {name: Recording(reader.take(len(samples)), rate) for name, reader in readers.items()}
        signals = {name: [v] if pipeline.context_keys[name].per_utterance else v for name, v in beside.items()}
        values, lengths, encoded = of_batch(pipeline, [Recording(samples, rate)], {**context, **signals})
        count = int(lengths[0])
        if count:
            yield Posteriors(values[0, :count].cpu(), centres_s(count, encoded, start_s), encoded.frame_shift_s)

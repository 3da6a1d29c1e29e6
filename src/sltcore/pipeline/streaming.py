"""Sessions of a whole pipeline: samples in, the reading so far out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from sltcore.context import SYNCHRONOUS
from sltcore.errors import ContextError, StreamError, did_you_mean
from sltcore.interfaces import Session
from sltcore.types import Encoded, NBest, Waveform

if TYPE_CHECKING:
    from sltcore.pipeline.pipeline import Pipeline

WAIT_SHARE, WAIT_LEAST_S, WAIT_MOST_S = 0.05, 10.0, 300.0


class PipelineSession(Session):
    """Samples in, the reading so far out: the encoder's session feeds the decoder's.

    `push(samples [n] float32 at the pipeline's sample rate, **streams)` returns the reading of everything so far or
    None; `finish()` returns the final one, equal to the offline call where both components claim it. `streams` are
    signals beside the input, as long as the samples (`reference=`), for an encoder that reads them.

    **Raises** `StreamError` after `finish`, `ContextError` for a stream that the encoder does not read.
    """

    def __init__(self, pipeline: Pipeline, context: Mapping[str, Any]) -> None:
        for stage in ("encoder", "decoder"):
            if stage not in pipeline.parts:
                raise StreamError(f"this pipeline has no {stage}; streaming needs an encoder and a decoder")
        self.pipeline = pipeline
        self.context = context
        self._streams = stream_names(pipeline)
        with torch.inference_mode(), pipeline.using(context):
            self.encoder = pipeline.parts["encoder"].open(context)
            self.decoder = pipeline.parts["decoder"].open(context)
        self.finished = False
        self._waiting: list[Encoded] = []
        self._waiting_s = self._heard_s = 0.0

    def push(self, chunk: Any, **streams: Any) -> NBest | None:
        """Take the next samples."""
        encoded = self._encode(chunk, streams)
        if encoded is None:
            return None
        with torch.inference_mode(), self.pipeline.using(self.context):
            result: NBest | None = self.decoder.push(encoded)
            return result

    def feed(self, chunk: Any, **streams: Any) -> None:
        """Take the next samples when nobody reads along.

        Frames wait until they make up a twentieth of what was heard (10 to 300 s) before the decoder gets them: its
        reading of everything so far, made at every push, would cost quadratic time over hours.
        """
        encoded = self._encode(chunk, streams)
        if encoded is None:
            return
        self._waiting.append(encoded)
        seconds = encoded.values.shape[1] * encoded.frame_shift_s
        self._waiting_s += seconds
        self._heard_s += seconds
        if self._waiting_s >= min(max(WAIT_SHARE * self._heard_s, WAIT_LEAST_S), WAIT_MOST_S):
            self._drain()

    def _encode(self, chunk: Any, streams: Mapping[str, Any]) -> Any:
        if self.finished:
            raise StreamError("this session is finished; open another")
        for name in streams:
            if name not in self._streams:
                read = ", ".join(sorted(self._streams)) or "none"
                raise ContextError(
                    f"stream '{name}' is read by no encoder of this pipeline; streams that are read: {read}."
                    f"{did_you_mean(name, self._streams)}"
                )
        with torch.inference_mode(), self.pipeline.using(self.context):
            wrapped = {name: self._wrapped(value) for name, value in streams.items()}
            return self.encoder.push(self._wrapped(chunk), **wrapped)

    def _drain(self) -> None:
        with torch.inference_mode(), self.pipeline.using(self.context):
            for encoded in _together(self._waiting):
                self.decoder.push(encoded)
        self._waiting, self._waiting_s = [], 0.0

    def _wrapped(self, chunk: Any) -> Any:
        """Samples as the first stage wants them; a value that has its type already passes through."""
        if isinstance(chunk, tuple) or self.pipeline.consumes.type != "Waveform":
            return chunk
        samples = torch.as_tensor(chunk, dtype=torch.float32, device=self.pipeline.device).reshape(1, -1)
        lengths = torch.tensor([samples.shape[1]], dtype=torch.int64, device=samples.device)
        return Waveform(samples, lengths, self.pipeline.sample_rate_hz)

    def finish(self) -> NBest:
        """End the utterance."""
        if self.finished:
            raise StreamError("this session is finished; open another")
        self.finished = True
        with torch.inference_mode(), self.pipeline.using(self.context):
            encoded = self.encoder.finish()
            if encoded is not None:
                self._waiting.append(encoded)
            self._drain()
            result: NBest = self.decoder.finish()
            return result


def stream_names(pipeline: Pipeline) -> frozenset[str]:
    """The signals beside the input that the encoder's sessions take."""
    keys = pipeline.parts["encoder"].context_keys()
    return frozenset(key.name for key in keys if key.name in SYNCHRONOUS and key.type == "waveform")


def _together(chunks: list[Encoded]) -> list[Encoded]:
    """Consecutive chunks of one utterance as one; as they are where they carry more than frames."""
    if len(chunks) < 2 or any(chunk.layers or chunk.extra for chunk in chunks):
        return chunks
    values = [chunk.values[:, : int(chunk.lengths[0])] for chunk in chunks]
    lengths = torch.stack([chunk.lengths for chunk in chunks]).sum(dim=0)
    return [chunks[0]._replace(values=torch.cat(values, dim=1), lengths=lengths)]


def session_or_none(pipeline: Pipeline, context: Mapping[str, Any]) -> PipelineSession | None:
    """A session where encoder and decoder both can stream as they are configured, and nothing stands behind them."""
    if set(pipeline.parts) != {"encoder", "decoder"}:
        return None
    try:
        return PipelineSession(pipeline, context)
    except StreamError:
        return None

"""Sessions of a whole pipeline, and long recordings through them in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sltcore.errors import StreamError
from sltcore.interfaces import Session
from sltcore.types import Hypothesis, NBest, Waveform

if TYPE_CHECKING:
    from sltcore.pipeline.pipeline import Pipeline


class PipelineSession(Session):
    """Samples in, the reading so far out: the encoder's session feeds the decoder's.

    `push(samples [n] float32 at the pipeline's sample rate, **streams)` returns the reading of everything so far or
    None; `finish()` returns the final one, equal to the offline call where both components claim it.
    """

    def __init__(self, pipeline: Pipeline, context: Mapping[str, Any]) -> None:
        for stage in ("encoder", "decoder"):
            if stage not in pipeline.parts:
                raise StreamError(f"this pipeline has no {stage}; streaming needs an encoder and a decoder")
        self.pipeline = pipeline
        self.context = context
        with torch.inference_mode():
            self.encoder = pipeline.parts["encoder"].open(context)
            self.decoder = pipeline.parts["decoder"].open(context)
        self.finished = False

    def push(self, chunk: Any, **streams: Any) -> NBest | None:
        """Take the next samples."""
        if self.finished:
            raise StreamError("this session is finished; open another")
        with torch.inference_mode(), self.pipeline.using(self.context):
            encoded = self.encoder.push(self._wrapped(chunk), **streams)
            return None if encoded is None else self.decoder.push(encoded)

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
                self.decoder.push(encoded)
            result: NBest = self.decoder.finish()
            return result


def session_or_none(pipeline: Pipeline, context: Mapping[str, Any]) -> PipelineSession | None:
    """A session where encoder and decoder both can stream as they are configured, and nothing stands behind them."""
    if set(pipeline.parts) != {"encoder", "decoder"}:
        return None
    try:
        return PipelineSession(pipeline, context)
    except StreamError:
        return None


def segments(
    blocks: Iterable[np.ndarray], sample_rate_hz: int, *, longest_s: float, pause_s: float
) -> Iterator[tuple[float, np.ndarray]]:
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


def _cut(samples: np.ndarray, sample_rate_hz: int, pause_s: float) -> int:
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

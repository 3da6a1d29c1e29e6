"""The log-mel front end: the arithmetic of Kaldi, of Whisper, and of what lies between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slt_speech.frames import blank_padding, check_single, check_waveform, frame_mask, refuse_finished
from slt_speech.mel_filters import analysis_window, filter_bank
from slt_speech.mel_settings import MelSettings
from sltcore.errors import ContextError, DataError, StreamError
from sltcore.interfaces import Encoder, Session
from sltcore.types import Features, Port, Waveform

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_SAMPLES = 1 << 22  # frames are cut and transformed in blocks of this many samples, which bounds memory
VARIANCE_FLOOR = 1e-7
POWER_FLOOR = 1e-30  # only for exponents other than 2, whose gradient is infinite at zero


class LogMel(Encoder, nn.Module):
    """Log energies of mel bands: `log(max(M |FFT(w · x)|^p, floor))`, differentiable down to the samples.

    Utterances are framed each to its own end, so that padding changes nothing. Dither is added in training only, from
    `context["generator"]`, independently in every frame as Kaldi does.

    **Source**: Povey et al., The Kaldi Speech Recognition Toolkit (2011), feat/feature-fbank.cc; Radford et al.,
    arXiv:2212.04356, section 2.2. We differ from Whisper in not padding to 30 s.
    """

    def __init__(self, settings: MelSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or MelSettings()
        self.register_buffer("window", analysis_window(self.settings), persistent=False)
        self.register_buffer("filters", filter_bank(self.settings).T.contiguous(), persistent=False)
        self.register_buffer("mean", torch.tensor(self.settings.mean), persistent=False)
        self.register_buffer("std", torch.tensor(self.settings.std), persistent=False)

    window: Tensor
    filters: Tensor
    mean: Tensor
    std: Tensor

    @property
    def consumes(self) -> Port:
        """Samples at the settings' rate."""
        return Port("Waveform", {"sample_rate_hz": self.settings.sample_rate_hz})

    @property
    def produces(self) -> Port:
        """Features with the settings as attributes."""
        return Port("Features", self.settings.port())

    @property
    def offset_s(self) -> float:
        """Time of the centre of frame 0."""
        return self.settings.offset_s

    @property
    def lookahead_frames(self) -> int | None:
        """How many of the last frames of a recording more samples may change, because they reach beyond its end; None
        with a statistic of the whole utterance."""
        if self.settings.whole_utterance:
            return None
        hop = self.settings.hop_length
        start = hop * (self.settings.n_fft // hop + 2)  # beyond it, the difference repeats with every hop
        return max(int(self.settings.frames(n)) - self.settings.whole_frames(n) for n in range(start, start + hop))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] of so many samples [b]; none of an empty signal."""
        return torch.where(lengths > 0, self.settings.frames(lengths), 0).clamp(min=0)

    def forward(self, x: Waveform, context: Mapping[str, Any]) -> Features:
        """Features [b t f] float32 of samples [b n], zero after each length.

        **Raises** `ShapeError` for other shapes or another rate; `ContextError` in training with dither but without
        `context["generator"]`.
        """
        x = check_waveform(x, self.settings.sample_rate_hz, "log-mel")
        lengths = self.output_lengths(x.lengths)
        count = int(lengths.max()) if lengths.numel() else 0
        values = self.measure_frames(x.samples.float(), x.lengths, context, first=0, count=count)
        return Features(self._finish(values, lengths), lengths, self.settings.frame_shift_s)

    def measure_frames(
        self, samples: Tensor, lengths: Tensor, context: Mapping[str, Any], *, first: int, count: int, base: int = 0
    ) -> Tensor:
        """Frames [b count f] from frame `first` on, before anything that needs the whole utterance.

        `samples` [b n] begins at sample `base` of signals of `lengths` [b] samples.
        """
        settings = self.settings
        step = max(1, BLOCK_SAMPLES // (max(1, samples.shape[0]) * settings.n_fft))
        blocks = []
        for start in range(first, first + count, step):
            size = min(step, first + count - start)
            begin = settings.first_sample + start * settings.hop_length
            span = (size - 1) * settings.hop_length + settings.win_length
            cut = cut_mirrored(
                samples, lengths, begin=begin, span=span, base=base, repeat=settings.framing == "reflect"
            )
            blocks.append(self._transform(cut.unfold(1, settings.win_length, settings.hop_length), context))
        if not blocks:
            return samples.new_zeros(samples.shape[0], 0, settings.n_features)
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)

    def open(self, context: Mapping[str, Any]) -> LogMelSession:
        """A session; `StreamError` where a statistic of the whole utterance is part of the settings."""
        if self.settings.whole_utterance:
            reason = "normalize: utterance" if self.settings.normalize == "utterance" else "dynamic_range"
            raise StreamError(
                f"log-mel cannot stream with {reason}, which needs the whole recording; "
                f"set normalize: none or global, and dynamic_range: 0"
            )
        return LogMelSession(self, context)

    def _transform(self, frames: Tensor, context: Mapping[str, Any]) -> Tensor:
        """Log energies [b t f] of frames [b t w]."""
        settings = self.settings
        frames = frames * settings.sample_scale
        if settings.dither and self.training:
            frames = frames + settings.dither * self._noise(frames, context)
        if settings.remove_dc_offset:
            frames = frames - frames.mean(-1, keepdim=True)
        energy = frames.square().sum(-1)
        if settings.preemphasis:
            before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
            frames = frames - settings.preemphasis * before
        frames = frames * self.window
        if not settings.raw_energy:
            energy = frames.square().sum(-1)
        spectrum = torch.view_as_real(torch.fft.rfft(frames, n=settings.n_fft)).square().sum(-1)
        if settings.power != 2.0:
            spectrum = spectrum.clamp(min=POWER_FLOOR).pow(settings.power / 2)
        values = self._logarithm((spectrum @ self.filters).clamp(min=settings.log_floor))
        if settings.use_energy:
            floor = max(settings.log_floor, settings.energy_floor)
            values = torch.cat([self._logarithm(energy.clamp(min=floor))[..., None], values], -1)
        return values

    def _logarithm(self, values: Tensor) -> Tensor:
        if self.settings.log == "none":
            return values
        return values.log() if self.settings.log == "ln" else values.log10()

    def _noise(self, frames: Tensor, context: Mapping[str, Any]) -> Tensor:
        generator = context.get("generator")
        if generator is None:
            raise ContextError(
                f"log-mel: dither is {self.settings.dither:g}, but the call has no generator; "
                f"pass generator=torch.Generator(), or set dither: 0"
            )
        noise = torch.randn(frames.shape, generator=generator, dtype=frames.dtype, device=generator.device)
        return noise.to(frames.device)

    def _finish(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Everything after the logarithm: dynamic range, affine scaling, normalisation."""
        settings = self.settings
        mask = frame_mask(lengths, values.shape[1])[:, :, None]
        if settings.dynamic_range is not None and values.shape[1]:
            loudest = values.masked_fill(~mask, -torch.inf).amax((1, 2), keepdim=True)
            values = torch.maximum(values, (loudest - settings.dynamic_range).clamp(min=-1e30))
        values = (values + settings.log_offset) * settings.log_scale
        if settings.normalize == "global":
            values = (values - self.mean) / self.std if settings.normalize_variance else values - self.mean
        elif settings.normalize == "utterance":
            count = lengths.clamp(min=1)[:, None, None]
            values = values - values.masked_fill(~mask, 0.0).sum(1, keepdim=True) / count
            if settings.normalize_variance:
                variance = values.masked_fill(~mask, 0.0).square().sum(1, keepdim=True) / count
                values = values / (variance + VARIANCE_FLOOR).sqrt()
        return blank_padding(values, lengths)


class LogMelSession(Session):
    """One stream: keeps the samples that frames to come still read, at most two windows and a chunk."""

    def __init__(self, front: LogMel, context: Mapping[str, Any]) -> None:
        self._front = front
        self._context = context
        self._samples: Tensor | None = None
        self._base = 0  # index of the first kept sample in the signal
        self._received = 0
        self._emitted = 0
        self._finished = False

    def push(self, chunk: Waveform, **streams: Any) -> Features | None:
        """The frames that no later sample can change, or None.

        **Raises** `StreamError` after `finish`; `ShapeError` for a chunk of another shape or rate.
        """
        refuse_finished(self._finished, "log-mel")
        settings = self._front.settings
        chunk = check_waveform(chunk, settings.sample_rate_hz, "log-mel")
        check_single(chunk, "log-mel")
        fresh = chunk.samples[:, : int(chunk.lengths[0])].float()
        self._samples = fresh if self._samples is None else torch.cat([self._samples, fresh], 1)
        self._received += fresh.shape[1]
        if self._received <= -settings.first_sample:  # the mirrored beginning is not complete
            return None
        return self._emit(min(settings.whole_frames(self._received), max(0, settings.frames(self._received))))

    def finish(self) -> Features | None:
        """The frames that reach beyond the end, or None."""
        refuse_finished(self._finished, "log-mel")
        self._finished = True
        return self._emit(max(0, self._front.settings.frames(self._received))) if self._received else None

    def _emit(self, until: int) -> Features | None:
        count = until - self._emitted
        if count <= 0 or self._samples is None:
            return None
        front, settings, samples = self._front, self._front.settings, self._samples
        length = torch.tensor([self._received], device=samples.device)
        values = front.measure_frames(samples, length, self._context, first=self._emitted, count=count, base=self._base)
        lengths = torch.full_like(length, count)
        self._emitted = until
        next_start = settings.first_sample + until * settings.hop_length
        keep = max(self._base, min(next_start, self._received - settings.win_length))
        self._samples, self._base = samples[:, keep - self._base :].clone(), keep
        return Features(front._finish(values, lengths), lengths, settings.frame_shift_s)


def cut_mirrored(
    samples: Tensor, lengths: Tensor, *, begin: int, span: int, base: int = 0, repeat: bool = False
) -> Tensor:
    """Samples [b span] from position `begin` on, mirrored at 0 and at each utterance's own end.

    `samples` [b n] starts at position `base`; `repeat` doubles the sample at a mirror, as Kaldi does.

    >>> cut_mirrored(torch.tensor([[1., 2., 3., 0.]]), torch.tensor([3]), begin=-2, span=7).tolist()
    [[3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]]
    """
    if begin >= base and lengths.numel() and begin + span <= int(lengths.min()):
        return samples[:, begin - base : begin - base + span]
    count = lengths.clamp(min=1)[:, None]
    period = 2 * count if repeat else (2 * (count - 1)).clamp(min=1)
    position = torch.arange(begin, begin + span, device=samples.device)[None, :] % period
    index = torch.where(position < count, position, period - int(repeat) - position) - base
    # positions of frames beyond an utterance's last may fall outside; their values are blanked later
    return samples.gather(1, index.clamp(0, max(0, samples.shape[1] - 1)))


def measure(front: LogMel, recordings: Iterable[Waveform]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each feature over recordings, for `normalize: global`.

    **Raises** `DataError` when the recordings hold no frame.
    """
    total = square = None
    frames = 0
    with torch.no_grad():
        for recording in recordings:
            features = front(recording, {})
            kept = features.values[frame_mask(features.lengths, features.values.shape[1])].double()
            total = kept.sum(0) if total is None else total + kept.sum(0)
            square = kept.square().sum(0) if square is None else square + kept.square().sum(0)
            frames += kept.shape[0]
    if total is None or square is None or not frames:
        raise DataError("log-mel: the recordings hold no frame to measure a mean on; give some of at least one window")
    mean = total / frames
    std = (square / frames - mean.square()).clamp(min=VARIANCE_FLOOR).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())

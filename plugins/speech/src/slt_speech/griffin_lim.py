"""Griffin-Lim: a waveform whose spectrogram comes near a given log-mel or log-linear one."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_speech.frames import check_features, check_waveform, frame_mask
from slt_speech.log_mel import LogMel, cut_mirrored
from slt_speech.mel_filters import analysis_window, filter_bank
from slt_speech.mel_settings import MelSettings
from sltcore.errors import SpecError
from sltcore.interfaces import Vocoder
from sltcore.types import Features, Port, Waveform

Spectrum = Literal["mel", "linear"]
PHASE_SEED = 0  # the first guess is a fixed table, the same for every utterance
SMALLEST_OVERLAP = 0.03  # of the largest sum of squared windows; what lies below is not amplified
LARGEST_LOG = 40.0  # nepers; keeps exp finite for any finite input


class Frames:
    """Windowed short-time spectra and their least-squares inverse, each utterance by itself.

    Frame i is samples `first + i * hop ... + win`. The inverse is `sum_i w x_i / sum_i w^2` over the utterance's own
    frames (Griffin & Lim 1984, eq. 6), so that padding changes nothing.
    """

    def __init__(self, settings: MelSettings, window: Tensor, lengths: Tensor, samples: Tensor, count: int) -> None:
        self.n_fft, self.hop, self.first = settings.n_fft, settings.hop_length, settings.first_sample
        self.window = window
        self.count = count
        self.mask = frame_mask(lengths, count).to(window.dtype)
        self.longest = int(samples.max()) if len(samples) else 0
        self.inside = frame_mask(samples, self.longest)
        self.span = (count - 1) * self.hop + len(window)
        overlap = self._fold(self.mask[:, :, None] * window.square())
        self.overlap = overlap.clamp_min(SMALLEST_OVERLAP * float(overlap.max()))

    def forward(self, samples: Tensor) -> Tensor:
        """Spectra [b t k] complex of samples [b n], silence outside."""
        tail = max(0, self.span + self.first - self.longest)
        buffer = functional.pad(samples, (max(0, -self.first), tail))[:, max(0, self.first) :][:, : self.span]
        spectra: Tensor = torch.fft.rfft(buffer.unfold(1, len(self.window), self.hop) * self.window, n=self.n_fft)
        return spectra

    def inverse(self, spectra: Tensor) -> Tensor:
        """Samples [b n] of spectra [b t k]."""
        frames = torch.fft.irfft(spectra, n=self.n_fft)[..., : len(self.window)] * self.window
        buffer = self._fold(frames * self.mask[:, :, None]) / self.overlap
        buffer = functional.pad(buffer, (max(0, self.first), self.longest))
        return buffer[:, max(0, -self.first) :][:, : self.longest] * self.inside

    def _fold(self, frames: Tensor) -> Tensor:
        """Overlap-add of frames [b t w]: [b span]."""
        folded = functional.fold(frames.mT, (1, self.span), (1, len(self.window)), stride=(1, self.hop))
        return folded[:, 0, 0]


def invert_mel(mel: Tensor, filters: Tensor, *, steps: int = 100) -> Tensor:
    """The non-negative spectrum s [... k] that minimises `|M s - mel|^2` for mel [... f] and filters M [k f].

    Starts from the clipped pseudo-inverse; accelerated projected gradient with step 1 / |M|^2 (Beck & Teboulle, FISTA,
    2009, doi:10.1137/080716542). Each frame is scaled to a largest value of one first, so loud and soft ones converge
    alike.
    """
    scale = mel.amax(-1, keepdim=True).clamp_min(1e-30)
    goal = mel / scale
    step = 1.0 / torch.linalg.matrix_norm(filters, 2).square()
    found = previous = (goal @ torch.linalg.pinv(filters)).clamp_min(0.0)
    momentum = 1.0
    for _ in range(steps):
        after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        point = found + (momentum - 1) / after * (found - previous)
        previous, momentum = found, after
        found = (point - step * ((point @ filters - goal) @ filters.mT)).clamp_min(0.0)
    result: Tensor = found * scale
    return result


def griffin_lim(magnitude: Tensor, frames: Frames, *, iterations: int, momentum: float) -> Tensor:
    """Samples [b n] whose short-time magnitudes come near `magnitude` [b t k].

    Fast Griffin-Lim: c_i = P(t_{i-1}), t_i = c_i + momentum (c_i - c_{i-1}), where P makes a spectrogram consistent
    (inverse and forward) after the wanted magnitudes were put in. Momentum 0 is the original algorithm.

    **Source**: Griffin & Lim, IEEE TASSP 32(2), 1984; Perraudin, Balazs, Søndergaard, WASPAA 2013,
    doi:10.1109/WASPAA.2013.6701851. The first phases are a fixed table of uniform random angles.
    """
    count, bins = magnitude.shape[1:]
    table = np.random.default_rng(PHASE_SEED).random((count, bins), dtype=np.float32)
    angle = torch.from_numpy(table).to(magnitude) * (2 * torch.pi)
    phase = torch.polar(torch.ones_like(angle), angle).expand(len(magnitude), -1, -1)
    before: Tensor | None = None
    for _ in range(iterations):
        consistent = frames.forward(frames.inverse(magnitude * phase))
        ahead = consistent if before is None else consistent + momentum * (consistent - before)
        before = consistent
        phase = ahead / ahead.abs().clamp_min(1e-16)
    return frames.inverse(magnitude * phase)


class GriffinLim(Vocoder, nn.Module):
    """Speech from log-mel (or log-linear) frames by iterative phase reconstruction; no training.

    `analyze` is the log-mel front end of the same settings, so its frames are those the port states. `synthesize`
    undoes the logarithm and scaling, finds a non-negative spectrum for the mel bands, takes pre-emphasis off, and runs
    fast Griffin-Lim. For `linear`, frames are `ln(max(|FFT|^2, log_floor))`, n_fft / 2 + 1 bins.

    t frames give the samples that have t frames again: t * hop, except with `center` (one hop less, unless the last
    frame is dropped) and `snip` (one window and t - 1 hops).

    **Source**: see `griffin_lim` and `invert_mel`. Deviations: the removal of each frame's mean (Kaldi) and dither are
    not undone; the energy column of `use_energy` is not read.
    """

    def __init__(
        self, settings: MelSettings, *, spectrum: Spectrum = "mel", iterations: int = 60, momentum: float = 0.99
    ) -> None:
        """**Raises** `SpecError` for features whose level is lost: normalisation over the utterance, no logarithm of
        linear spectra, or a mel filter that no FFT bin falls into."""
        super().__init__()
        if settings.normalize == "utterance":
            raise SpecError(
                "vocoder 'griffin-lim': normalize: utterance loses the level of a recording, which cannot be undone; "
                "use normalize: none or global"
            )
        self.settings = settings
        self.spectrum = spectrum
        self.iterations = iterations
        self.momentum = momentum
        self.front = LogMel(settings) if spectrum == "mel" else None
        self.window: Tensor
        self.filters: Tensor
        self.emphasis: Tensor
        self.register_buffer("window", analysis_window(settings), persistent=False)
        filters = filter_bank(settings).T.contiguous() if spectrum == "mel" else torch.zeros(0, 0)
        empty = (filters.sum(0) == 0).nonzero().flatten().tolist()
        if empty:
            raise SpecError(
                f"vocoder 'griffin-lim': {len(empty)} of {settings.n_mels} mel filters hold no FFT bin (first: "
                f"{empty[0]}); use fewer n_mels or a larger n_fft than {settings.n_fft}"
            )
        self.register_buffer("filters", filters, persistent=False)
        omega = torch.linspace(0, torch.pi, settings.n_fft // 2 + 1)
        gain = (1 + settings.preemphasis**2 - 2 * settings.preemphasis * torch.cos(omega)).clamp_min(1e-4).sqrt()
        self.register_buffer("emphasis", gain, persistent=False)

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveforms it analyzes and makes."""
        return self.settings.sample_rate_hz

    @property
    def n_features(self) -> int:
        """Width of a frame."""
        return self.settings.n_features if self.spectrum == "mel" else self.settings.n_fft // 2 + 1

    @property
    def consumes(self) -> Port:
        """Features with the settings that shape them."""
        attributes: dict[str, Any] = {**self.settings.port(), "f": self.n_features}
        if self.spectrum == "linear":
            kept = ("f", "frame_shift_s", "sample_rate_hz", "n_fft")
            attributes = {"kind": "log-linear", **{key: attributes[key] for key in kept}}
        return Port("Features", attributes)

    @property
    def produces(self) -> Port:
        """Waveforms at the settings' rate."""
        return Port("Waveform", {"sample_rate_hz": self.sample_rate_hz})

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """The fewest samples with so many frames, in whole hops."""
        settings = self.settings
        if settings.framing == "snip":
            return torch.where(lengths > 0, (lengths - 1) * settings.hop_length + settings.win_length, 0)
        if settings.framing == "center" and not settings.drop_last_frame:
            # One frame has its centre on the very first sample; half a hop keeps it from having no sample at all.
            whole = (lengths - 1) * settings.hop_length
            return torch.where(lengths == 1, max(1, settings.hop_length // 2), whole.clamp_min(0))
        return lengths * settings.hop_length

    def analyze(self, waveform: Waveform) -> Features:
        """Features [b t f] of samples [b n]. **Raises** `ShapeError` for another sample rate."""
        if self.front is not None:
            return self.front(waveform, {})  # type: ignore[no-any-return]
        settings = self.settings
        waveform = check_waveform(waveform, self.sample_rate_hz, "griffin-lim")
        lengths = torch.where(waveform.lengths > 0, settings.frames(waveform.lengths), 0).clamp(min=0)
        count = int(lengths.max()) if len(lengths) else 0
        if not count:
            return Features(self.window.new_zeros(len(lengths), 0, self.n_features), lengths, settings.frame_shift_s)
        span = (count - 1) * settings.hop_length + settings.win_length
        cut = cut_mirrored(
            waveform.samples.float(),
            waveform.lengths,
            begin=settings.first_sample,
            span=span,
            repeat=settings.framing == "reflect",
        )
        frames = cut.unfold(1, settings.win_length, settings.hop_length) * self.window
        power = torch.view_as_real(torch.fft.rfft(frames, n=settings.n_fft)).square().sum(-1)
        values = power.clamp_min(settings.log_floor).log() * frame_mask(lengths, count)[..., None]
        return Features(values, lengths, settings.frame_shift_s)

    @torch.no_grad()
    def synthesize(self, features: Features) -> Waveform:
        """Samples [b n] of features [b t f], clipped to [-1, 1].

        **Raises** `ShapeError` for another number of features.
        """
        checked = check_features(features, self.n_features, "griffin-lim")
        lengths = self.output_lengths(checked.lengths)
        longest = int(checked.lengths.max()) if len(checked.lengths) else 0
        if not longest:
            return Waveform(checked.values.new_zeros(len(lengths), 0), lengths, self.sample_rate_hz)
        mask = frame_mask(checked.lengths, longest)[..., None]
        values = torch.where(mask, checked.values[:, :longest].float(), 0.0)
        magnitude = self.magnitudes(values) * mask
        frames = Frames(self.settings, self.window, checked.lengths, lengths, longest)
        samples = griffin_lim(magnitude, frames, iterations=self.iterations, momentum=self.momentum)
        return Waveform(samples.clamp(-1.0, 1.0), lengths, self.sample_rate_hz)

    def magnitudes(self, values: Tensor) -> Tensor:
        """Short-time magnitudes [b t n_fft/2+1] of features [b t f], in units of samples in [-1, 1]."""
        settings = self.settings
        if self.spectrum == "linear":
            return (0.5 * values.clamp(max=2 * LARGEST_LOG)).exp()
        if settings.use_energy:
            values = values[..., 1:]
        if self.front is not None and settings.normalize == "global":
            mean, std = self.front.mean, self.front.std
            if settings.use_energy and len(mean) > 1:
                mean, std = mean[1:], std[1:]
            values = (values * std if settings.normalize_variance else values) + mean
        values = values / settings.log_scale - settings.log_offset
        if settings.log == "none":
            energy = values.clamp_min(settings.log_floor)
        else:
            natural = values if settings.log == "ln" else values * np.log(10.0)
            energy = natural.clamp(max=LARGEST_LOG).exp()
        # What the front end's floor put in is silence, not sound.
        energy = torch.where(energy <= settings.log_floor * 1.001, 0.0, energy)
        spectrum = invert_mel(energy, self.filters)
        return spectrum.pow(1 / settings.power) / self.emphasis / settings.sample_scale

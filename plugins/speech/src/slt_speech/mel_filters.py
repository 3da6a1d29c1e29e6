"""Mel filter banks and analysis windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from slt_speech.mel_settings import MelSettings

BLACKMAN_COEFFICIENT = 0.42  # Kaldi's --blackman-coeff
POVEY_EXPONENT = 0.85
SLANEY_BREAK_HZ, SLANEY_BREAK_MEL = 1000.0, 15.0  # linear at 200/3 Hz a mel below, logarithmic above
SLANEY_STEP = math.log(6.4) / 27.0


def hz_to_mel(frequency_hz: Tensor, scale: str) -> Tensor:
    """Mel of hertz, elementwise: `1127 ln(1 + f/700)` (htk), or linear to 1 kHz and logarithmic above (slaney).

    **Source**: Young et al., The HTK Book, section 5.4; M. Slaney, Auditory Toolbox, 1998.
    """
    if scale == "htk":
        return 1127.0 * torch.log1p(frequency_hz / 700.0)
    above = SLANEY_BREAK_MEL + torch.log(frequency_hz.clamp(min=1e-10) / SLANEY_BREAK_HZ) / SLANEY_STEP
    return torch.where(frequency_hz >= SLANEY_BREAK_HZ, above, 3.0 * frequency_hz / 200.0)


def mel_to_hz(mel: Tensor, scale: str) -> Tensor:
    """Hertz of mel: the inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700.0 * torch.expm1(mel / 1127.0)
    above = SLANEY_BREAK_HZ * torch.exp(SLANEY_STEP * (mel - SLANEY_BREAK_MEL))
    return torch.where(mel >= SLANEY_BREAK_MEL, above, 200.0 * mel / 3.0)


def filter_bank(settings: MelSettings) -> Tensor:
    """Weights [f, n_fft / 2 + 1] float32 of overlapping triangles, equally spaced in mel.

    The sides of a triangle are straight in mel (Kaldi) or in hertz (librosa, Whisper), as
    `triangularize_in_mel_space` says; the slaney norm divides each by half its width in hertz.
    """
    scale = settings.mel_scale
    bounds = torch.tensor([settings.low_freq_hz, settings.top_freq_hz], dtype=torch.float64)
    low, high = hz_to_mel(bounds, scale).tolist()
    corners_mel = torch.linspace(low, high, settings.n_mels + 2, dtype=torch.float64)
    corners_hz = mel_to_hz(corners_mel, scale)
    bins_hz = torch.arange(settings.n_fft // 2 + 1, dtype=torch.float64) * settings.sample_rate_hz / settings.n_fft
    if settings.triangularize_in_mel_space:
        corners, bins = corners_mel, hz_to_mel(bins_hz, scale)
    else:
        corners, bins = corners_hz, bins_hz
    left, center, right = (corners[i : i + settings.n_mels, None] for i in range(3))
    rising, falling = (bins - left) / (center - left), (right - bins) / (right - center)
    weights = torch.minimum(rising, falling).clamp(min=0.0)
    if settings.mel_norm == "slaney":
        weights = weights * (2.0 / (corners_hz[2:] - corners_hz[:-2]))[:, None]
    return weights.float()


def analysis_window(settings: MelSettings) -> Tensor:
    """The window [win_length] float32; a periodic window of n points is the first n of a symmetric one of n + 1."""
    count = settings.win_length
    phase = 2 * math.pi * torch.arange(count, dtype=torch.float64) / (count if settings.window_periodic else count - 1)
    hann = 0.5 - 0.5 * torch.cos(phase)
    if settings.window == "povey":
        shape = hann**POVEY_EXPONENT
    elif settings.window == "hann":
        shape = hann
    elif settings.window == "hamming":
        shape = 0.54 - 0.46 * torch.cos(phase)
    elif settings.window == "blackman":
        a = BLACKMAN_COEFFICIENT
        shape = a - 0.5 * torch.cos(phase) + (0.5 - a) * torch.cos(2 * phase)
    else:
        shape = torch.ones(count, dtype=torch.float64)
    return shape.float()

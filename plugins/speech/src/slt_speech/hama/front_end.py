"""The recogniser's log-mel features: computed so exactly that their float16 rounding does not depend on the batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE_HZ = 16000
HOP = 160
FRAME = 400
BINS = FRAME // 2 + 1
MEL_FILTERS = 80
MEL_LOW_HZ, MEL_HIGH_HZ = 40.0, 7600.0
FLOOR = 1e-10
EDGE = FRAME // 2
# Reflecting 200 samples at an edge needs one sample more.
SHORTEST = EDGE + 1


class FrontEnd(nn.Module):
    """Log-mel features [b t 80] float32 of samples [b n]: 25 ms frames every 10 ms, n // 160 + 1 of them.

    Samples are clipped to [-1, 1] and reflected at both ends (200 samples); power spectrum under a periodic Hann
    window; 80 Slaney filters from 40 to 7600 Hz; ln(max(., 1e-10)); rounded to float16 with a straight-through
    gradient. All sums are float64: in float32 their order, which depends on the batch, decides some roundings, and one
    flip moves a log-probability by up to 0.005. On devices without float64 (MPS) they are float32.
    """

    frame_shift_s = HOP / SAMPLE_RATE_HZ
    real_kernel: Tensor
    imag_kernel: Tensor
    mel_filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        real, imag = fourier_kernels()
        self.register_buffer("real_kernel", real)
        self.register_buffer("imag_kernel", imag)
        self.register_buffer("mel_filters", mel_filters())

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Features of `samples` [b n] with `lengths` [b]; frames after an utterance's end are zero."""
        features = self.log_mel(reflect_edges(samples, lengths))
        beyond = torch.arange(features.shape[1], device=features.device) >= self.output_lengths(lengths)[:, None]
        return features.masked_fill(beyond[..., None], 0.0)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] of samples [b]."""
        return torch.where(lengths > 0, lengths // HOP + 1, 0)

    def log_mel(self, samples: Tensor) -> Tensor:
        """Features [b t 80] of samples [b n] whose edges are already extended: t = (n - 400) // 160 + 1."""
        exact = torch.float32 if samples.device.type == "mps" else torch.float64
        # Bins without any filter are not computed.
        last = int(MEL_HIGH_HZ * (FRAME + 1) / SAMPLE_RATE_HZ)
        kernels = torch.cat((self.real_kernel[1:last], self.imag_kernel[1:last])).to(exact)
        filters = self.mel_filters[1:last].to(exact)
        with torch.autocast(samples.device.type, enabled=False):
            frames = samples.to(exact).clamp(-1.0, 1.0).unfold(1, FRAME, HOP)
            real, imag = (frames @ kernels.T).chunk(2, dim=-1)
            energies = (real.square() + imag.square()) @ filters
            features = energies.clamp(min=FLOOR).log().float()
        return features + (features.half().float() - features).detach()


def reflect_edges(samples: Tensor, lengths: Tensor) -> Tensor:
    """Each utterance of `samples` [b n] with 200 reflected samples before its start and after its end: [b n + 400].

    x[-i] = x[i] and x[L - 1 + i] = x[L - 1 - i]. Shorter ones than 201 samples are first extended to 201 by zeros.
    """
    inside = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
    samples = samples.masked_fill(~inside, 0.0)
    if samples.shape[1] < SHORTEST:
        samples = F.pad(samples, (0, SHORTEST - samples.shape[1]))
    last = lengths.clamp(min=SHORTEST)[:, None] - 1
    wanted = torch.arange(-EDGE, samples.shape[1] + EDGE, device=samples.device).abs()
    return samples.gather(1, (last - (last - wanted).abs()).abs().clamp(max=samples.shape[1] - 1))


def fourier_kernels() -> tuple[Tensor, Tensor]:
    """w cos(2 pi k n / 400) and -w sin(2 pi k n / 400) with a periodic Hann window w: two [201 400] float32.

    The angle is rounded to float32, as in the stored kernels, which differ by 1e-4 from exact ones.
    """
    bins = np.arange(BINS, dtype=np.float32)[:, None]
    angle = np.float32(2 * np.pi) * bins * np.arange(FRAME, dtype=np.float32) / np.float32(FRAME)
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    return torch.from_numpy(window * np.cos(angle)), torch.from_numpy(-window * np.sin(angle))


def mel_filters() -> Tensor:
    """Triangles on the Slaney mel scale, 2 / width high: [201 80] float32.

    Corners lie on whole bins floor(401 f / 16000), at least one apart, so the two lowest filters are the same bin.
    """
    low, high = _mel(np.array([MEL_LOW_HZ, MEL_HIGH_HZ]))
    corners_hz = _mel_to_hz(np.linspace(low, high, MEL_FILTERS + 2))
    corners = np.floor((FRAME + 1) * corners_hz / SAMPLE_RATE_HZ)
    bins = np.arange(BINS)[:, None]
    left = corners[:-2]
    centre = np.maximum(corners[1:-1], left + 1)
    right = np.maximum(corners[2:], centre + 1)
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    triangles = np.where(bins < centre, rising, falling).clip(min=0.0)
    return torch.from_numpy((triangles * 2.0 / (corners_hz[2:] - corners_hz[:-2])).astype(np.float32))


def _mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear up to 1 kHz (15 mel), then 27 mel for each factor of 6.4."""
    return np.where(hz < 1000.0, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp((np.maximum(mel, 15.0) - 15) * np.log(6.4) / 27))

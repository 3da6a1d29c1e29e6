"""Speed perturbation: the recording played faster or slower, pitch and all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from slt_speech.augmentations.draws import choice
from slt_speech.frames import check_waveform
from sltcore.errors import SpecError
from sltcore.interfaces import Augmentation
from sltcore.types import Port, Waveform

if TYPE_CHECKING:
    from torch import Generator, Tensor

LEAST, MOST = 0.25, 4.0


def changed_lengths(lengths: Tensor, factor: float) -> Tensor:
    """Samples [b] after playing samples [b] `factor` times as fast: ceil(n / factor)."""
    return torch.tensor([math.ceil(length / factor) for length in lengths.tolist()], dtype=torch.int64)


class Speed(Augmentation):
    """Each utterance resampled as if it were played `factor` times as fast, the factor drawn from `factors`.

    `n` samples become ceil(n / factor); tempo and pitch change together. The resampler is soxr at its high quality, so a
    factor above 1 does not fold frequencies back. Factor 1 leaves the samples bit for bit.

    **Source**: Ko, Peddinti, Povey, Khudanpur, "Audio augmentation for speech recognition", Interspeech 2015, section 2,
    doi:10.21437/Interspeech.2015-711, with its factors 0.9, 1.0 and 1.1 as default.

    **Raises** `SpecError` when there is no factor, or one outside 0.25 to 4.
    """

    def __init__(self, factors: Sequence[float] = (0.9, 1.0, 1.1)) -> None:
        wrong = [factor for factor in factors if not LEAST <= factor <= MOST]
        if wrong or not factors:
            given = f"factor {wrong[0]:g}" if wrong else "no factor"
            raise SpecError(f"speed: {given} is given, expected factors from {LEAST:g} to {MOST:g}")
        self.factors = tuple(float(factor) for factor in factors)

    @property
    def consumes(self) -> Port:
        """Sound of any rate."""
        return Port("Waveform")

    @property
    def produces(self) -> Port:
        """Sound of the same rate."""
        return Port("Waveform")

    def output_lengths(self, lengths: Tensor) -> Tensor | None:
        """`changed_lengths` where there is one factor; None where chance decides."""
        return changed_lengths(lengths, self.factors[0]) if len(set(self.factors)) == 1 else None

    @torch.no_grad()
    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: Generator) -> Waveform:
        """Samples [b n'] of samples [b n], on the input's device. **Raises** `ShapeError` for another shape."""
        check_waveform(x, None, "speed")
        rows = []
        for row, length in enumerate(x.lengths.tolist()):
            factor = choice(self.factors, generator)
            rows.append(_played(x.samples[row, :length].cpu().float().numpy(), factor))
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        samples = torch.zeros(len(rows), max(map(len, rows), default=0))
        for place, played in enumerate(rows):
            samples[place, : len(played)] = torch.from_numpy(played)
        return x._replace(samples=samples.to(x.samples), lengths=lengths.to(x.lengths))


def _played(samples: np.ndarray[Any, Any], factor: float) -> np.ndarray[Any, Any]:
    """Samples (n,) float32 as ceil(n / factor) samples in [-1, 1] where they were."""
    if factor == 1.0 or not len(samples):
        return samples
    import soxr

    length = math.ceil(len(samples) / factor)
    played = np.asarray(soxr.resample(samples, factor * 1e5, 1e5, quality="HQ"), np.float32)
    played = np.pad(played, (0, max(0, length - len(played))))[:length]
    peak = float(np.abs(samples).max())
    clipped: np.ndarray[Any, Any] = np.clip(played, -max(peak, 1.0), max(peak, 1.0))
    return clipped

"""A good vocoder, and one that breaks each promise."""

from __future__ import annotations

import torch
from torch import Tensor

from sltcore.interfaces import Vocoder
from sltcore.types import Features, Port, Waveform

HOP = 160
SMALL: dict[str, object] = {}


class Good(Vocoder):
    """A frame is 160 samples, and samples are frames in a row. Source: own, for tests."""

    @property
    def sample_rate_hz(self) -> int:
        return 16000

    @property
    def consumes(self) -> Port:
        return Port("Features", {"f": HOP, "frame_shift_s": HOP / 16000})

    @property
    def produces(self) -> Port:
        return Port("Waveform", {"sample_rate_hz": 16000})

    def analyze(self, waveform: Waveform) -> Features:
        return Features(waveform.samples.unfold(1, HOP, HOP), waveform.lengths // HOP, HOP / 16000)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths * HOP

    def synthesize(self, features: Features) -> Waveform:
        inside = (torch.arange(features.values.shape[1]) < features.lengths[:, None])[..., None]
        samples = (features.values * inside).flatten(1)
        return Waveform(self.changed(samples, features, inside), features.lengths * HOP, 16000)

    def changed(self, samples: Tensor, features: Features, inside: Tensor) -> Tensor:
        """Where most broken ones differ."""
        return samples


class OverstatesDuration(Good):
    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths * HOP + 1


class Hums(Good):
    def changed(self, samples: Tensor, features: Features, inside: Tensor) -> Tensor:
        return samples + 0.05


class Overflows(Good):
    def changed(self, samples: Tensor, features: Features, inside: Tensor) -> Tensor:
        return samples + torch.exp(100 * samples) * 1e-38


class LosesFrames(Good):
    def analyze(self, waveform: Waveform) -> Features:
        found = super().analyze(waveform)
        return found._replace(lengths=found.lengths - 3)


class ReadsPadding(Good):
    def changed(self, samples: Tensor, features: Features, inside: Tensor) -> Tensor:
        return samples + (features.values * ~inside).sum(dim=(1, 2))[:, None]


class DrawsGlobally(Good):
    def changed(self, samples: Tensor, features: Features, inside: Tensor) -> Tensor:
        return samples + 1e-6 * torch.randn(samples.shape)


class MisstatesPort(Good):
    @property
    def consumes(self) -> Port:
        return Port("Features", {"f": HOP + 1})


BROKEN = {
    "duration": (OverstatesDuration, "output_lengths says"),
    "silence": (Hums, "the loudest sample is 0.05, silence_level is 0.01"),
    "finite": (Overflows, "that are NaN or infinite"),
    "round-trip": (LosesFrames, "frames came back as"),
    "padding": (ReadsPadding, "with noise in the padding, utterance"),
    "deterministic": (DrawsGlobally, "two calls with the same features differ"),
    "port": (MisstatesPort, r"it consumes Features\(f=161\), but analyze gives f=160"),
}

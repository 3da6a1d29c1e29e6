"""A good augmentation, and one that breaks each promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from sltcore.interfaces import Augmentation
from sltcore.types import Port, Waveform

SMALL: dict[str, object] = {}


class Good(Augmentation):
    """Another loudness for each utterance. Source: own, for tests."""

    @property
    def consumes(self) -> Port:
        return Port("Waveform", {"sample_rate_hz": 8000})

    @property
    def produces(self) -> Port:
        return self.consumes

    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: Generator) -> Waveform:
        return x._replace(samples=self.gains(len(x.lengths), generator)[:, None] * x.samples)

    def gains(self, size: int, generator: Generator) -> Tensor:
        return 0.5 + torch.rand(size, generator=generator)


class DrawsGlobally(Good):
    def gains(self, size: int, generator: Generator) -> Tensor:
        return super().gains(size, generator) + torch.rand(size)


class SeedsItself(Good):
    def gains(self, size: int, generator: Generator) -> Tensor:
        return super().gains(size, torch.Generator().manual_seed(1))


class GivesDoubles(Good):
    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: Generator) -> Waveform:
        out = super().__call__(x, context, generator)
        return out._replace(samples=out.samples.double())


class OverstatesDuration(Good):
    def output_lengths(self, lengths: Tensor) -> Tensor | None:
        return lengths + 1


class ReadsPadding(Good):
    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: Generator) -> Waveform:
        outside = torch.arange(x.samples.shape[1]) >= x.lengths[:, None]
        level = 1 + (x.samples * outside).abs().mean(dim=1, keepdim=True)
        return super().__call__(x._replace(samples=x.samples / level), context, generator)


class WritesInPlace(Good):
    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: Generator) -> Waveform:
        out = super().__call__(x, context, generator)
        out.samples[:, -1] = 0.0
        x.samples[:, -1] = 0.125
        return out


BROKEN = {
    "deterministic": (DrawsGlobally, "two calls with the same generator state differ: utterance 0: sample"),
    "random": (SeedsItself, "8 generator states gave one result"),
    "type": (GivesDoubles, "torch.float32 with 2 axes became torch.float64 with 2"),
    "duration": (OverstatesDuration, "output_lengths says"),
    "padding": (ReadsPadding, "with noise in the padding, utterance 1"),
    "input-kept": (WritesInPlace, "the input changed: utterance 0: sample 7199 is the first of 1 among 7200"),
}

"""Builders and configs of encoders: a good one, and one that breaks each promise of every component."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from sltcore.interfaces import Encoder
from sltcore.plugin import Ports
from sltcore.spec import Config
from sltcore.types import ContextKey, Encoded, Features, Port


class GoodConfig(Config):
    gain: float = Field(1.0, ge=0, le=10, description="factor")


class UndescribedConfig(Config):
    gain: float = Field(1.0, ge=0, le=10)


class UnreadConfig(Config):
    gain: float = Field(1.0, ge=0, le=10, description="factor")
    colour: str = Field("red", description="of nothing")


class LenientConfig(Config):
    gain: float = Field(1.0, ge=0, le=10, description="factor")

    @field_validator("gain", mode="before")
    @classmethod
    def _any(cls, value: Any) -> float:
        return value if isinstance(value, float) else 1.0


class Scaled(Encoder, nn.Module):
    """Frames times a gain, mapped.

    Source: own, for tests.
    """

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.map = nn.Linear(4, 4)

    @property
    def consumes(self) -> Port:
        return Port("Features", {"f": 4})

    @property
    def produces(self) -> Port:
        return Port("Encoded", {"d": 4})

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths

    def forward(self, x: Features, context: Mapping[str, Any]) -> Encoded:
        return Encoded(self.gain * self.map(x.values), x.lengths, x.frame_shift_s)


class Unsourced(Scaled):
    """Frames times a gain, mapped."""


class WritesText(Scaled):
    """Source: own."""

    @property
    def produces(self) -> Port:
        return Port("Text")


class ReadsUnknown(Scaled):
    """Source: own."""

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (ContextKey("phrases", "textes", "phrases to expect"),)


class HidesWeights(Scaled):
    """Source: own."""

    def __init__(self, gain: float) -> None:
        super().__init__(gain)
        self.hidden = torch.rand(4)

    def forward(self, x: Features, context: Mapping[str, Any]) -> Encoded:
        out = super().forward(x, context)
        return out._replace(values=out.values + self.hidden)


class Duck:
    """Has what an encoder has, and is none. Source: own."""

    consumes, produces = Port("Features", {"f": 4}), Port("Encoded", {"d": 4})

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def context_keys(self) -> tuple[ContextKey, ...]:
        return ()

    def save_files(self) -> dict[str, bytes]:
        return {}

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths

    def __call__(self, x: Features, context: Mapping[str, Any]) -> Encoded:
        return Encoded(self.gain * x.values, x.lengths, x.frame_shift_s)


def good(config: Any, ports: Ports) -> Any:
    return Scaled(config.gain)


def slow(config: Any, ports: Ports) -> Any:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    return Scaled(config.gain)


def unsourced(config: Any, ports: Ports) -> Any:
    return Unsourced(config.gain)


def writes_text(config: Any, ports: Ports) -> Any:
    return WritesText(config.gain)


def reads_unknown(config: Any, ports: Ports) -> Any:
    return ReadsUnknown(config.gain)


def hides_weights(config: Any, ports: Ports) -> Any:
    return HidesWeights(config.gain)


def duck(config: Any, ports: Ports) -> Any:
    return Duck(config.gain)

"""Vocoder: a waveform from features, and features from a waveform."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from sltcore.interfaces.part import Part

if TYPE_CHECKING:
    from torch import Tensor

    from sltcore.types import Features, Waveform


class Vocoder(Part):
    """Synthesizes speech. Alone in a pipeline it is copy synthesis."""

    promises: ClassVar[Mapping[str, str]] = {
        "duration": "synthesize gives exactly output_lengths samples for each utterance",
        "silence": "silence in gives finite samples out, no louder than silence_level",
        "finite": "no NaN or infinity comes out of finite input",
        "round-trip": "analyze after synthesize gives the number of frames it started from, within one",
        "padding": "what stands after an utterance's length never changes its samples",
        "deterministic": "the same features give the same samples twice",
        "port": "synthesize consumes what analyze produces, and the port says so",
    }

    silence_level: float = 1e-2

    @property
    @abstractmethod
    def sample_rate_hz(self) -> int:
        """Of the waveforms it analyzes and makes."""

    @abstractmethod
    def analyze(self, waveform: Waveform) -> Features:
        """Features [b t f] of samples [b n]. **Raises** `ShapeError` for another sample rate."""

    @abstractmethod
    def synthesize(self, features: Features) -> Waveform:
        """Samples [b n] of features [b t f]. **Raises** `ShapeError` for another number of features."""

    @abstractmethod
    def output_lengths(self, lengths: Tensor) -> Tensor:
        """The duration law: samples out for frames in, [b] int64 -> [b] int64."""

"""A pipeline whose recordings are their own transcripts: each 10 ms of sound says which letter is spoken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sltcore import ctc
from sltcore.errors import StreamError
from sltcore.interfaces import Decoder, Encoder, Session
from sltcore.plugin import Component, Ports, hookimpl
from sltcore.registry import Registry
from sltcore.spec import Config
from sltcore.types import Encoded, NBest, Port, Waveform
from sltcore.vocabulary import Vocabulary

HOP = 160
OFFSET_S = 0.005
LETTERS = ("_", " ", "a", "b", "c", "'")
VOCABULARY = Vocabulary(LETTERS, kind="characters", blank=0, boundary=1)
UNMARKED = Vocabulary(LETTERS, kind="characters", blank=0)
SURE = 12.0


def said(path: str) -> np.ndarray:
    """Samples of which each frame of 10 ms says one letter; `_` is silence."""
    return np.repeat(np.array([LETTERS.index(c) for c in path], np.float32) / 16, HOP)


class Letters(Encoder):
    """Frames [b t v]: 12 where the letter is, 0 elsewhere."""

    def __init__(self, *, streams: bool) -> None:
        self.streams = streams

    @property
    def consumes(self) -> Port:
        return Port("Waveform", {"sample_rate_hz": 16000})

    @property
    def produces(self) -> Port:
        return Port("Encoded", {"d": len(LETTERS), "frame_shift_s": 0.01})

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // HOP

    def forward(self, x: Waveform, context: Mapping[str, Any]) -> Encoded:
        frames = x.samples.shape[1] // HOP
        means = x.samples[:, : frames * HOP].reshape(len(x.samples), frames, HOP).mean(-1)
        letters = (means * 16).round().long().clamp(0, len(LETTERS) - 1)
        values = SURE * nn.functional.one_hot(letters, len(LETTERS)).float()
        return Encoded(values, self.output_lengths(x.lengths), 0.01, OFFSET_S)

    def open(self, context: Mapping[str, Any]) -> Session:
        if not self.streams:
            raise StreamError("this encoder does not stream")
        return LettersSession(self)


class LettersSession(Session):
    """Blocks of whole hops; the rest waits."""

    def __init__(self, encoder: Letters) -> None:
        self.encoder = encoder
        self.held = torch.zeros(1, 0)

    def push(self, chunk: Waveform, **streams: Any) -> Encoded | None:
        samples = torch.cat([self.held, chunk.samples], 1)
        whole = samples.shape[1] // HOP * HOP
        self.held = samples[:, whole:]
        if not whole:
            return None
        return self.encoder.forward(Waveform(samples[:, :whole], torch.tensor([whole]), chunk.sample_rate_hz), {})

    def finish(self) -> None:
        return None


class Writes(Decoder, nn.Module):
    """A head that leaves the frames as they are."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.head = nn.Linear(len(LETTERS), len(LETTERS), bias=False)
        nn.init.eye_(self.head.weight)
        self._vocabulary = vocabulary

    @property
    def consumes(self) -> Port:
        return Port("Encoded", {"d": len(LETTERS)})

    @property
    def produces(self) -> Port:
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        raise AssertionError("alignment decodes nothing")

    def save_files(self) -> Mapping[str, bytes]:
        return ctc.vocabulary_file(self._vocabulary)


class Streams(Config):
    """Whether it streams."""

    streams: bool = True


class Marks(Config):
    """Whether the vocabulary has a word boundary."""

    boundary: bool = True


def letters(config: Streams, ports: Ports) -> Letters:
    return Letters(streams=config.streams)


def writes(config: Marks, ports: Ports) -> Writes:
    return Writes(VOCABULARY if config.boundary else UNMARKED)


SLT_API = (1, 0)


@hookimpl
def slt_components() -> list[Component]:
    """Both."""
    rows = [("encoder", "letters", "letters", "Streams"), ("decoder", "writes", "writes", "Marks")]
    return [
        Component(kind, name, impl=f"alignment_toys:{impl}", config=f"alignment_toys:{config}", summary=f"toy {name}")
        for kind, name, impl, config in rows
    ]


def letters_registry(site: Any) -> Registry:
    """A registry of these components alone; `site` is a folder like site-packages."""
    site.add("letters", "from alignment_toys import SLT_API, slt_components\n")
    return Registry(path=[str(site.folder)])
